"""What goes over each wire: the same exchange in the words of each API, as its docs show it.

The request has one of everything; the reply has thoughts, words and two tool calls.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from celery_lanes.llm.messages import Image, Message, Reasoning, Text, ToolCall, ToolResult
from celery_lanes.llm.reply import Reply, Usage
from celery_lanes.llm.request import Request, Schema, Tool

KEY = "sk-very-secret"
SCHEMA = {"type": "object", "properties": {"kind": {"type": "string"}}}
PARAMETERS = {"type": "object", "properties": {"at": {"type": "string"}}}

CONVERSATION = (
    Message(role="system", content="be kind"),
    Message(role="user", content=(Text(text="what?"), Image(data="AAE=", media_type="image/png"))),
    Message(
        role="assistant",
        content=(
            Reasoning(text="hm", signature="sig"),
            Text(text="let me look"),
            ToolCall(id="c1", name="look", arguments={"at": "it"}),
        ),
    ),
    Message(role="tool", content=(ToolResult(id="c1", name="look", content="a cat"),)),
)

FULL = Request(
    model="small",
    messages=CONVERSATION,
    tools=(Tool(name="look", description="see", parameters=PARAMETERS),),
    tool_choice="auto",
    output=Schema(json_schema=SCHEMA),
    effort="low",
    max_tokens=9,
    temperature=0.0,
    top_p=0.5,
    top_k=3,
    stop=("END",),
    seed=7,
    presence_penalty=0.1,
    frequency_penalty=0.2,
    params={"extra": 1},
)

REPLY = Reply(
    text="Ja, ein Käse\u2028gut",
    tool_calls=(
        ToolCall(id="c1", name="look", arguments={"at": "it"}),
        ToolCall(id="c2", name="go"),
    ),
    reasoning=(Reasoning(text="hmm"),),
    usage=Usage(input_tokens=11, output_tokens=7, cached_tokens=4, reasoning_tokens=2),
    model="small-2026",
    finish_reason="tool_calls",
    request_id="req_1",
)


def sse(*events: Mapping[str, Any] | str) -> bytes:
    texts = (e if isinstance(e, str) else json.dumps(e, ensure_ascii=False) for e in events)
    return "".join(f"data: {text}\n\n" for text in texts).encode()


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One API's words.

    Attributes:
        dsn: of a server with a key.
        paths: that are asked, whole and streamed.
        key_header: in which the key goes out.
        body: the full request.
        stream_fields: what a streamed request has on top of it.
        whole: the reply.
        stream: the same in pieces.
        reply: what both are read as.
        bare: a reply of one word that tells nothing else, whole and streamed.
    """

    dsn: str
    paths: tuple[str, str]
    key_header: tuple[str, str]
    body: Mapping[str, Any]
    stream_fields: Mapping[str, Any]
    whole: Mapping[str, Any]
    stream: bytes
    reply: Reply = REPLY
    bare: tuple[Mapping[str, Any], bytes]
    headers: Mapping[str, str] = field(default_factory=lambda: {"x-request-id": "req_1"})


def _chat(**delta: Any) -> dict[str, Any]:
    return {"model": "small-2026", "choices": [{"index": 0, "delta": delta, "new": None}]}


