"""The APIs that the LLM stub can speak: each echoes the last message, whole or in two pieces."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from celery_lanes.llm.cost import estimate_tokens


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: what all dialects know of it."""

    path: str
    body: Mapping[str, Any]

    @property
    def messages(self) -> list[Any]:
        """The conversation, in the dialect's words."""
        return list(self.body.get("messages") or self.body.get("contents") or [{}])


class Dialect(Protocol):
    """One kind of API.

    Attributes:
        scheme: the DSN's.
        base_path: what goes between the host and the API's own paths.
        content_type: of a stream.
    """

    scheme: str
    base_path: str
    content_type: str

    def knows(self, path: str) -> bool:
        """Say whether it has such a path, beyond the base."""

    def is_stream(self, asked: Asked) -> bool:
        """Say whether the answer is to come in pieces."""

    def whole(self, asked: Asked, text: str) -> Mapping[str, Any]:
        """Write a reply."""

    def events(self, asked: Asked, text: str) -> Iterable[bytes]:
        """Write it as a stream."""


class OpenAI:
    """Chat completions."""

    scheme = "openai"
    base_path = "/v1"
    content_type = "text/event-stream"

    def knows(self, path: str) -> bool:
        """Say whether it has such a path."""
        return path == "/chat/completions"

    def is_stream(self, asked: Asked) -> bool:
        """Say whether the answer is to come in pieces."""
        return asked.body.get("stream") is True

    def whole(self, asked: Asked, text: str) -> Mapping[str, Any]:
        """Write a reply."""
        message = {"role": "assistant", "content": text}
        return {
            "object": "chat.completion",
            "model": asked.body.get("model"),
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": self._usage(text),
        }

    def events(self, asked: Asked, text: str) -> Iterable[bytes]:
        """Write it as a stream."""
        model = asked.body.get("model")
        for half in _halves(text):
            yield _sse({"model": model, "choices": [{"index": 0, "delta": {"content": half}}]})
        end = {"index": 0, "delta": {}, "finish_reason": "stop"}
        yield _sse({"model": model, "choices": [end]})
        yield _sse({"model": model, "choices": [], "usage": self._usage(text)})
        yield b"data: [DONE]\n\n"

    def _usage(self, text: str) -> dict[str, int]:
        tokens = estimate_tokens(text)
        return {"prompt_tokens": tokens, "completion_tokens": tokens}


class Anthropic:
    """Messages."""

    scheme = "anthropic"
    base_path = "/v1"
    content_type = "text/event-stream"

    def knows(self, path: str) -> bool:
        """Say whether it has such a path."""
        return path == "/messages"

    def is_stream(self, asked: Asked) -> bool:
        """Say whether the answer is to come in pieces."""
        return asked.body.get("stream") is True

    def whole(self, asked: Asked, text: str) -> Mapping[str, Any]:
        """Write a reply."""
        tokens = estimate_tokens(text)
        return {
            "type": "message",
            "role": "assistant",
            "model": asked.body.get("model"),
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": tokens, "output_tokens": tokens},
        }

    def events(self, asked: Asked, text: str) -> Iterable[bytes]:
        """Write it as a stream."""
        usage = {"input_tokens": estimate_tokens(text), "output_tokens": 1}
        begun = {**self.whole(asked, ""), "content": [], "stop_reason": None, "usage": usage}
        yield self._event("message_start", message=begun)
        block = {"type": "text", "text": ""}
        yield self._event("content_block_start", index=0, content_block=block)
        yield self._event("ping")
        for half in _halves(text):
            delta = {"type": "text_delta", "text": half}
            yield self._event("content_block_delta", index=0, delta=delta)
        yield self._event("content_block_stop", index=0)
        written = {"output_tokens": estimate_tokens(text)}
        yield self._event("message_delta", delta={"stop_reason": "end_turn"}, usage=written)
        yield self._event("message_stop")

    def _event(self, kind: str, **fields: Any) -> bytes:
        return f"event: {kind}\n".encode() + _sse({"type": kind, **fields})


class Gemini:
    """generateContent."""

    scheme = "gemini"
    base_path = "/v1beta"
    content_type = "text/event-stream"

    def knows(self, path: str) -> bool:
        """Say whether it has such a path."""
        return bool(_GEMINI.fullmatch(path))

    def is_stream(self, asked: Asked) -> bool:
        """Say whether the answer is to come in pieces."""
        return asked.path.endswith(":streamGenerateContent?alt=sse")

    def whole(self, asked: Asked, text: str) -> Mapping[str, Any]:
        """Write a reply."""
        tokens = estimate_tokens(text)
        usage = {"promptTokenCount": tokens, "candidatesTokenCount": tokens}
        return {**self._part(asked, text, finishReason="STOP"), "usageMetadata": usage}

    def events(self, asked: Asked, text: str) -> Iterable[bytes]:
        """Write it as a stream."""
        first, second = _halves(text)
        yield _sse(self._part(asked, first))
        yield _sse(self._part(asked, second))
        usage = self.whole(asked, text)["usageMetadata"]
        yield _sse({**self._part(asked, "", finishReason="STOP"), "usageMetadata": usage})

    def _part(self, asked: Asked, text: str, **more: Any) -> dict[str, Any]:
        content = {"role": "model", "parts": [{"text": text}]}
        model = _GEMINI.fullmatch(asked.path)
        candidate = {"content": content, "index": 0, **more}
        return {"candidates": [candidate], "modelVersion": model and model[1]}


class Ollama:
    """/api/chat."""

    scheme = "ollama"
    base_path = ""
    content_type = "application/x-ndjson"

    def knows(self, path: str) -> bool:
        """Say whether it has such a path."""
        return path == "/api/chat"

    def is_stream(self, asked: Asked) -> bool:
        """Say whether the answer is to come in pieces, as it does by default."""
        return asked.body.get("stream") is not False

    def whole(self, asked: Asked, text: str) -> Mapping[str, Any]:
        """Write a reply."""
        tokens = estimate_tokens(text)
        counted = {"prompt_eval_count": tokens, "eval_count": tokens}
        return {**self._piece(asked, text), "done": True, "done_reason": "stop", **counted}

    def events(self, asked: Asked, text: str) -> Iterable[bytes]:
        """Write it as a stream."""
        for half in _halves(text):
            yield _line(self._piece(asked, half))
        message = {"role": "assistant", "content": ""}
        yield _line({**self.whole(asked, text), "message": message})

    def _piece(self, asked: Asked, text: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        return {"model": asked.body.get("model"), "message": message, "done": False}


class Foreman(Ollama):
    """The same as Ollama's."""

    scheme = "foreman"


DIALECTS: tuple[Dialect, ...] = (OpenAI(), Anthropic(), Gemini(), Ollama(), Foreman())

_GEMINI = re.compile(r"/models/([^/:]+):(?:generateContent|streamGenerateContent\?alt=sse)")


def prompt(asked: Asked) -> str:
    """Find the last message's text, in the words of any dialect."""
    last = asked.messages[-1]
    parts = last.get("parts") or last.get("content") or ""
    return parts if isinstance(parts, str) else "".join(str(p.get("text", "")) for p in parts)


def model(asked: Asked) -> Any:
    """Find the model's name."""
    in_path = _GEMINI.search(asked.path)
    return in_path[1] if in_path else asked.body.get("model")


def _halves(text: str) -> tuple[str, str]:
    middle = len(text) // 2
    return text[:middle], text[middle:]


def _sse(event: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _line(event: Mapping[str, Any]) -> bytes:
    return json.dumps(event).encode() + b"\n"
