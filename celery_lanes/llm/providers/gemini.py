"""Google's Gemini API."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote

from celery_lanes.errors import ContentFiltered
from celery_lanes.llm.assembly import Assembly
from celery_lanes.llm.capabilities import Capabilities
from celery_lanes.llm.dsn import Dsn
from celery_lanes.llm.fields import count, mapping, mappings, string
from celery_lanes.llm.http.client import Transport
from celery_lanes.llm.http.framing import Framing, server_sent_events
from celery_lanes.llm.http.remote import HttpProvider
from celery_lanes.llm.http.wire import NoReply, Question, given, joined, merged
from celery_lanes.llm.messages import Blob, Message, Part, Text, ToolCall, ToolResult
from celery_lanes.llm.reply import FinishReason, Piece, ReasoningDelta, TextDelta, ToolCallDelta
from celery_lanes.llm.request import Effort, Request, Tool, ToolName

_FINISH: Mapping[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    **dict.fromkeys(
        (
            "BLOCKLIST",
            "IMAGE_PROHIBITED_CONTENT",
            "IMAGE_SAFETY",
            "PROHIBITED_CONTENT",
            "RECITATION",
            "SAFETY",
            "SPII",
        ),
        "content_filter",
    ),
}
_CHOICE = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
_LEVEL: Mapping[Effort, str] = {
    "none": "MINIMAL",
    "minimal": "MINIMAL",
    "low": "LOW",
    "medium": "MEDIUM",
    "high": "HIGH",
    "xhigh": "HIGH",
}
_BUDGET: Mapping[Effort, int] = {
    "none": 0,
    "minimal": 1024,
    "low": 1024,
    "medium": 8192,
    "high": 24576,
    "xhigh": 24576,
}
"""Tokens, for the models that know no levels."""

UNSIGNED = "skip_thought_signature_validator"
"""What Google has one write in the place of a signature that is not there."""


def gemini_provider(name: str, dsn: Dsn, *, transport: Transport | None = None) -> HttpProvider:
    """Make a provider of an account at Google."""
    dsn.known_options(name)
    return HttpProvider(name, dsn, GeminiWire(), transport=transport)


@dataclass(frozen=True, slots=True)
class GeminiWire:
    """Google's format; an event of a stream is shaped as a whole reply."""

    capabilities: Capabilities = field(default_factory=Capabilities)
    framing: Framing = server_sent_events

    def headers(self, token: str) -> Mapping[str, str]:
        """Give the headers of each request."""
        return {"x-goog-api-key": token} if token else {}

    def question(self, request: Request, *, is_stream: bool) -> Question:
        """Write a request."""
        verb = "streamGenerateContent?alt=sse" if is_stream else "generateContent"
        body = {
            "contents": joined(map(partial(_content, request.model), request.turns), "parts"),
            **given(
                systemInstruction={"parts": [{"text": request.system}]} if request.system else None,
                tools=_tools(request.tools),
                toolConfig=_tool_config(request.tool_choice),
                generationConfig=_config(request) or None,
            ),
        }
        path = f"/models/{quote(request.model, safe='')}:{verb}"
        return Question(path, merged(body, request.params, "contents"))

    def read(self, payload: Mapping[str, Any], into: Assembly) -> Iterator[Piece]:
        """Read a whole reply."""
        if not mappings(payload.get("candidates")) and not _blocked(payload):
            raise NoReply("answered oddly: no candidates in the reply")
        yield from self.read_event(payload, into)

    def read_event(self, event: Mapping[str, Any], into: Assembly) -> Iterator[Piece]:
        """Read one event; a prompt may be refused in it."""
        if reason := _blocked(event):
            raise NoReply(f"refused the prompt: {reason}", ContentFiltered)
        into.model = string(event.get("modelVersion")) or into.model
        into.request_id = into.request_id or string(event.get("responseId"))
        _read_usage(mapping(event.get("usageMetadata")), into)
        candidate = next(iter(mappings(event.get("candidates"))), {})
        for part in mappings(mapping(candidate.get("content")).get("parts")):
            yield from _pieces(part, into)
        if reason := string(candidate.get("finishReason")):
            finish = _FINISH.get(reason, "other")
            into.finish_reason = "tool_calls" if finish == "stop" and into.has_calls else finish


