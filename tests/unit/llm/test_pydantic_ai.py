"""pydantic-ai's models as a provider."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing

import pytest
from billiard.exceptions import SoftTimeLimitExceeded

from celery_lanes import errors
from celery_lanes.llm.http.hangup import CallCancelled, Hangup, interruptible
from celery_lanes.llm.messages import (
    File,
    Image,
    Message,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
)
from celery_lanes.llm.provider import Provider
from celery_lanes.llm.providers.pydantic_ai import PydanticAIProvider
from celery_lanes.llm.registry import Registry
from celery_lanes.llm.reply import Done, TextDelta
from celery_lanes.llm.request import Request, Schema, Tool, ToolName

theirs = pytest.importorskip("pydantic_ai.messages")
from pydantic_ai import exceptions  # noqa: E402
from pydantic_ai.models.function import DeltaThinkingPart, DeltaToolCall, FunctionModel  # noqa: E402
from pydantic_ai.usage import RequestUsage  # noqa: E402

ASK = Request(model="mine", messages=(Message(role="user", content="hi"),))
FULL = ASK.model_copy(
    update={
        "messages": (
            Message(role="system", content="be kind"),
            Message(
                role="user",
                content=(
                    Text(text="what?"),
                    Image(data="AAE=", media_type="image/png"),
                    File(url="https://x.test/a.pdf"),
                ),
            ),
            Message(
                role="assistant",
                content=(
                    Reasoning(text="hm", signature="sig"),
                    ToolCall(id="c1", name="look", arguments={"at": "it"}),
                ),
            ),
            Message(role="tool", content=(ToolResult(id="c1", name="look", content="a cat"),)),
        ),
        "tools": (Tool(name="look", description="see"),),
        "tool_choice": ToolName(name="look"),
        "output": Schema(json_schema={"type": "object", "properties": {}}),
        "effort": "low",
        "max_tokens": 9,
        "temperature": 0.0,
    }
)
RESPONSE = theirs.ModelResponse(
    parts=[
        theirs.ThinkingPart("hmm", signature="s2"),
        theirs.TextPart("a cat"),
        theirs.ToolCallPart("look", {"at": "it"}, "c1"),
    ],
    usage=RequestUsage(input_tokens=11, output_tokens=7, cache_read_tokens=4),
    model_name="small-2026",
    provider_response_id="req_1",
    finish_reason="tool_call",
)


def provider(answer=None, stream=None) -> PydanticAIProvider:
    model = FunctionModel(
        answer, stream_function=stream, profile={"supports_json_schema_output": True}
    )
    return PydanticAIProvider(models={"mine": model})


def raising(error: BaseException):
    def answer(messages, info):
        raise error

    return answer


def test_a_whole_reply_is_read():
    with closing(provider(lambda *_: RESPONSE)) as asked:
        reply = asked.generate(ASK, timeout_s=30)

    assert isinstance(asked, Provider)
    assert reply.text == "a cat"
    assert reply.reasoning == (Reasoning(text="hmm", signature="s2"),)
    assert reply.tool_calls == (ToolCall(id="c1", name="look", arguments={"at": "it"}),)
    assert (reply.finish_reason, reply.request_id) == ("tool_calls", "req_1")
    usage = reply.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens) == (11, 7, 4)


def test_a_request_is_written():
    seen = []

    def answer(messages, info):
        seen.append((messages, info))
        return RESPONSE

    with closing(provider(answer)) as asked:
        asked.generate(FULL, timeout_s=30, idempotency_key="n1")

    ((messages, info),) = seen
    kinds = [part.part_kind for message in messages for part in message.parts]
    assert kinds == ["system-prompt", "user-prompt", "thinking", "tool-call", "tool-return"]
    text, image, file = messages[1].parts[0].content
    assert (text, image.media_type, file.url) == ("what?", "image/png", "https://x.test/a.pdf")
    settings = info.model_settings
    assert (settings["max_tokens"], settings["temperature"], settings["max_retries"]) == (9, 0.0, 0)
    assert settings["tool_choice"] == ["look"]
    assert settings["extra_headers"] == {"Idempotency-Key": "n1"}
    assert 0 < settings["timeout"] <= 30
    assert [tool.name for tool in info.function_tools] == ["look"]


async def streams(messages, info):
    yield {0: DeltaThinkingPart(content="hm")}
    yield "a "
    yield "cat"
    yield {1: DeltaToolCall(name="look", json_args='{"at"', tool_call_id="c1")}
    yield {1: DeltaToolCall(json_args=': "it"}')}


def test_a_stream_is_read_piece_by_piece():
    with closing(provider(stream=streams)) as asked:
        *pieces, done = asked.stream(ASK, timeout_s=30)

    assert [piece.text for piece in pieces if isinstance(piece, TextDelta)] == ["a ", "cat"]
    assert isinstance(done, Done)
    assert done.reply.text == "a cat"
    assert done.reply.reasoning == (Reasoning(text="hm"),)
    assert done.reply.tool_calls == (ToolCall(id="c1", name="look", arguments={"at": "it"}),)
    assert done.reply.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (exceptions.ModelHTTPError(429, "m", {"message": "slow"}), errors.RateLimited),
        (exceptions.ModelHTTPError(404, "m", {"message": "who?"}), errors.ModelNotFound),
        (exceptions.ModelHTTPError(500, "m", None), errors.TransientError),
        (exceptions.ModelAPIError("m", "reset"), errors.TransientError),
        (exceptions.ContentFilterError("no"), errors.ContentFiltered),
        (exceptions.UserError("set the key"), errors.BadRequest),
        (exceptions.UserError("this output is not supported"), errors.Unsupported),
        (KeyError("oh"), errors.TransientError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_its_errors_are_ours(error, kind):
    with closing(provider(raising(error))) as asked, pytest.raises(errors.ProviderError) as caught:
        asked.generate(ASK, timeout_s=30)

    assert type(caught.value) is kind
    assert caught.value.status == getattr(error, "status_code", None)
    assert str(caught.value).startswith("pydantic_ai/mine failed: ")


def test_what_ends_a_call_from_without_stays_what_it_is():
    hidden = RuntimeError("wrapped")
    hidden.__cause__ = SoftTimeLimitExceeded()

    with closing(provider(raising(hidden))) as asked, pytest.raises(SoftTimeLimitExceeded):
        asked.generate(ASK, timeout_s=30)


def test_a_key_of_the_environment_is_cut_out(monkeypatch):
    monkeypatch.setenv("X_API_KEY", "sk-very-secret")

    with (
        closing(provider(raising(KeyError("sk-very-secret is odd")))) as asked,
        pytest.raises(errors.TransientError, match=r"\*\*\* is odd") as caught,
    ):
        asked.generate(ASK, timeout_s=30)

    assert "sk-very" not in repr(caught.value.args)


def test_a_call_ends_at_its_deadline_and_is_cancelled():
    cancelled = threading.Event()

    async def hangs(messages, info):
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with (
        closing(provider(hangs)) as asked,
        pytest.raises(errors.TransientError, match="gave no answer within") as caught,
    ):
        asked.generate(ASK, timeout_s=0.2)
    assert caught.value.given_s == 0.2

    assert cancelled.wait(30)


@pytest.mark.parametrize(
    "ask",
    [
        lambda asked: asked.generate(ASK, timeout_s=1000),
        lambda asked: list(asked.stream(ASK, timeout_s=1000)),
    ],
    ids=["whole", "streamed"],
)
def test_a_call_that_is_stopped_while_the_model_is_silent_ends_at_once(ask):
    silent, cancelled = threading.Event(), threading.Event()

    async def falls_silent(messages, info):
        try:
            yield "half"
            silent.set()
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def is_silent(messages, info):
        return [piece async for piece in falls_silent(messages, info)]

    hangup = Hangup()
    stopping = threading.Thread(target=lambda: silent.wait(30) and hangup.cut(CallCancelled()))
    stopping.start()
    with (
        closing(provider(is_silent, falls_silent)) as asked,
        interruptible(hangup),
        pytest.raises(CallCancelled),
    ):
        ask(asked)

    assert cancelled.wait(30)
    stopping.join()


def test_a_reader_that_leaves_stops_the_model():
    closed = threading.Event()

    async def goes_on(messages, info):
        try:
            yield "a"
            await asyncio.Event().wait()
        finally:
            closed.set()

    with closing(provider(stream=goes_on)) as asked:
        with asked.stream(ASK, timeout_s=30) as stream:
            assert next(stream).text == "a"
        assert closed.wait(30)


def test_an_error_before_the_first_piece_is_raised_at_once_and_later_interrupts():
    async def fails(messages, info):
        raise exceptions.ModelHTTPError(503, "m", None)
        yield ""

    async def breaks(messages, info):
        yield "a"
        raise exceptions.ModelHTTPError(503, "m", None)

    with closing(provider(stream=fails)) as asked, pytest.raises(errors.TransientError) as caught:
        asked.stream(ASK, timeout_s=30)
    assert type(caught.value) is errors.TransientError
    with closing(provider(stream=breaks)) as asked:
        stream = asked.stream(ASK, timeout_s=30)
        with pytest.raises(errors.StreamInterrupted, match="in mid-reply"):
            list(stream)


def test_it_is_known_by_name():
    with closing(Registry({})) as registry:
        (target,) = registry.parse("pydantic-ai/test:x")

        assert str(target) == "pydantic_ai/test:x"
        assert isinstance(target.provider, PydanticAIProvider)


def test_many_threads_ask_one_loop():
    replies = []
    with closing(provider(lambda *_: RESPONSE)) as asked:
        callers = [
            threading.Thread(target=lambda: replies.append(asked.generate(ASK, timeout_s=30)))
            for _ in range(8)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()

    assert [reply.text for reply in replies] == ["a cat"] * 8
