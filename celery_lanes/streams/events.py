"""What a reader of a stream is told."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from celery_lanes.errors import ProviderError
from celery_lanes.llm.reply import (
    FinishReason,
    ReasoningDelta,
    Reply,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from celery_lanes.llm.value import Told


class Began(Told):
    """A worker has begun to answer. ``restart``: anew; what came before is void.

    Attributes:
        attempt: how often it has begun by now.
    """

    type: Literal["start", "restart"] = "start"
    attempt: int = 1


class Gap(Told):
    """Something that came is not here any more: too much came since, or it was too long ago.

    What follows does not join on to what was read; the result has all of it.
    """

    type: Literal["gap"] = "gap"


class Finished(Told):
    """The end of a reply."""

    type: Literal["done"] = "done"
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    model: str | None = None


class Failed(Told):
    """The end: the call has failed.

    Attributes:
        error_class: the exception's name.
        message: what it says.
        attempts: whom a chain asked or passed by, as in ``ProviderError.attempts``.
    """

    type: Literal["error"] = "error"
    error_class: str
    message: str = ""
    attempts: tuple[Mapping[str, Any], ...] = ()


class Cancelled(Told):
    """The end: nobody wanted the rest. ``usage`` as far as it is known."""

    type: Literal["cancelled"] = "cancelled"
    usage: Usage | None = None


Piece = TextDelta | ReasoningDelta | ToolCallDelta
Ending = Finished | Failed | Cancelled
What = Piece | Began | Gap | Ending

_KINDS: Mapping[str, type[What]] = {
    "text": TextDelta,
    "reasoning": ReasoningDelta,
    "tool_call": ToolCallDelta,
    "start": Began,
    "restart": Began,
    "done": Finished,
    "error": Failed,
    "cancelled": Cancelled,
}


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that a reader is told.

    Attributes:
        id: its name: ``lanes.stream(result, after=event.id)`` goes on after it, anywhere.
        what: a piece of the reply (``TextDelta``, ``ReasoningDelta``, ``ToolCallDelta``),
            ``Began``, ``Gap``, or the end: ``Finished``, ``Failed`` or ``Cancelled``.
    """

    id: str
    what: What

    @property
    def type(self) -> str:
        """What it is, in a word: text, reasoning, tool_call, start, restart, gap, done, ..."""
        return self.what.type

    @property
    def text(self) -> str:
        """The words, if it brings some; else "" (thoughts are no words)."""
        return self.what.text if isinstance(self.what, TextDelta) else ""

    @property
    def is_last(self) -> bool:
        """Whether nothing follows."""
        return isinstance(self.what, (Finished, Failed, Cancelled))

    @property
    def data(self) -> str:
        """All of it but its name, as JSON in one line: the data of a server-sent event."""
        return json.dumps(to_json(self.what))


def to_json(what: What) -> dict[str, Any]:
    """Write an event."""
    return what.model_dump(mode="json", exclude_none=True)


def from_json(told: object) -> What | None:
    """Read an event; ``None`` for a kind that only a newer version knows."""
    kind = _KINDS.get(str(told.get("type"))) if isinstance(told, Mapping) else None
    return kind.model_validate(told) if kind is not None else None


def finished(reply: Reply) -> Ending:
    """Say that a reply has ended, well or because it was made to."""
    if reply.finish_reason == "cancelled":
        return Cancelled(usage=reply.usage)
    return Finished(finish_reason=reply.finish_reason, usage=reply.usage, model=reply.model)


def failed(error: BaseException) -> Failed:
    """Say that a call has failed."""
    attempts = tuple(error.attempts) if isinstance(error, ProviderError) else ()
    return Failed(error_class=type(error).__name__, message=_words(error), attempts=attempts)


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 # whatever is wrong with a user's own error
        return "its message cannot be read"


def merged(pieces: Iterable[Piece]) -> list[Piece]:
    """Join pieces that follow each other and go on with the same text, thought or tool call."""
    joined: list[Piece] = []
    for piece in pieces:
        both = _joined(joined[-1], piece) if joined else None
        joined[-1:] = [both] if both is not None else [*joined[-1:], piece]
    return joined


def _joined(one: Piece, other: Piece) -> Piece | None:
    match one, other:
        case TextDelta(), TextDelta():
            return TextDelta(text=one.text + other.text)
        case ReasoningDelta(signature=None), ReasoningDelta():
            if one.is_redacted == other.is_redacted:
                return other.model_copy(update={"text": one.text + other.text})
        case ToolCallDelta(), ToolCallDelta() if one.index == other.index:
            return ToolCallDelta(
                index=one.index,
                id=one.id or other.id,
                name=one.name or other.name,
                arguments=one.arguments + other.arguments,
                signature=one.signature or other.signature,
            )
    return None