def _content(model: str, message: Message) -> dict[str, Any]:
    role = "model" if message.role == "assistant" else "user"
    parts = [one for part in message.parts for one in _written(part)]
    return {"role": role, "parts": parts if _knows_budgets(model) else _signed(parts)}


def _signed(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sign the first call of a turn, if it is not: those of other providers would be refused."""
    calls = [part for part in parts if "functionCall" in part]
    if calls and "thoughtSignature" not in calls[0]:
        calls[0]["thoughtSignature"] = UNSIGNED
    return parts


def _written(part: Part) -> Iterator[dict[str, Any]]:
    """Write a part; thoughts are not sent back, only their signatures at the calls."""
    match part:
        case Text(text=text) if text:
            yield {"text": text}
        case Blob(url=str() as url):
            yield {"fileData": given(mimeType=part.media_type, fileUri=url)}
        case Blob():
            yield {"inlineData": {"mimeType": part.media_type, "data": part.data}}
        case ToolCall():
            arguments = part.arguments if isinstance(part.arguments, dict) else {}
            call = {"functionCall": {"id": part.id, "name": part.name, "args": arguments}}
            yield {**call, **given(thoughtSignature=part.signature)}
        case ToolResult():
            response = {"error" if part.is_error else "result": part.content}
            answer = {"id": part.id, "name": part.name, "response": response}
            yield {"functionResponse": answer}


def _tools(tools: tuple[Tool, ...]) -> list[dict[str, Any]] | None:
    declared = [
        {
            "name": tool.name,
            "description": tool.description,
            "parametersJsonSchema": tool.parameters,
        }
        for tool in tools
    ]
    return [{"functionDeclarations": declared}] if declared else None


def _tool_config(choice: ToolName | str | None) -> dict[str, Any] | None:
    if choice is None:
        return None
    if isinstance(choice, ToolName):
        config: dict[str, Any] = {"mode": "ANY", "allowedFunctionNames": [choice.name]}
    else:
        config = {"mode": _CHOICE[choice]}
    return {"functionCallingConfig": config}


def _config(request: Request) -> dict[str, Any]:
    return given(
        maxOutputTokens=request.max_tokens,
        temperature=request.temperature,
        topP=request.top_p,
        topK=request.top_k,
        stopSequences=list(request.stop) or None,
        seed=request.seed,
        presencePenalty=request.presence_penalty,
        frequencyPenalty=request.frequency_penalty,
        responseMimeType="application/json" if request.output else None,
        responseJsonSchema=request.output.json_schema if request.output else None,
        thinkingConfig=_thinking(request),
    )


def _thinking(request: Request) -> dict[str, Any] | None:
    """Say how hard to think: up to Gemini 2.5 in tokens, from 3 on by level."""
    if request.effort is None:
        return None
    if _knows_budgets(request.model):
        return {"thinkingBudget": _BUDGET[request.effort]}
    return {"thinkingLevel": _LEVEL[request.effort]}


def _knows_budgets(model: str) -> bool:
    """Whether it is one from before Gemini 3, which brought levels, and checks signatures."""
    return model.startswith("gemini-2")


def _blocked(payload: Mapping[str, Any]) -> str | None:
    return string(mapping(payload.get("promptFeedback")).get("blockReason"))


def _read_usage(usage: Mapping[str, Any], into: Assembly) -> None:
    """Take what is told; thoughts are told apart from the rest here."""
    read, written = count(usage.get("promptTokenCount")), count(usage.get("candidatesTokenCount"))
    cached, thought = (
        count(usage.get("cachedContentTokenCount")),
        count(usage.get("thoughtsTokenCount")),
    )
    into.input_tokens = into.input_tokens if read is None else read
    into.cached_tokens = into.cached_tokens if cached is None else cached
    into.reasoning_tokens = into.reasoning_tokens if thought is None else thought
    if written is not None or thought is not None:
        into.output_tokens = (written or 0) + (into.reasoning_tokens or 0)


def _pieces(part: Mapping[str, Any], into: Assembly) -> Iterator[Piece]:
    text = string(part.get("text"))
    if isinstance(call := part.get("functionCall"), Mapping):
        yield ToolCallDelta(
            index=into.next_index,
            id=string(call.get("id")),
            name=string(call.get("name")),
            arguments=json.dumps(call.get("args") or {}),
            signature=string(part.get("thoughtSignature")),
        )
    elif text and part.get("thought") is True:
        yield ReasoningDelta(text=text)
    elif text:
        yield TextDelta(text=text)
