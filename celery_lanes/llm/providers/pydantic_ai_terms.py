"""A request in pydantic-ai's terms, and its answers in ours; imported only where it is asked."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_ai import messages as theirs
from pydantic_ai.direct import model_request, model_request_stream
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.output import OutputObjectDefinition
from pydantic_ai.tools import ToolDefinition

from celery_lanes.llm.assembly import Assembly
from celery_lanes.llm.http.wire import given
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
from celery_lanes.llm.request import Request, ToolName

_FINISH: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_call": "tool_calls",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request in pydantic-ai's terms."""

    messages: list[Any]
    settings: dict[str, Any]
    parameters: Any


def asked(request: Request, *, timeout_s: float, idempotency_key: str | None) -> Asked:
    """Write a request; its ``params`` are further settings of pydantic-ai."""
    return Asked(
        [_message(message) for message in request.messages],
        {**_settings(request, timeout_s, idempotency_key), **request.params},
        _parameters(request),
    )


async def whole(model: Any, what: Asked, into: Assembly) -> AsyncGenerator[Piece, None]:
    """Ask for a whole reply."""
    response = await model_request(
        model,
        what.messages,
        model_settings=what.settings,
        model_request_parameters=what.parameters,
        instrument=False,
    )
    for index, part in enumerate(response.parts):
        for piece in _begun(index, part):
            yield piece
    _read_end(response, into)


async def streamed(model: Any, what: Asked, into: Assembly) -> AsyncGenerator[Piece, None]:
    """Ask for a reply piece by piece."""
    async with model_request_stream(
        model,
        what.messages,
        model_settings=what.settings,
        model_request_parameters=what.parameters,
        instrument=False,
    ) as stream:
        async for event in stream:
            for piece in _pieces(event):
                yield piece
        _read_end(stream.get(), into)


def _settings(request: Request, timeout_s: float, idempotency_key: str | None) -> dict[str, Any]:
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key else None
    choice = request.tool_choice
    return given(
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        seed=request.seed,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        stop_sequences=list(request.stop) or None,
        thinking=False if request.effort == "none" else request.effort,
        tool_choice=[choice.name] if isinstance(choice, ToolName) else choice,
        extra_headers=headers,
        max_retries=0,
        timeout=timeout_s,
    )


def _parameters(request: Request) -> Any:
    tools = [
        ToolDefinition(
            name=tool.name, description=tool.description, parameters_json_schema=tool.parameters
        )
        for tool in request.tools
    ]
    if (schema := request.output) is None:
        return ModelRequestParameters(function_tools=tools)
    form = OutputObjectDefinition(
        json_schema=schema.json_schema, name=schema.name, strict=schema.is_strict or None
    )
    return ModelRequestParameters(function_tools=tools, output_mode="native", output_object=form)


def _message(message: Message) -> Any:
    match message.role:
        case "assistant":
            parts = [one for part in message.parts for one in _answered(part)]
            return theirs.ModelResponse(parts=parts)
        case "system" | "developer":
            return theirs.ModelRequest(parts=[theirs.SystemPromptPart(content=message.text)])
        case "tool":
            return theirs.ModelRequest(parts=[one for p in message.parts for one in _result(p)])
        case _:
            content = [_content(part) for part in message.parts]
            return theirs.ModelRequest(parts=[theirs.UserPromptPart(content=content)])


def _answered(part: Part) -> Iterator[Any]:
    """Write a part; thoughts without a signature are not sent back."""
    match part:
        case Text(text=text) if text:
            yield theirs.TextPart(content=text)
        case Reasoning(signature=str() as signature):
            yield theirs.ThinkingPart(content=part.text, signature=signature)
        case ToolCall():
            yield theirs.ToolCallPart(part.name, part.arguments, tool_call_id=part.id)


def _result(part: Part) -> Iterator[Any]:
    if isinstance(part, ToolResult):
        outcome = "failed" if part.is_error else "success"
        yield theirs.ToolReturnPart(part.name, part.content, part.id, outcome=outcome)


def _content(part: Part) -> Any:
    match part:
        case Image(url=str() as url):
            return theirs.ImageUrl(url=url)
        case File(url=str() as url):
            return theirs.DocumentUrl(url=url)
        case Image(data=str() as data) | File(data=str() as data):
            return theirs.BinaryContent(base64.b64decode(data), media_type=part.media_type)
        case Text():
            return part.text
        case _:  # the message's own check leaves no other
            raise TypeError(part)


def _pieces(event: Any) -> Iterator[Piece]:
    """Read one event of a stream: a part begins, or grows."""
    match event:
        case theirs.PartStartEvent():
            yield from _begun(event.index, event.part)
        case theirs.PartDeltaEvent(delta=theirs.TextPartDelta() as delta):
            yield TextDelta(text=delta.content_delta)
        case theirs.PartDeltaEvent(delta=theirs.ThinkingPartDelta() as delta):
            text, signature = delta.content_delta or "", delta.signature_delta
            yield ReasoningDelta(text=text, signature=signature)
        case theirs.PartDeltaEvent(delta=theirs.ToolCallPartDelta() as delta):
            yield ToolCallDelta(
                index=event.index,
                id=delta.tool_call_id,
                name=delta.tool_name_delta,
                arguments=_arguments(delta.args_delta),
            )


def _begun(index: int, part: Any) -> Iterator[Piece]:
    match part:
        case theirs.TextPart(content=str() as text) if text:
            yield TextDelta(text=text)
        case theirs.ThinkingPart():
            yield ReasoningDelta(text=part.content, signature=part.signature)
        case theirs.ToolCallPart():
            yield ToolCallDelta(
                index=index,
                id=part.tool_call_id,
                name=part.tool_name,
                arguments=_arguments(part.args),
            )


def _arguments(arguments: Any) -> str:
    return json.dumps(arguments) if isinstance(arguments, Mapping) else arguments or ""


def _read_end(response: Any, into: Assembly) -> None:
    usage = response.usage
    if usage.has_values():
        into.input_tokens, into.output_tokens = usage.input_tokens, usage.output_tokens
        into.cached_tokens = usage.cache_read_tokens
        into.reasoning_tokens = usage.details.get("reasoning_tokens")
    into.model = response.model_name or into.model
    into.request_id = response.provider_response_id
    finish = _FINISH.get(response.finish_reason or "stop", "other")
    has_calls = any(isinstance(part, theirs.ToolCallPart) for part in response.parts)
    into.finish_reason = "tool_calls" if finish == "stop" and has_calls else finish
