"""Chat completions in OpenAI's format, which most providers and local servers speak."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from celery_lanes.llm.assembly import Assembly
from celery_lanes.llm.capabilities import Capabilities
from celery_lanes.llm.dsn import Dsn
from celery_lanes.llm.fields import count, mapping, mappings, string
from celery_lanes.llm.http import refusals
from celery_lanes.llm.http.client import Transport
from celery_lanes.llm.http.framing import Framing, server_sent_events
from celery_lanes.llm.http.remote import HttpProvider
from celery_lanes.llm.http.wire import NoReply, Question, given, merged
from celery_lanes.llm.messages import (
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
from celery_lanes.llm.request import Request, Schema, Tool, ToolName

PATH = "/chat/completions"

MAX_TOKENS_FIELD = "max_tokens_field"
"""The DSN option that names the field for ``max_tokens``."""

_FINISH: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


def openai_provider(name: str, dsn: Dsn, *, transport: Transport | None = None) -> HttpProvider:
    """Make a provider of an OpenAI-compatible server.

    Args:
        name: what stands before the slash in ``provider/model``.
        dsn: its address and key; takes the option ``max_tokens_field``.
        transport: an httpx transport, in tests.
    """
    max_tokens = dsn.known_options(name, MAX_TOKENS_FIELD).get(MAX_TOKENS_FIELD, "")
    host = urlsplit(dsn.base_url).hostname
    wire = OpenAIWire(host == "api.openai.com", max_tokens, host == "api.deepseek.com")
    return HttpProvider(name, dsn, wire, transport=transport)


@dataclass(frozen=True, slots=True)
class OpenAIWire:
    """OpenAI's format.

    Attributes:
        is_openai: it is OpenAI itself, whose newer models refuse ``max_tokens`` and ``top_k``;
            most other servers know nothing else.
        max_tokens_field: the name of the field for ``max_tokens``, if it is another.
        wants_thoughts: it is DeepSeek, which must be told what it thought before it called tools;
            most other servers refuse to be.
    """

    is_openai: bool = False
    max_tokens_field: str = ""
    wants_thoughts: bool = False
    capabilities: Capabilities = field(default_factory=lambda: Capabilities(file_urls=False))
    framing: Framing = server_sent_events

    def headers(self, token: str) -> Mapping[str, str]:
        """Give the headers of each request."""
        return {"Authorization": f"Bearer {token}"} if token else {}

    def question(self, request: Request, *, is_stream: bool) -> Question:
        """Write a request."""
        body = {
            "model": request.model,
            "messages": [one for message in request.messages for one in self._messages(message)],
            **self._wishes(request),
            **given(
                tools=[_tool(tool) for tool in request.tools] or None,
                tool_choice=_choice(request.tool_choice),
                response_format=_format(request.output) if request.output else None,
            ),
        }
        if is_stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return Question(PATH, merged(body, request.params))

    def read(self, payload: Mapping[str, Any], into: Assembly) -> Iterator[Piece]:
        """Read a whole reply."""
        choice = _first(payload)
        if choice is None or not isinstance(choice.get("message"), Mapping):
            raise NoReply("answered oddly: no choices in the reply")
        yield from _read(payload, choice, "message", into)

    def read_event(self, event: Mapping[str, Any], into: Assembly) -> Iterator[Piece]:
        """Read one event; the last may hold the usage and no choice."""
        yield from _read(event, _first(event) or {}, "delta", into)

    def _messages(self, message: Message) -> Iterator[dict[str, Any]]:
        for written in _message(message):
            has_thoughts = self.wants_thoughts and "tool_calls" in written
            yield {**written, "reasoning_content": _thoughts(message)} if has_thoughts else written

    def _wishes(self, request: Request) -> dict[str, Any]:
        default = "max_completion_tokens" if self.is_openai else "max_tokens"
        return given(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=None if self.is_openai else request.top_k,
            stop=list(request.stop) or None,
            seed=request.seed,
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            reasoning_effort=request.effort,
            **{self.max_tokens_field or default: request.max_tokens},
        )


def _message(message: Message) -> Iterator[dict[str, Any]]:
    """Write a message; each tool's result is one of its own."""
    if message.role == "tool":
        for part in message.parts:
            if isinstance(part, ToolResult):
                yield {"role": "tool", "tool_call_id": part.id, "content": part.content}
    elif isinstance(message.content, str):
        yield {"role": message.role, "content": message.content}
    elif message.role == "assistant":
        yield _assistant(message)
    else:
        yield {"role": message.role, "content": [_part(part) for part in message.content]}


def _thoughts(message: Message) -> str:
    return "".join(part.text for part in message.parts if isinstance(part, Reasoning))


