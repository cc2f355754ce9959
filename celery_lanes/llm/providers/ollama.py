"""Ollama's own API, ``/api/chat``: local, or at ollama.com."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from celery_lanes.llm.assembly import Assembly
from celery_lanes.llm.capabilities import Capabilities
from celery_lanes.llm.dsn import Dsn
from celery_lanes.llm.fields import count, mapping, mappings, string
from celery_lanes.llm.http.client import Transport
from celery_lanes.llm.http.framing import Framing, ndjson
from celery_lanes.llm.http.remote import HttpProvider
from celery_lanes.llm.http.wire import NoReply, Question, given, merged
from celery_lanes.llm.messages import Image, Message, ToolCall, ToolResult
from celery_lanes.llm.provider import TIMEOUT_S
from celery_lanes.llm.reply import FinishReason, Piece, ReasoningDelta, TextDelta, ToolCallDelta
from celery_lanes.llm.request import Effort, Request

_FINISH: Mapping[str, FinishReason] = {"stop": "stop", "length": "length"}
_THINK: Mapping[Effort, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
}


def ollama_provider(
    name: str, dsn: Dsn, *, timeout_s: float = TIMEOUT_S, transport: Transport | None = None
) -> HttpProvider:
    """Make a provider of an Ollama server."""
    dsn.known_options(name)
    return HttpProvider(name, dsn, OllamaWire(), timeout_s=timeout_s, transport=transport)


@dataclass(frozen=True, slots=True)
class OllamaWire:
    """Ollama's format; an event of a stream is shaped as a whole reply."""

    capabilities: Capabilities = field(
        default_factory=lambda: Capabilities(
            tool_choice=False, image_urls=False, files=False, file_urls=False
        )
    )
    framing: Framing = ndjson

    def headers(self, token: str) -> Mapping[str, str]:
        """Give the headers of each request."""
        return {"Authorization": f"Bearer {token}"} if token else {}

    def question(self, request: Request, *, is_stream: bool) -> Question:
        """Write a request; without a way to say so, a model that must not call sees no tools."""
        tools = () if request.tool_choice == "none" else request.tools
        body = {
            "model": request.model,
            "messages": [one for message in request.messages for one in _message(message)],
            "stream": is_stream,  # it would stream by default
            **given(
                tools=[{"type": "function", "function": t.model_dump()} for t in tools] or None,
                format=request.output.json_schema if request.output else None,
                options=_options(request) or None,
            ),
        }
        if request.effort is not None:
            body["think"] = _THINK[request.effort]
        return Question("/api/chat", merged(body, request.params))

    def read(self, payload: Mapping[str, Any], into: Assembly) -> Iterator[Piece]:
        """Read a whole reply."""
        if not isinstance(payload.get("message"), Mapping):
            raise NoReply("answered oddly: no message in the reply")
        yield from self.read_event(payload, into)

    def read_event(self, event: Mapping[str, Any], into: Assembly) -> Iterator[Piece]:
        """Read one event; the last one counts the tokens."""
        into.model = string(event.get("model")) or into.model
        message = mapping(event.get("message"))
        if thought := string(message.get("thinking")):
            yield ReasoningDelta(text=thought)
        if text := string(message.get("content")):
            yield TextDelta(text=text)
        for call in mappings(message.get("tool_calls")):
            yield _call_piece(call, into)
        if event.get("done") is True:
            _read_end(event, into)


def _message(message: Message) -> Iterator[dict[str, Any]]:
    """Write a message; each tool's result is one of its own."""
    if message.role == "tool":
        for part in message.parts:
            if isinstance(part, ToolResult):
                yield {"role": "tool", "tool_name": part.name, "content": part.content}
        return
    role = "system" if message.role == "developer" else message.role
    images = [part.data for part in message.parts if isinstance(part, Image)]
    calls = [_call(part) for part in message.parts if isinstance(part, ToolCall)]
    written = {"role": role, "content": message.text}
    yield {**written, **given(images=images or None, tool_calls=calls or None)}


def _call(call: ToolCall) -> dict[str, Any]:
    arguments = call.arguments if isinstance(call.arguments, dict) else {}
    return {"function": {"name": call.name, "arguments": arguments}}


def _options(request: Request) -> dict[str, Any]:
    return given(
        num_predict=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        stop=list(request.stop) or None,
        seed=request.seed,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
    )


def _call_piece(call: Mapping[str, Any], into: Assembly) -> ToolCallDelta:
    function = mapping(call.get("function"))
    return ToolCallDelta(
        index=into.next_index,
        id=string(call.get("id")) or None,
        name=string(function.get("name")),
        arguments=_arguments(function.get("arguments")),
    )


def _arguments(arguments: object) -> str:
    """Take the object, or its text, which some relatives send."""
    return arguments if isinstance(arguments, str) else json.dumps(arguments or {})


def _read_end(event: Mapping[str, Any], into: Assembly) -> None:
    """Read the last event; a prompt that was cached may not be counted."""
    into.has_ended = True
    into.input_tokens = count(event.get("prompt_eval_count"))
    into.output_tokens = count(event.get("eval_count"))
    if reason := string(event.get("done_reason")):
        finish = _FINISH.get(reason, "other")
        into.finish_reason = "tool_calls" if finish == "stop" and into.has_calls else finish