OPENAI = Exchange(
    dsn=f"openai://{KEY}@llm.test/v1",
    paths=("/v1/chat/completions", "/v1/chat/completions"),
    key_header=("authorization", f"Bearer {KEY}"),
    body={
        "model": "small",
        "messages": [
            {"role": "system", "content": "be kind"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAE="}},
                ],
            },
            {
                "role": "assistant",
                "content": "let me look",
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "look", "arguments": '{"at": "it"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {"name": "look", "description": "see", "parameters": PARAMETERS},
            }
        ],
        "tool_choice": "auto",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "reply", "schema": SCHEMA, "strict": False},
        },
        "reasoning_effort": "low",
        "max_tokens": 9,
        "temperature": 0.0,
        "top_p": 0.5,
        "top_k": 3,
        "stop": ["END"],
        "seed": 7,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "extra": 1,
    },
    stream_fields={"stream": True, "stream_options": {"include_usage": True}},
    whole={
        "id": "chatcmpl-1",
        "model": "small-2026",
        "new": {"field": 1},
        "choices": [
            {
                "finish_reason": "tool_calls",
                "message": {
                    "role": "assistant",
                    "reasoning_content": "hmm",
                    "content": REPLY.text,
                    "tool_calls": [
                        {
                            "id": "c1",
                            "type": "function",
                            "function": {"name": "look", "arguments": '{"at":"it"}'},
                        },
                        {"id": "c2", "function": {"name": "go", "arguments": "{}"}},
                    ],
                },
            }
        ],
        "usage": {
            "prompt_tokens": 11,
            "completion_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
    },
    stream=sse(
        _chat(role="assistant", content=""),
        _chat(reasoning_content="h"),
        _chat(reasoning_content="mm"),
        _chat(content="Ja, ein Kä"),
        _chat(content="se\u2028gut"),
        _chat(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "look"}}]),
        _chat(tool_calls=[{"index": 0, "function": {"arguments": '{"at"'}}]),
        _chat(tool_calls=[{"index": 1, "id": "c2", "function": {"name": "go"}}]),
        _chat(tool_calls=[{"index": 0, "function": {"arguments": ':"it"}'}}]),
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}], "usage": None},
        {
            "choices": [],
            "usage": {
                "prompt_tokens": 11,
                "completion_tokens": 7,
                "prompt_tokens_details": {"cached_tokens": 4},
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
        },
        "[DONE]",
    ),
    bare=(
        {"choices": [{"message": {"content": "yes!"}}]},
        sse({"choices": [{"delta": {"content": "yes!"}}]}, "[DONE]"),
    ),
)


def _block(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def _grows(index: int, kind: str, **delta: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **delta}}


ANTHROPIC = Exchange(
    dsn=f"anthropic://{KEY}@llm.test/v1",
    paths=("/v1/messages", "/v1/messages"),
    key_header=("x-api-key", KEY),
    headers={"request-id": "req_1"},
    body={
        "model": "small",
        "max_tokens": 9,
        "system": "be kind",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what?"},
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": "AAE="},
                    },
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "sig"},
                    {"type": "text", "text": "let me look"},
                    {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "it"}},
                ],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "a cat"}],
            },
        ],
        "tools": [{"name": "look", "description": "see", "input_schema": PARAMETERS}],
        "tool_choice": {"type": "auto"},
        "thinking": {"type": "adaptive"},
        "output_config": {
            "effort": "low",
            "format": {"type": "json_schema", "schema": SCHEMA},
        },
        "stop_sequences": ["END"],
        "extra": 1,
    },
    stream_fields={"stream": True},
    whole={
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "small-2026",
        "content": [
            {"type": "thinking", "thinking": "hmm", "signature": "s2"},
            {"type": "text", "text": REPLY.text},
            {"type": "server_news", "what": 1},
            {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "it"}},
            {"type": "tool_use", "id": "c2", "name": "go", "input": {}},
        ],
        "stop_reason": "tool_use",
        "usage": {
            "input_tokens": 5,
            "cache_creation_input_tokens": 2,
            "cache_read_input_tokens": 4,
            "output_tokens": 7,
        },
    },
    stream=sse(
        {
            "type": "message_start",
            "message": {
                "id": "msg_1",
                "model": "small-2026",
                "content": [],
                "stop_reason": None,
                "usage": {
                    "input_tokens": 5,
                    "cache_creation_input_tokens": 2,
                    "cache_read_input_tokens": 4,
                    "output_tokens": 1,
                },
            },
        },
        _block(0, type="thinking", thinking="", signature=""),
        {"type": "ping"},
        _grows(0, "thinking_delta", thinking="h"),
        _grows(0, "thinking_delta", thinking="mm"),
        _grows(0, "signature_delta", signature="s2"),
        {"type": "content_block_stop", "index": 0},
        _block(1, type="text", text=""),
        _grows(1, "text_delta", text="Ja, ein Kä"),
        _grows(1, "text_delta", text="se\u2028gut"),
        {"type": "content_block_stop", "index": 1},
        {"type": "news_of_tomorrow", "index": 1},
        _block(2, type="tool_use", id="c1", name="look", input={}),
        _grows(2, "input_json_delta", partial_json=""),
        _grows(2, "input_json_delta", partial_json='{"at"'),
        _grows(2, "input_json_delta", partial_json=':"it"}'),
        {"type": "content_block_stop", "index": 2},
        _block(3, type="tool_use", id="c2", name="go", input={}),
        {"type": "content_block_stop", "index": 3},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use", "stop_sequence": None},
            "usage": {"output_tokens": 7},
        },
        {"type": "message_stop"},
    ),
    reply=REPLY.model_copy(
        update={
            "reasoning": (Reasoning(text="hmm", signature="s2"),),
            "usage": Usage(input_tokens=11, output_tokens=7, cached_tokens=4),
        }
    ),
    bare=(
        {"content": [{"type": "text", "text": "yes!"}]},
        sse(_grows(0, "text_delta", text="yes!"), {"type": "message_stop"}),
    ),
)


