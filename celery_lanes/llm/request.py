"""What a model is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from celery_lanes.llm.messages import Message
from celery_lanes.llm.value import Value

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
"""How hard to think; a provider that has fewer steps takes its nearest."""

_Count = Annotated[int, Field(strict=True, gt=0)]
_Probability = Annotated[float, Field(gt=0, le=1)]
_Penalty = Annotated[float, Field(ge=-2, le=2)]


class Tool(Value):
    """A function that the model may ask to have called; OpenAI's own form is understood, too.

    Attributes:
        name: up to 64 letters, digits, ``_`` and ``-``.
        description: when to use it, for the model.
        parameters: the JSON schema of its arguments, an object.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str = ""
    parameters: dict[str, Any] = Field(
        default_factory=lambda: {"type": "object", "properties": {}},
    )

    @model_validator(mode="before")
    @classmethod
    def _unwrap(cls, given: Any) -> Any:
        return _without_wrapping(given)


class ToolName(Value):
    """The one tool that the model must call."""

    name: str

    @model_validator(mode="before")
    @classmethod
    def _unwrap(cls, given: Any) -> Any:
        return _without_wrapping(given)


class Schema(Value):
    """The form of the reply.

    Attributes:
        json_schema: of an object.
        name: for the provider's messages.
        is_strict: promises OpenAI's rules: every object is closed, every property required.
    """

    json_schema: dict[str, Any]
    name: str = Field(default="reply", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    is_strict: bool = False

    @classmethod
    def of(cls, given: Schema | type[BaseModel] | Mapping[str, Any]) -> Schema:
        """Take a schema as it is, also as JSON, or make a strict one of a pydantic model."""
        if isinstance(given, Schema):
            return given
        if isinstance(given, Mapping):
            is_whole = "json_schema" in given
            return cls.model_validate(given) if is_whole else cls(json_schema=dict(given))
        return cls(json_schema=_closed(given.model_json_schema()), is_strict=True)


class Request(Value):
    """What a model is asked.

    What says how to answer (the numbers and ``effort``) is a wish: a provider that does not know
    it is not told. What says what to answer (files, tools, ``output``) is not: a provider that
    cannot do it raises ``Unsupported``.

    Attributes:
        model: the provider's own name of the model, verbatim.
        messages: the conversation, oldest first.
        tools: what the model may ask to have called.
        tool_choice: whether it may (``auto``), must (``required``) or must not (``none``), or the
            name of the one that it must; ``None`` leaves it to the provider.
        output: the form of the reply; ``None`` for plain text.
        effort: how hard to think.
        max_tokens: at most so many output tokens.
        temperature: ``None`` leaves it to the provider, as with all that follow.
        params: further fields of the provider's own, passed on as they are.
    """

    model: str = Field(min_length=1)
    messages: tuple[Message, ...] = Field(min_length=1)
    tools: tuple[Tool, ...] = ()
    tool_choice: Literal["auto", "none", "required"] | ToolName | None = None
    output: Schema | None = None
    effort: Effort | None = None
    max_tokens: _Count | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: _Probability | None = None
    top_k: _Count | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    params: dict[str, Any] = Field(default_factory=dict)

    @field_validator("stop", mode="before")
    @classmethod
    def _of_one(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given

    @property
    def system(self) -> str:
        """What the system's messages say, for wires that have one place for it."""
        texts = [m.text for m in self.messages if m.role in {"system", "developer"}]
        return "\n\n".join(texts)

    @property
    def turns(self) -> tuple[Message, ...]:
        """The messages without the system's."""
        return tuple(m for m in self.messages if m.role not in {"system", "developer"})


def checked_request(given: object) -> Request:
    """Take what is to be asked. Raises ``TypeError``, before anybody is, for what is no request."""
    if isinstance(given, Request):
        return given
    raise TypeError(
        f"expected a celery_lanes.llm.Request, got {type(given).__name__}: Request(model=...,"
        ' messages=[Message(role="user", content="...")])'
    )


def _without_wrapping(given: Any) -> Any:
    """Take ``{"type": "function", "function": {...}}`` for what is within."""
    if isinstance(given, Mapping) and given.keys() == {"type", "function"}:
        inner: Any = given["function"]
        return inner
    return given


def _closed(schema: Any) -> Any:
    """Close every object of a schema, and require all of its properties."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(schema.get("$ref"), str):  # strict servers take nothing beside it
        return {"$ref": schema["$ref"]}
    closed = {k: _closed(v) for k, v in schema.items() if not (k == "default" and v is None)}
    properties = closed.get("properties")
    if closed.get("type") == "object" and isinstance(properties, dict):
        closed |= {"additionalProperties": False, "required": list(properties)}
    return closed
