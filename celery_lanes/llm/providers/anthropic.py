"""Anthropic's Messages API."""

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
from celery_lanes.llm.http.framing import Framing, server_sent_events
from celery_lanes.llm.http.remote import HttpProvider
from celery_lanes.llm.http.wire import NoReply, Question, given, joined, merged
from celery_lanes.llm.messages import (
    Blob,
    File,
    Image,
    Message,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
)
from celery_lanes.llm.reply import FinishReason, Piece, ReasoningDelta, TextDelta, ToolCallDelta
from celery_lanes.llm.request import Effort, Request, Tool, ToolName

VERSION = "2023-06-01"

DEFAULT_MAX_TOKENS = 8192
"""What is asked for where the request leaves it open: this API must be told."""

_FINISH: Mapping[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_EFFORT: Mapping[Effort, str] = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
}
_LEAST_TOP_P = 0.95
"""The least that is taken from who lets it think."""

_CHOICE = {"auto": "auto", "none": "none", "required": "any"}


def anthropic_provider(name: str, dsn: Dsn, *, transport: Transport | None = None) -> HttpProvider:
    """Make a provider of an account at Anthropic, or at who speaks its API."""
    dsn.known_options(name)
    return HttpProvider(name, dsn, AnthropicWire(), transport=transport)


@dataclass(frozen=True, slots=True)
class AnthropicWire:
    """Anthropic's format."""

    capabilities: Capabilities = field(default_factory=Capabilities)
    framing: Framing = server_sent_events

    def headers(self, token: str) -> Mapping[str, str]:
        """Give the headers of each request."""
        key = {"x-api-key": token} if token else {}
        return {"anthropic-version": VERSION, **key}

    def question(self, request: Request, *, is_stream: bool) -> Question:
        """Write a request."""
        body = {
            "model": request.model,
            "max_tokens": request.max_tokens or DEFAULT_MAX_TOKENS,
            "messages": joined(map(_message, request.turns), "content"),
            **_sampling(request),
            **given(
                system=request.system,
                stop_sequences=list(request.stop) or None,
                tools=[_tool(tool) for tool in request.tools] or None,
                tool_choice=_choice(request.tool_choice),
                thinking={"type": "adaptive"} if _thinks(request) else None,
                output_config=_output(request) or None,
                stream=is_stream or None,
            ),
        }
        return Question("/messages", merged(body, request.params, "system"))

    def read(self, payload: Mapping[str, Any], into: Assembly) -> Iterator[Piece]:
        """Read a whole reply."""
        if not isinstance(payload.get("content"), list):
            raise NoReply("answered oddly: no content in the reply")
        _read_message(payload, into)
        for index, block in enumerate(mappings(payload["content"])):
            yield from _block(index, block)

    def read_event(self, event: Mapping[str, Any], into: Assembly) -> Iterator[Piece]:
        """Read one event: a message begins, its blocks begin and grow, it ends."""
        match event.get("type"):
            case "message_start":
                _read_message(mapping(event.get("message")), into)
            case "content_block_start":
                index = count(event.get("index")) or 0
                yield from _block(index, mapping(event.get("content_block")), is_start=True)
            case "content_block_delta":
                yield from _growth(count(event.get("index")) or 0, mapping(event.get("delta")))
            case "message_delta":
                ends = mapping(event.get("delta"))
                _read_message({**ends, "usage": event.get("usage")}, into)
            case "message_stop":
                into.has_ended = True


def _message(message: Message) -> dict[str, Any]:
    """Write a turn; a tool's results are the user's here."""
    role = "assistant" if message.role == "assistant" else "user"
    if isinstance(message.content, str):
        return {"role": role, "content": message.content}
    return {"role": role, "content": [b for part in message.content for b in _written(part)]}


def _written(part: Part) -> Iterator[dict[str, Any]]:
    """Write a part; empty texts and thoughts of other providers would be refused: left out."""
    match part:
        case Text(text=text) if text:
            yield {"type": "text", "text": text}
        case Reasoning(signature=str() as signature):
            yield _thought(part, signature)
        case Image():
            yield {"type": "image", "source": _source(part)}
        case File():
            yield {"type": "document", "source": _source(part), **given(title=part.name)}
        case ToolCall():
            arguments = part.arguments if isinstance(part.arguments, dict) else {}
            yield {"type": "tool_use", "id": part.id, "name": part.name, "input": arguments}
        case ToolResult():
            failed = {"is_error": True} if part.is_error else {}
            result = {"type": "tool_result", "tool_use_id": part.id, "content": part.content}
            yield {**result, **failed}