def _candidate(*parts: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    content = {"role": "model", "parts": list(parts)}
    return {
        "candidates": [{"content": content, "index": 0, **more}],
        "modelVersion": "small-2026",
        "responseId": "req_1",
    }


_GEMINI_CALLS = (
    {
        "functionCall": {"id": "c1", "name": "look", "args": {"at": "it"}},
        "thoughtSignature": "s3",
    },
    {"functionCall": {"id": "c2", "name": "go", "args": {}}},
)
_GEMINI_USAGE = {
    "promptTokenCount": 11,
    "candidatesTokenCount": 5,
    "thoughtsTokenCount": 2,
    "cachedContentTokenCount": 4,
    "totalTokenCount": 18,
}

GEMINI = Exchange(
    dsn=f"gemini://{KEY}@llm.test/v1beta",
    paths=(
        "/v1beta/models/small:generateContent",
        "/v1beta/models/small:streamGenerateContent?alt=sse",
    ),
    key_header=("x-goog-api-key", KEY),
    headers={},
    body={
        "systemInstruction": {"parts": [{"text": "be kind"}]},
        "contents": [
            {
                "role": "user",
                "parts": [
                    {"text": "what?"},
                    {"inlineData": {"mimeType": "image/png", "data": "AAE="}},
                ],
            },
            {
                "role": "model",
                "parts": [
                    {"text": "let me look"},
                    {
                        "functionCall": {"id": "c1", "name": "look", "args": {"at": "it"}},
                        "thoughtSignature": "skip_thought_signature_validator",
                    },
                ],
            },
            {
                "role": "user",
                "parts": [
                    {
                        "functionResponse": {
                            "id": "c1",
                            "name": "look",
                            "response": {"result": "a cat"},
                        }
                    }
                ],
            },
        ],
        "tools": [
            {
                "functionDeclarations": [
                    {"name": "look", "description": "see", "parametersJsonSchema": PARAMETERS}
                ]
            }
        ],
        "toolConfig": {"functionCallingConfig": {"mode": "AUTO"}},
        "generationConfig": {
            "maxOutputTokens": 9,
            "temperature": 0.0,
            "topP": 0.5,
            "topK": 3,
            "stopSequences": ["END"],
            "seed": 7,
            "presencePenalty": 0.1,
            "frequencyPenalty": 0.2,
            "responseMimeType": "application/json",
            "responseJsonSchema": SCHEMA,
            "thinkingConfig": {"thinkingLevel": "LOW"},
        },
        "extra": 1,
    },
    stream_fields={},
    whole={
        **_candidate(
            {"text": "hmm", "thought": True},
            {"text": REPLY.text, "news": 1},
            *_GEMINI_CALLS,
            finishReason="STOP",
        ),
        "usageMetadata": _GEMINI_USAGE,
    },
    stream=sse(
        _candidate({"text": "h", "thought": True}),
        _candidate({"text": "mm", "thought": True}),
        _candidate({"text": "Ja, ein Kä"}),
        {**_candidate({"text": "se\u2028gut"}), "usageMetadata": {"promptTokenCount": 11}},
        _candidate(*_GEMINI_CALLS),
        {**_candidate({"text": ""}, finishReason="STOP"), "usageMetadata": _GEMINI_USAGE},
    ),
    reply=REPLY.model_copy(
        update={
            "tool_calls": (
                ToolCall(id="c1", name="look", arguments={"at": "it"}, signature="s3"),
                ToolCall(id="c2", name="go"),
            )
        }
    ),
    bare=(
        {"candidates": [{"content": {"parts": [{"text": "yes!"}]}}]},
        sse({"candidates": [{"content": {"parts": [{"text": "yes!"}]}, "finishReason": "STOP"}]}),
    ),
)


def _line(**event: Any) -> bytes:
    return (json.dumps(event, ensure_ascii=False) + "\n").encode()


def _said(**message: Any) -> bytes:
    message = {"role": "assistant", "content": "", **message}
    return _line(model="small-2026", message=message, done=False)


_OLLAMA_CALLS = [
    {"id": "c1", "function": {"index": 0, "name": "look", "arguments": {"at": "it"}}},
    {"id": "c2", "function": {"index": 1, "name": "go", "arguments": {}}},
]
_OLLAMA_END = {
    "model": "small-2026",
    "done": True,
    "done_reason": "stop",
    "total_duration": 1,
    "prompt_eval_count": 11,
    "eval_count": 7,
}

OLLAMA = Exchange(
    dsn=f"ollama://{KEY}@llm.test",
    paths=("/api/chat", "/api/chat"),
    key_header=("authorization", f"Bearer {KEY}"),
    body={
        "model": "small",
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "what?", "images": ["AAE="]},
            {
                "role": "assistant",
                "content": "let me look",
                "tool_calls": [{"function": {"name": "look", "arguments": {"at": "it"}}}],
            },
            {"role": "tool", "tool_name": "look", "content": "a cat"},
        ],
        "stream": False,
        "tools": [
            {
                "type": "function",
                "function": {"name": "look", "description": "see", "parameters": PARAMETERS},
            }
        ],
        "format": SCHEMA,
        "think": "low",
        "options": {
            "num_predict": 9,
            "temperature": 0.0,
            "top_p": 0.5,
            "top_k": 3,
            "stop": ["END"],
            "seed": 7,
            "presence_penalty": 0.1,
            "frequency_penalty": 0.2,
        },
        "extra": 1,
    },
    stream_fields={"stream": True},
    whole={
        **_OLLAMA_END,
        "message": {
            "role": "assistant",
            "content": REPLY.text,
            "thinking": "hmm",
            "tool_calls": _OLLAMA_CALLS,
        },
    },
    stream=b"".join(
        (
            _said(thinking="h"),
            _said(thinking="mm"),
            _said(content="Ja, ein Kä"),
            _said(content="se\u2028gut"),
            _said(tool_calls=_OLLAMA_CALLS),
            _line(**_OLLAMA_END, message={"role": "assistant", "content": ""}),
        )
    ),
    reply=REPLY.model_copy(update={"usage": Usage(input_tokens=11, output_tokens=7)}),
    bare=({"message": {"content": "yes!"}}, _line(message={"content": "yes!"}, done=True)),
)

EXCHANGES = {
    "openai": OPENAI,
    "anthropic": ANTHROPIC,
    "gemini": GEMINI,
    "ollama": OLLAMA,
}