def _assistant(message: Message) -> dict[str, Any]:
    calls = [_call(part) for part in message.parts if isinstance(part, ToolCall)]
    if not calls:
        return {"role": "assistant", "content": message.text}
    return {"role": "assistant", "content": message.text or None, "tool_calls": calls}


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Image():
            return {"type": "image_url", "image_url": {"url": part.as_url}}
        case File():
            name = part.name or "file"
            return {"type": "file", "file": {"filename": name, "file_data": part.as_url}}
        case Text():
            return {"type": "text", "text": part.text}
        case _:  # the message's own check leaves no other
            raise TypeError(part)


def _call(call: ToolCall) -> dict[str, Any]:
    arguments = call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments)
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}


def _tool(tool: Tool) -> dict[str, Any]:
    return {"type": "function", "function": tool.model_dump()}


def _choice(choice: ToolName | str | None) -> Any:
    if isinstance(choice, ToolName):
        return {"type": "function", "function": {"name": choice.name}}
    return choice


def _format(schema: Schema) -> dict[str, Any]:
    inner = {"name": schema.name, "schema": schema.json_schema, "strict": schema.is_strict}
    return {"type": "json_schema", "json_schema": inner}


def _first(payload: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Take the first choice, also where ``params`` asked for several."""
    choices = mappings(payload.get("choices"))
    return next((choice for choice in choices if not count(choice.get("index"))), None)


def _read(
    payload: Mapping[str, Any], choice: Mapping[str, Any], key: str, into: Assembly
) -> Iterator[Piece]:
    into.model = string(payload.get("model")) or into.model
    _read_usage(mapping(payload.get("usage")), into)
    if error := choice.get("error"):  # OpenRouter's, in mid-reply
        raise NoReply(f"broke off: {refusals.message({'error': error}):.200}")
    message = mapping(choice.get(key))
    yield from _pieces(message, into)
    if string(message.get("refusal")):  # beside it, the reason is "stop"
        into.finish_reason = "content_filter"
    if (reason := string(choice.get("finish_reason"))) and into.finish_reason is None:
        finish = _FINISH.get(reason, "other")
        into.finish_reason = "tool_calls" if finish == "stop" and into.has_calls else finish


def _pieces(message: Mapping[str, Any], into: Assembly) -> Iterator[Piece]:
    thought = string(message.get("reasoning_content")) or string(message.get("reasoning"))
    if thought:
        yield ReasoningDelta(text=thought)
    if text := _text(message.get("content")):
        yield TextDelta(text=text)
    for position, call in enumerate(mappings(message.get("tool_calls"))):
        yield _call_piece(call, position, into)


def _text(content: object) -> str:
    """Give a text, also if it comes in parts; "" of a refusal or a tool call."""
    if isinstance(content, list):
        return "".join(string(part.get("text")) or "" for part in mappings(content))
    return string(content) or ""


def _call_piece(call: Mapping[str, Any], position: int, into: Assembly) -> ToolCallDelta:
    """Read a call, or a piece of one."""
    function = mapping(call.get("function"))
    return ToolCallDelta(
        index=_index(call, position, into),
        id=string(call.get("id")) or None,
        name=string(function.get("name")) or None,
        arguments=_arguments(function.get("arguments")),
    )


def _index(call: Mapping[str, Any], position: int, into: Assembly) -> int:
    """Find which call it is; some servers send whole ones, and leave that out, or always say 0.

    A new id alone says nothing: others make up one for each piece.
    """
    index = count(call.get("index"))
    is_named = bool(string(mapping(call.get("function")).get("name")))
    if index is None:
        return into.next_index if is_named else max(position, into.next_index - 1)
    name = string(call.get("id"))
    return into.next_index if is_named and name and into.is_taken(index, name) else index


def _arguments(arguments: object) -> str:
    """Take a text of JSON, or the object itself, which some servers send."""
    return json.dumps(arguments) if isinstance(arguments, Mapping) else string(arguments) or ""


def _read_usage(usage: Mapping[str, Any], into: Assembly) -> None:
    """Take what is told: the last event that tells a number counts."""
    details = mapping(usage.get("prompt_tokens_details"))
    cached = count(details.get("cached_tokens"))
    deepseeks = count(usage.get("prompt_cache_hit_tokens"))
    thought = count(mapping(usage.get("completion_tokens_details")).get("reasoning_tokens"))
    read, written = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
    into.input_tokens = into.input_tokens if read is None else read
    into.output_tokens = into.output_tokens if written is None else written
    into.cached_tokens = next((n for n in (cached, deepseeks) if n is not None), into.cached_tokens)
    into.reasoning_tokens = into.reasoning_tokens if thought is None else thought