def _thought(part: Reasoning, signature: str) -> dict[str, Any]:
    if part.is_redacted:
        return {"type": "redacted_thinking", "data": signature}
    return {"type": "thinking", "thinking": part.text, "signature": signature}


def _source(blob: Blob) -> dict[str, Any]:
    if blob.url is not None:
        return {"type": "url", "url": blob.url}
    return {"type": "base64", "media_type": blob.media_type, "data": blob.data}


def _tool(tool: Tool) -> dict[str, Any]:
    described = {"name": tool.name, **given(description=tool.description)}
    return {**described, "input_schema": tool.parameters}


def _choice(choice: ToolName | str | None) -> dict[str, Any] | None:
    if isinstance(choice, ToolName):
        return {"type": "tool", "name": choice.name}
    return {"type": _CHOICE[choice]} if choice else None


def _thinks(request: Request) -> bool:
    """Let it think, or say nothing: what always thinks refuses to be told not to.

    It cannot think and be made to call a tool: what is asked for goes before how.
    """
    return request.effort in _EFFORT and request.tool_choice in {None, "auto", "none"}


def _sampling(request: Request) -> dict[str, Any]:
    """Write the numbers that go with thinking, or without it all: others would be refused."""
    if _thinks(request):
        return given(top_p=request.top_p if (request.top_p or 0) >= _LEAST_TOP_P else None)
    return given(temperature=request.temperature, top_p=request.top_p, top_k=request.top_k)


def _output(request: Request) -> dict[str, Any]:
    schema = request.output.json_schema if request.output else None
    return given(
        effort=_EFFORT.get(request.effort) if request.effort else None,
        format={"type": "json_schema", "schema": schema} if schema is not None else None,
    )


def _read_message(message: Mapping[str, Any], into: Assembly) -> None:
    into.model = string(message.get("model")) or into.model
    _read_usage(mapping(message.get("usage")), into)
    if reason := string(message.get("stop_reason")):
        into.finish_reason = _FINISH.get(reason, "other")


def _read_usage(usage: Mapping[str, Any], into: Assembly) -> None:
    """Take what is told; cached input is told apart from the rest here."""
    fresh, written = count(usage.get("input_tokens")), count(usage.get("output_tokens"))
    cached = count(usage.get("cache_read_input_tokens")) or 0
    if fresh is not None:
        stored = count(usage.get("cache_creation_input_tokens")) or 0
        into.input_tokens, into.cached_tokens = fresh + stored + cached, cached
    into.output_tokens = into.output_tokens if written is None else written


def _block(index: int, block: Mapping[str, Any], *, is_start: bool = False) -> Iterator[Piece]:
    """Read a block; in a stream, what it begins with, which is empty but for its name."""
    match block.get("type"):
        case "text" if text := string(block.get("text")):
            yield TextDelta(text=text)
        case "thinking" if not is_start:
            thought = string(block.get("thinking")) or ""
            yield ReasoningDelta(text=thought, signature=string(block.get("signature")))
        case "redacted_thinking":
            yield ReasoningDelta(signature=string(block.get("data")), is_redacted=True)
        case "tool_use":
            yield ToolCallDelta(
                index=index,
                id=string(block.get("id")),
                name=string(block.get("name")),
                arguments="" if is_start else json.dumps(block.get("input") or {}),
            )


def _growth(index: int, delta: Mapping[str, Any]) -> Iterator[Piece]:
    match delta.get("type"):
        case "text_delta":
            yield TextDelta(text=string(delta.get("text")) or "")
        case "thinking_delta":
            yield ReasoningDelta(text=string(delta.get("thinking")) or "")
        case "signature_delta":
            yield ReasoningDelta(signature=string(delta.get("signature")))
        case "input_json_delta":
            yield ToolCallDelta(index=index, arguments=string(delta.get("partial_json")) or "")
