"""A conversation: messages, and the parts that they consist of."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from celery_lanes.llm.value import Value

Role = Literal["system", "developer", "user", "assistant", "tool"]
"""``developer`` is what OpenAI calls ``system``; elsewhere it is the same."""


class Text(Value):
    """Words."""

    type: Literal["text"] = "text"
    text: str


class Blob(Value):
    """Bytes, or the URL of them: exactly one of the two.

    Attributes:
        data: the bytes in base64.
        url: where the provider finds them; not all providers fetch any.
        media_type: such as ``image/png``; needed with ``data``.
    """

    data: str | None = Field(default=None, repr=False)
    url: str | None = None
    media_type: str | None = None

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Blob:
        if (self.data is None) == (self.url is None):
            raise ValueError("expected either data or url")
        if self.data is not None and not self.media_type:
            raise ValueError("expected a media_type with data")
        return self

    @model_validator(mode="after")
    def _is_base64(self) -> Blob:
        try:
            base64.b64decode(self.data or "", validate=True)
        except binascii.Error:
            raise ValueError("expected data in base64") from None
        return self

    @property
    def as_url(self) -> str:
        """Its URL, or one that holds the data."""
        return self.url or f"data:{self.media_type};base64,{self.data}"


class Image(Blob):
    """A picture."""

    type: Literal["image"] = "image"

    @classmethod
    def from_bytes(cls, content: bytes, media_type: str) -> Image:
        """Make one of a file's content."""
        return cls(data=base64.b64encode(content).decode(), media_type=media_type)


class File(Blob):
    """A document, such as a PDF."""

    type: Literal["file"] = "file"
    name: str | None = None

    @classmethod
    def from_bytes(cls, content: bytes, media_type: str, name: str | None = None) -> File:
        """Make one of a file's content."""
        return cls(data=base64.b64encode(content).decode(), media_type=media_type, name=name)


class Reasoning(Value):
    """What a model thought; goes back to it with its tool calls.

    Attributes:
        text: its words, or a summary; "" if the provider shows none.
        signature: the provider's proof that they are its own. Without one they are not sent back.
        is_redacted: the signature is all that there is.
    """

    type: Literal["reasoning"] = "reasoning"
    text: str = ""
    signature: str | None = Field(default=None, repr=False)
    is_redacted: bool = False


class ToolCall(Value):
    """A model's wish to have a tool called.

    Attributes:
        id: names the call in its result; made up here where the provider gives none.
        name: the tool's.
        arguments: a JSON object, or the text itself where the model wrote none.
        signature: as of ``Reasoning``.
    """

    type: Literal["tool_call"] = "tool_call"
    id: str
    name: str
    arguments: dict[str, Any] | str = Field(default_factory=dict)
    signature: str | None = Field(default=None, repr=False)


class ToolResult(Value):
    """What a tool answered; ``id`` and ``name`` are those of its call."""

    type: Literal["tool_result"] = "tool_result"
    id: str
    name: str
    content: str
    is_error: bool = False


Part = Annotated[
    Text | Image | File | Reasoning | ToolCall | ToolResult, Field(discriminator="type")
]

_PARTS: dict[str, tuple[type[Value], ...]] = {
    "system": (Text,),
    "developer": (Text,),
    "user": (Text, Image, File),
    "assistant": (Text, Reasoning, ToolCall),
    "tool": (ToolResult,),
}


class Message(Value):
    """One turn of a conversation: a text, or parts that its role can have."""

    role: Role
    content: str | tuple[Part, ...]

    @model_validator(mode="after")
    def _has_parts_of_its_role(self) -> Message:
        allowed = _PARTS[self.role]
        if not all(isinstance(part, allowed) for part in self.parts):
            names = " or ".join(kind.model_fields["type"].default for kind in allowed)
            raise ValueError(f"expected only parts of type {names} of a {self.role}")
        return self

    @property
    def parts(self) -> tuple[Part, ...]:
        """Its parts, also if it is a text."""
        return (Text(text=self.content),) if isinstance(self.content, str) else self.content

    @property
    def text(self) -> str:
        """Its words, without what else it has."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))
