"""Pieces of a reply, put together as they come."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from celery_lanes.llm.cost import estimate_input, estimate_tokens
from celery_lanes.llm.messages import Reasoning, ToolCall
from celery_lanes.llm.reply import (
    FinishReason,
    Piece,
    ReasoningDelta,
    Reply,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from celery_lanes.llm.request import Request
from celery_lanes.store.quota import Quota


@dataclass(slots=True)
class Assembly:
    """A reply that is being read; a whole one is one that comes in few pieces.

    What the provider has not told is ``None``: tokens are estimated then.
    """

    request: Request
    model: str | None = None
    finish_reason: FinishReason | None = None
    request_id: str | None = None
    quotas: tuple[Quota, ...] = ()
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    has_ended: bool = False
    _text: list[str] = field(default_factory=list)
    _thoughts: list[_Thought] = field(default_factory=list)
    _calls: dict[int, _Call] = field(default_factory=dict)

    @property
    def has_begun(self) -> bool:
        """Whether any piece came."""
        return bool(self._text or self._thoughts or self._calls)

    @property
    def is_complete(self) -> bool:
        """Whether the provider has said that this is all."""
        return self.has_ended or self.finish_reason is not None

    @property
    def has_calls(self) -> bool:
        """Whether a tool call came."""
        return bool(self._calls)

    def is_taken(self, index: int, name: str) -> bool:
        """Whether a tool call with this index has another id."""
        call = self._calls.get(index)
        return call is not None and call.id not in {None, name}

    @property
    def next_index(self) -> int:
        """The index of a tool call that is new."""
        return max(self._calls, default=-1) + 1

    def add(self, piece: Piece) -> None:
        """Put a piece to the others."""
        match piece:
            case TextDelta():
                self._text.append(piece.text)
            case ReasoningDelta():
                self._think(piece)
            case ToolCallDelta():
                self._calls.setdefault(piece.index, _Call()).add(piece)

    def reply(self) -> Reply:
        """Give what there is so far."""
        return Reply(
            text="".join(self._text),
            tool_calls=tuple(call.made(index) for index, call in sorted(self._calls.items())),
            reasoning=tuple(thought.made() for thought in self._thoughts),
            usage=self._usage(),
            model=self.model or self.request.model,
            finish_reason=self.finish_reason,
            request_id=self.request_id,
            quotas=self.quotas,
        )

    def _think(self, piece: ReasoningDelta) -> None:
        if not self._thoughts or self._thoughts[-1].signature is not None:
            self._thoughts.append(_Thought())
        self._thoughts[-1].add(piece)

    def _usage(self) -> Usage:
        read, written = self.input_tokens, self.output_tokens
        return Usage(
            input_tokens=estimate_input(self.request.messages) if read is None else read,
            output_tokens=self._estimate_output() if written is None else written,
            cached_tokens=self.cached_tokens or 0,
            reasoning_tokens=self.reasoning_tokens or 0,
            is_estimated=read is None or written is None,
        )

    def _estimate_output(self) -> int:
        thoughts = (text for thought in self._thoughts for text in thought.text)
        arguments = (text for call in self._calls.values() for text in call.arguments)
        return estimate_tokens("".join((*self._text, *thoughts, *arguments)))


@dataclass(slots=True)
class _Thought:
    text: list[str] = field(default_factory=list)
    signature: str | None = None
    is_redacted: bool = False

    def add(self, piece: ReasoningDelta) -> None:
        self.text.append(piece.text)
        self.signature = piece.signature
        self.is_redacted = piece.is_redacted

    def made(self) -> Reasoning:
        text = "".join(self.text)
        return Reasoning(text=text, signature=self.signature, is_redacted=self.is_redacted)


@dataclass(slots=True)
class _Call:
    id: str | None = None
    name: str | None = None
    signature: str | None = None
    arguments: list[str] = field(default_factory=list)

    def add(self, piece: ToolCallDelta) -> None:
        self.id = self.id or piece.id
        self.name = self.name or piece.name
        self.signature = self.signature or piece.signature
        self.arguments.append(piece.arguments)

    def made(self, index: int) -> ToolCall:
        return ToolCall(
            id=self.id or f"call_{index}",
            name=self.name or "",
            arguments=_arguments("".join(self.arguments)),
            signature=self.signature,
        )


def _arguments(text: str) -> dict[str, Any] | str:
    """Read what a model wrote, which may be anything, or be cut off.

    What could not be sent on as JSON stays the text that it is: numbers that are none, half
    characters, brackets without end.
    """
    try:
        read = json.loads(text) if text.strip() else {}
        json.dumps(read, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return text
    return read if isinstance(read, dict) else text
