"""What is particular to one API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from celery_lanes.errors import (
    ContentFiltered,
    ModelNotFound,
    RateLimited,
    TransientError,
    Unsupported,
)
from celery_lanes.llm.assembly import Assembly
from celery_lanes.llm.http.wire import Wire
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
from celery_lanes.llm.providers.anthropic import DEFAULT_MAX_TOKENS, AnthropicWire
from celery_lanes.llm.providers.gemini import UNSIGNED, GeminiWire
from celery_lanes.llm.providers.ollama import OllamaWire
from celery_lanes.llm.providers.openai import OpenAIWire
from celery_lanes.llm.registry import Registry
from celery_lanes.llm.reply import Reply
from celery_lanes.llm.request import Request, Tool, ToolName
from tests.unit.llm.wires import sse

WIRES = {
    "openai": OpenAIWire(),
    "anthropic": AnthropicWire(),
    "gemini": GeminiWire(),
    "ollama": OllamaWire(),
}
LOOK = Tool(name="look")
PDF = {"data": "AAE=", "media_type": "application/pdf"}


def says(role: str, *parts: Part) -> Message:
    return Message(role=role, content=parts or "hi")


def request(*messages: Message, **options: Any) -> Request:
    return Request(**{"model": "small", "messages": messages or (says("user"),), **options})


def body(wire: Wire, *messages: Message, **options: Any) -> Mapping[str, Any]:
    return wire.question(request(*messages, **options), is_stream=False).body


def calls(index: int, id_: str, name: str | None, arguments: str) -> dict[str, Any]:
    call = {"index": index, "id": id_, "function": {"name": name, "arguments": arguments}}
    return {"choices": [{"delta": {"tool_calls": [call]}}]}


def read(wire: Wire, payload: Mapping[str, Any]) -> Reply:
    assembly = Assembly(request())
    for piece in wire.read(payload, assembly):
        assembly.add(piece)
    return assembly.reply()


def stream(dsn: str, content: bytes) -> list[Any]:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=content))
    (target,) = Registry({"LLM_M1": dsn}, transport=transport).parse("m1/small")
    return list(target.stream(request()))


@pytest.mark.parametrize(
    ("wire", "choice", "written"),
    [
        ("openai", ToolName(name="look"), {"type": "function", "function": {"name": "look"}}),
        ("openai", "required", "required"),
        ("anthropic", ToolName(name="look"), {"type": "tool", "name": "look"}),
        ("anthropic", "required", {"type": "any"}),
        ("anthropic", "none", {"type": "none"}),
    ],
)
def test_a_choice_among_tools_is_written(wire, choice, written):
    assert body(WIRES[wire], tools=(LOOK,), tool_choice=choice)["tool_choice"] == written


@pytest.mark.parametrize(
    ("choice", "written"),
    [
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        (ToolName(name="look"), {"mode": "ANY", "allowedFunctionNames": ["look"]}),
    ],
)
def test_gemini_has_its_own_words_for_a_choice(choice, written):
    config = body(WIRES["gemini"], tools=(LOOK,), tool_choice=choice)["toolConfig"]

    assert config == {"functionCallingConfig": written}


def test_ollama_sees_no_tools_that_it_must_not_call():
    assert "tools" not in body(WIRES["ollama"], tools=(LOOK,), tool_choice="none")


@pytest.mark.parametrize(
    ("wire", "part", "written"),
    [
        (
            "openai",
            File(**PDF, name="a.pdf"),
            {
                "type": "file",
                "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAE="},
            },
        ),
        (
            "openai",
            Image(url="https://x.test/a.png"),
            {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
        ),
        (
            "anthropic",
            File(**PDF, name="a.pdf"),
            {
                "type": "document",
                "source": {"type": "base64", **PDF},
                "title": "a.pdf",
            },
        ),
        (
            "anthropic",
            Image(url="https://x.test/a.png"),
            {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}},
        ),
    ],
)
def test_files_and_pictures_are_written(wire, part, written):
    (message,) = body(WIRES[wire], says("user", part))["messages"]

    assert message["content"] == [written]


def test_gemini_is_told_where_a_file_is():
    (content,) = body(WIRES["gemini"], says("user", File(url="https://x.test/a")))["contents"]

    assert content["parts"] == [{"fileData": {"fileUri": "https://x.test/a"}}]


@pytest.mark.parametrize(
    ("dsn", "options", "missing"),
    [
        ("openai://h", {"messages": (says("user", File(url="u")),)}, "file_urls"),
        ("ollama://h", {"messages": (says("user", File(**PDF)),)}, "files"),
        ("ollama://h", {"messages": (says("user", Image(url="u")),)}, "image_urls"),
        ("ollama://h", {"tools": (LOOK,), "tool_choice": "required"}, "tool_choice"),
        ("foreman://h", {"tools": (LOOK,), "tool_choice": ToolName(name="look")}, "tool_choice"),
    ],
)
@pytest.mark.parametrize("mode", ["generate", "stream"])
def test_what_an_api_has_no_place_for_is_refused_before_it_is_sent(dsn, options, missing, mode):
    sent = []
    registry = Registry({"LLM_M1": dsn}, transport=httpx.MockTransport(sent.append))
    (target,) = registry.parse("m1/small")

    with pytest.raises(Unsupported, match=f"^m1/small has no place for {missing}$"):
        getattr(target, mode)(request(**options))

    assert sent == []


@pytest.mark.parametrize(
    ("effort", "written"),
    [
        ("none", {}),
        ("minimal", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}),
        ("xhigh", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}),
    ],
)
def test_anthropic_thinks_as_hard_as_asked(effort, written):
    asked = body(WIRES["anthropic"], effort=effort)

    assert {k: v for k, v in asked.items() if k in {"thinking", "output_config"}} == written


@pytest.mark.parametrize(
    ("options", "written"),
    [
        ({"effort": "low"}, {"thinking"}),
        ({"effort": "low", "top_p": 0.95}, {"thinking", "top_p"}),
        ({"effort": "low", "tool_choice": "auto"}, {"thinking"}),
        ({"effort": "low", "tool_choice": "required"}, {"temperature", "top_p", "top_k"}),
        ({"effort": "none"}, {"temperature", "top_p", "top_k"}),
    ],
)
def test_anthropic_is_not_told_what_does_not_go_with_thinking(options, written):
    asked = body(WIRES["anthropic"], **{"temperature": 0.0, "top_p": 0.5, "top_k": 3, **options})

    assert asked.keys() & {"thinking", "temperature", "top_p", "top_k"} == written


@pytest.mark.parametrize(
    ("model", "effort", "written"),
    [
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-2.5-pro", "high", {"thinkingBudget": 24576}),
        ("gemini-3-flash-preview", "none", {"thinkingLevel": "MINIMAL"}),
        ("gemini-3-pro-preview", "xhigh", {"thinkingLevel": "HIGH"}),
    ],
)
def test_gemini_thinks_in_tokens_or_by_level(model, effort, written):
    asked = body(WIRES["gemini"], model=model, effort=effort)

    assert asked["generationConfig"] == {"thinkingConfig": written}


@pytest.mark.parametrize(("effort", "written"), [("none", False), ("xhigh", "high")])
def test_ollama_thinks_or_does_not(effort, written):
    assert body(WIRES["ollama"], effort=effort)["think"] == written


def test_openai_itself_is_not_told_what_it_refuses():
    asked = body(OpenAIWire(is_openai=True), top_k=3, max_tokens=9)

    assert asked["max_completion_tokens"] == 9
    assert "top_k" not in asked


def test_anthropic_is_always_told_how_much_to_write():
    assert body(WIRES["anthropic"])["max_tokens"] == DEFAULT_MAX_TOKENS


def test_anthropic_gets_back_only_thoughts_that_it_signed_and_no_empty_text():
    turn = says(
        "assistant",
        Reasoning(text="another's"),
        Reasoning(signature="sig", is_redacted=True),
        Text(text=""),
        ToolCall(id="c1", name="look", arguments='{"cut'),
    )

    (message,) = body(WIRES["anthropic"], turn)["messages"]

    assert message["content"] == [
        {"type": "redacted_thinking", "data": "sig"},
        {"type": "tool_use", "id": "c1", "name": "look", "input": {}},
    ]


def test_anthropics_redacted_thoughts_are_kept():
    reply = read(WIRES["anthropic"], {"content": [{"type": "redacted_thinking", "data": "x"}]})

    assert reply.reasoning == (Reasoning(signature="x", is_redacted=True),)


@pytest.mark.parametrize(
    ("wire", "written"),
    [
        (
            "anthropic",
            {"type": "tool_result", "tool_use_id": "c1", "content": "oh", "is_error": True},
        ),
        (
            "gemini",
            {"functionResponse": {"id": "c1", "name": "look", "response": {"error": "oh"}}},
        ),
    ],
)
def test_a_tools_failure_is_told(wire, written):
    failed = says("tool", ToolResult(id="c1", name="look", content="oh", is_error=True))

    asked = body(WIRES[wire], failed)
    (message,) = asked.get("messages") or asked["contents"]

    assert (message.get("content") or message["parts"]) == [written]


def test_geminis_signature_goes_back_with_its_call():
    turn = says("assistant", ToolCall(id="c1", name="look", signature="sig"))

    (content,) = body(WIRES["gemini"], turn)["contents"]

    assert content["parts"][0]["thoughtSignature"] == "sig"


@pytest.mark.parametrize(
    ("model", "signatures"), [("gemini-2.5-pro", [None, None]), ("gemini-3-pro", [UNSIGNED, None])]
)
def test_gemini_takes_the_calls_of_another_model(model, signatures):
    turn = says("assistant", ToolCall(id="c1", name="look"), ToolCall(id="c2", name="go"))

    (content,) = body(WIRES["gemini"], turn, model=model)["contents"]

    assert [part.get("thoughtSignature") for part in content["parts"]] == signatures
    assert [part["functionCall"]["id"] for part in content["parts"]] == ["c1", "c2"]


def test_gemini_counts_thoughts_that_only_an_earlier_event_told():
    events = [
        {"usageMetadata": {"thoughtsTokenCount": 5}},
        {"usageMetadata": {"candidatesTokenCount": 2}, "candidates": [{"finishReason": "STOP"}]},
    ]

    *_, done = stream("gemini://h", sse(*events))

    assert (done.reply.usage.output_tokens, done.reply.usage.reasoning_tokens) == (7, 5)


def test_a_models_name_cannot_leave_geminis_path():
    question = WIRES["gemini"].question(request(model="../x?y"), is_stream=False)

    assert question.path == "/models/..%2Fx%3Fy:generateContent"


def test_gemini_refuses_a_prompt_with_status_200():
    blocked = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=blocked))
    (target,) = Registry({"LLM_M1": "gemini://h"}, transport=transport).parse("m1/small")

    with pytest.raises(ContentFiltered, match="m1/small refused the prompt: PROHIBITED_CONTENT"):
        target.generate(request())
    with pytest.raises(ContentFiltered, match="m1/small refused the prompt: PROHIBITED_CONTENT"):
        stream("gemini://h", sse(blocked))


@pytest.mark.parametrize(
    ("told", "reason"),
    [("MAX_TOKENS", "length"), ("SAFETY", "content_filter"), ("MALFORMED_FUNCTION_CALL", "other")],
)
def test_gemini_says_why_it_ended(told, reason):
    payload = {"candidates": [{"finishReason": told}]}

    assert read(WIRES["gemini"], payload).finish_reason == reason


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("refusal", "content_filter"),
        ("pause_turn", "other"),
        (None, None),
    ],
)
def test_anthropic_says_why_it_ended(told, reason):
    assert read(WIRES["anthropic"], {"content": [], "stop_reason": told}).finish_reason == reason


@pytest.mark.parametrize(("told", "reason"), [("length", "length"), ("load", "other")])
def test_ollama_says_why_it_ended(told, reason):
    payload = {"message": {}, "done": True, "done_reason": told}

    assert read(WIRES["ollama"], payload).finish_reason == reason


@pytest.mark.parametrize(
    ("message", "told", "reason"),
    [
        ({"refusal": "I cannot"}, "stop", "content_filter"),
        ({}, "function_call", "tool_calls"),
        ({}, "eos", "other"),
    ],
)
def test_openai_says_why_it_ended(message, told, reason):
    payload = {"choices": [{"message": message, "finish_reason": told}]}

    assert read(WIRES["openai"], payload).finish_reason == reason


def test_openais_relatives_count_and_think_in_their_own_words():
    message = {"content": "x", "reasoning": "hm"}
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 4}

    reply = read(WIRES["openai"], {"choices": [{"message": message}], "usage": usage})

    assert reply.reasoning[0].text == "hm"
    assert reply.usage.cached_tokens == 4


def test_calls_without_an_index_are_told_apart_and_arguments_may_be_an_object():
    calls = [
        {"function": {"name": "a", "arguments": {"x": 1}}},
        {"function": {"name": "b", "arguments": "{}"}},
    ]
    events = sse({"choices": [{"delta": {"tool_calls": calls}}]}, "[DONE]")

    *_, done = stream("openai://h", events)

    assert [(call.name, call.arguments) for call in done.reply.tool_calls] == [
        ("a", {"x": 1}),
        ("b", {}),
    ]


def test_calls_that_all_have_the_index_0_are_told_apart():
    whole = [calls(0, "c1", "a", '{"x":1}'), calls(0, "c2", "b", '{"y":2}')]

    *_, done = stream("openai://h", sse(*whole, "[DONE]"))

    assert [(call.id, call.arguments) for call in done.reply.tool_calls] == [
        ("c1", {"x": 1}),
        ("c2", {"y": 2}),
    ]


def test_pieces_of_one_call_may_each_have_an_id():
    pieces = [calls(0, "c1", "a", '{"x"'), calls(0, "c2", None, ":1}")]

    *_, done = stream("openai://h", sse(*pieces, "[DONE]"))

    assert [(call.id, call.arguments) for call in done.reply.tool_calls] == [("c1", {"x": 1})]


def test_of_several_choices_the_first_is_the_reply():
    texts = [{"choices": [{"index": n, "delta": {"content": text}}]} for n, text in enumerate("AB")]

    *_, done = stream("openai://h", sse(*texts, "[DONE]"))

    assert done.reply.text == "A"


def test_ollamas_relatives_may_send_arguments_as_a_text():
    call = {"function": {"name": "look", "arguments": '{"at": 1}'}}

    reply = read(WIRES["ollama"], {"message": {"tool_calls": [call]}, "done": True})

    assert reply.tool_calls[0].arguments == {"at": 1}


@pytest.mark.parametrize(
    "arguments",
    ['{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', '{"\\ud800": 1}', "[" * 100_000],
    ids=["nan", "infinite", "half-a-character", "half-a-character-in-a-key", "deep"],
)
def test_arguments_that_are_no_json_stay_the_text_that_they_are(arguments):
    message = {"tool_calls": [{"id": "c1", "function": {"name": "a", "arguments": arguments}}]}

    reply = read(WIRES["openai"], {"choices": [{"message": message}]})

    assert reply.tool_calls[0].arguments == arguments
    assert Reply.model_validate_json(reply.model_dump_json()) == reply


def test_half_a_character_is_replaced():
    message = {"content": "a\ud83d", "reasoning": "\ud83d\ude00"}

    reply = read(WIRES["openai"], {"choices": [{"message": message}], "model": "\udc00"})

    assert (reply.text, reply.reasoning[0].text, reply.model) == ("a\ufffd", "😀", "\ufffd")


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + sse({"choices": [{"delta": {"content": "x"}}]}, "[DONE]"),
        b"data:\n\n: hm\n\n" + sse({"choices": [{"delta": {"content": "x"}}]}, "[DONE] "),
        b'data: {"choices":\ndata:[{"delta": {"content": "x"}}]}\n\ndata: [DONE]',
    ],
    ids=["byte-order-mark", "events-without-data", "data-of-two-lines"],
)
def test_events_are_cut_as_they_should_be(body):
    *_, done = stream("openai://h", body)

    assert done.reply.text == "x"


def test_an_end_without_anything_before_it_is_no_reply():
    with pytest.raises(TransientError, match="the stream ended before the reply"):
        stream("openai://h", sse("[DONE]"))


def test_a_number_beyond_all_counting_is_not_told():
    usage = {"prompt_tokens": 10**400, "completion_tokens": 2**53}

    reply = read(WIRES["openai"], {"choices": [{"message": {"content": "x"}}], "usage": usage})

    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (1, 1)
    assert reply.usage.is_estimated


@pytest.mark.parametrize(("host", "is_sent"), [("api.deepseek.com", True), ("llm.test", False)])
def test_deepseek_is_told_what_it_thought_before_it_called_tools(host, is_sent):
    asked = []

    def serve(sent: httpx.Request) -> httpx.Response:
        asked.append(json.loads(sent.content)["messages"])
        return httpx.Response(200, json={"choices": [{"message": {"content": "x"}}]})

    turns = (
        says("assistant", Reasoning(text="hm"), ToolCall(id="c1", name="look")),
        says("assistant", ToolCall(id="c2", name="look")),
        says("assistant", Reasoning(text="hm"), Text(text="so")),
    )
    registry = Registry({"LLM_M1": f"openai://k@{host}"}, transport=httpx.MockTransport(serve))
    registry.parse("m1/small")[0].generate(request(*turns))

    thoughts = [turn.get("reasoning_content") for turn in asked[0]]
    assert thoughts == (["hm", "", None] if is_sent else [None, None, None])


def test_openai_is_told_of_a_turn_without_words():
    (message,) = body(WIRES["openai"], says("assistant", Reasoning(text="hm")))["messages"]

    assert message == {"role": "assistant", "content": ""}


@pytest.mark.parametrize(("wire", "inner"), [("gemini", "generationConfig"), ("ollama", "options")])
def test_parameters_are_put_into_what_is_there(wire, inner):
    asked = body(WIRES[wire], temperature=0.5, params={inner: {"mine": 1}})

    assert asked[inner] == {"temperature": 0.5, "mine": 1}


@pytest.mark.parametrize(
    ("dsn", "content", "kind", "said"),
    [
        (
            "anthropic://h",
            sse({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
            TransientError,
            "m1/small answered 529: Overloaded",
        ),
        (
            "anthropic://h",
            sse({"type": "error", "error": {"type": "rate_limit_error", "message": "slow"}}),
            RateLimited,
            "m1/small answered with an error: slow",
        ),
        (
            "openai://h",
            sse({"error": {"code": 429, "message": "slow"}, "choices": []}),
            RateLimited,
            "m1/small answered 429: slow",
        ),
        (
            "ollama://h",
            json.dumps({"error": "the model failed"}).encode(),
            TransientError,
            "m1/small answered with an error: the model failed",
        ),
        (
            "gemini://h",
            sse({"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}),
            TransientError,
            "m1/small answered 503: busy",
        ),
        (
            "openai://h",
            sse({"error": {"code": 1302, "message": "busy"}}),
            TransientError,
            "m1/small answered with an error: busy",
        ),
        (
            "openai://h",
            sse({"choices": [{"error": {"code": 502, "message": "it died"}, "delta": {}}]}),
            TransientError,
            "m1/small broke off: it died",
        ),
    ],
    ids=[
        "anthropic",
        "anthropic-429",
        "openrouter",
        "ollama",
        "gemini",
        "code-that-is-no-status",
        "openrouter-in-mid-reply",
    ],
)
def test_an_error_in_a_stream_is_raised(dsn, content, kind, said):
    with pytest.raises(kind, match=said) as caught:
        stream(dsn, content)

    assert type(caught.value) is kind


def test_a_foreman_may_take_half_an_hour():
    assert Registry({"LLM_M5": "foreman://t@h"}).provider("m5").timeout_s == 1800.0


@pytest.mark.parametrize(("wire", "parts"), [("anthropic", "content"), ("gemini", "parts")])
def test_results_of_calls_that_were_made_together_go_together(wire, parts):
    calls = (ToolCall(id="c1", name="look"), ToolCall(id="c2", name="go"))
    results = [says("tool", ToolResult(id=c.id, name=c.name, content="ok")) for c in calls]

    asked = body(WIRES[wire], says("user"), says("assistant", *calls), *results)
    turns = asked.get("messages") or asked["contents"]

    assert [turn["role"] for turn in turns][::2] == ["user", "user"]
    assert len(turns[2][parts]) == 2


@pytest.mark.parametrize("dsn", ["openai://h", "anthropic://h", "gemini://h"])
def test_a_whole_answer_in_place_of_a_stream_is_read_as_one(dsn):
    payload = {
        "choices": [{"message": {"content": "x"}}],
        "content": [{"type": "text", "text": "x"}],
        "candidates": [{"content": {"parts": [{"text": "x"}]}}],
    }
    answers = [{"error": {"message": "who?", "code": 404}}, payload]
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=answers.pop(0)))
    (target,) = Registry({"LLM_M1": dsn}, transport=transport).parse("m1/small")

    with pytest.raises(ModelNotFound, match="m1/small answered 404: who"):
        list(target.stream(request()))
    *_, done = target.stream(request())

    assert done.reply.text == "x"
