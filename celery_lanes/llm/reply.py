"""What a model answers: whole, or piece by piece."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, Field

from celery_lanes.llm.ledger import Attempt
from celery_lanes.llm.messages import Message, Part, Reasoning, Text, ToolCall
from celery_lanes.llm.value import Told
from celery_lanes.store.quota import Quota

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "cancelled", "other"]

Model = TypeVar("Model", bound=BaseModel)


class Usage(Told):
    """Tokens that a provider charges for.

    Attributes:
        input_tokens: all that were read, cached ones too.
        output_tokens: all that were written, reasoning too.
        cached_tokens: of the input, what came out of a cache.
        reasoning_tokens: of the output, what was thought; 0 where the provider does not say.
        is_estimated: the provider left out a number, and it was guessed from the text.
    """

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    is_estimated: bool = False


class Reply(Told):
    """What a provider answered.

    Attributes:
        text: the words; JSON if the request had an ``output``.
        tool_calls: what the model wants to have called.
        reasoning: what it thought, as far as the provider shows it.
        usage: what it costs.
        model: the one that the provider says it used.
        finish_reason: why it ended; ``None`` where the provider does not say, "cancelled" where it
            was made to end.
        request_id: the provider's name for the request, for its support.
        attempts: whom a chain asked or passed by for it, in order; the last is who answered.
        quotas: what is left of the account's limits, as the provider said with it. Not in JSON.
    """

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: tuple[Reasoning, ...] = ()
    usage: Usage
    model: str
    finish_reason: FinishReason | None = None
    request_id: str | None = None
    attempts: tuple[Attempt, ...] = ()
    quotas: tuple[Quota, ...] = Field(default=(), exclude=True, repr=False)

    def as_message(self) -> Message:
        """Make the assistant's turn of it, to go on with the conversation."""
        words: tuple[Part, ...] = (Text(text=self.text),) if self.text else ()
        return Message(role="assistant", content=(*self.reasoning, *words, *self.tool_calls))

    def parsed(self, kind: type[Model]) -> Model:
        """Read the text as JSON of this model. Raises pydantic's ``ValidationError``."""
        return kind.model_validate_json(self.text)


class TextDelta(Told):
    """More words."""

    type: Literal["text"] = "text"
    text: str


class ReasoningDelta(Told):
    """More thoughts; one with a signature ends a thought."""

    type: Literal["reasoning"] = "reasoning"
    text: str = ""
    signature: str | None = Field(default=None, repr=False)
    is_redacted: bool = False


class ToolCallDelta(Told):
    """More of a tool call; ``arguments`` is a piece of JSON.

    Attributes:
        index: which call, from 0; calls may come interleaved.
    """

    type: Literal["tool_call"] = "tool_call"
    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    signature: str | None = Field(default=None, repr=False)


class Done(Told):
    """The end, always the last: all of it."""

    type: Literal["done"] = "done"
    reply: Reply


Piece = TextDelta | ReasoningDelta | ToolCallDelta
Delta = Annotated[Piece | Done, Field(discriminator="type")]
