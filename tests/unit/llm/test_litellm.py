"""LiteLLM's models as a provider: for real, so only where LiteLLM is installed."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from celery_lanes import errors
from celery_lanes.llm.http.hangup import CallCancelled, Hangup, interruptible
from celery_lanes.llm.messages import Message
from celery_lanes.llm.registry import Registry
from celery_lanes.llm.reply import Done, Reply, TextDelta
from celery_lanes.llm.request import Request, Tool
from celery_lanes.llm.target import Target
from celery_lanes.testing.llm_stub import Answer, LLMStub

is_there = importlib.util.find_spec("litellm") is not None
needs_litellm = pytest.mark.skipif(
    not is_there, reason="LiteLLM is no part of the dev extra: pip install litellm"
)
HELLO = (Message(role="user", content="hello you"),)


@pytest.fixture
def stub() -> Iterator[LLMStub]:
    with LLMStub() as stub:
        yield stub


@pytest.fixture
def target() -> Iterator[Target]:
    with closing(Registry({})) as registry:
        yield registry.parse("litellm/openai/small")[0]


def asking(stub: LLMStub, **options: Any) -> Request:
    params = {"api_base": stub.url, "api_key": "sk-very-secret"}
    return Request(model="?", messages=HELLO, params=params, **options)


def streamed(target: Target, request: Request) -> Reply:
    *pieces, done = target.stream(request, timeout_s=30)
    assert isinstance(done, Done)
    texts = "".join(piece.text for piece in pieces if isinstance(piece, TextDelta))
    assert texts == done.reply.text
    return done.reply


def whole(target: Target, request: Request) -> Reply:
    return target.generate(request, timeout_s=30, idempotency_key="n1")


MODES = pytest.mark.parametrize("ask", [whole, streamed])


@needs_litellm
@MODES
def test_a_call_is_answered(stub, target, ask):
    reply = ask(target, asking(stub, temperature=0.5, top_k=3))

    assert (reply.text, reply.finish_reason) == ("hello you", "stop")
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (3, 3)
    (record,) = stub.log
    assert (record.model, record.prompt) == ("small", "hello you")
    assert record.idempotency_key == ("n1" if ask is whole else None)


@needs_litellm
@MODES
def test_a_busy_provider_is_asked_once_and_says_when_to_come_back(stub, target, ask):
    body = {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}
    stub.script(Answer(status=429, body=body, headers={"Retry-After": "7"}))

    with pytest.raises(errors.RateLimited, match="slow down") as caught:
        ask(target, asking(stub))

    assert (caught.value.status, caught.value.retry_after_s) == (429, 7.0)
    assert [record.status for record in stub.log] == [429]


@needs_litellm
@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, {"error": {"message": "sk-very-secret is wrong"}}, errors.AuthenticationFailed),
        (404, {"error": {"message": "who?", "code": "model_not_found"}}, errors.ModelNotFound),
        (
            400,
            {"error": {"message": "too long", "code": "context_length_exceeded"}},
            errors.ContextTooLong,
        ),
        (500, {"error": {"message": "oh"}}, errors.TransientError),
    ],
)
def test_its_errors_are_ours(stub, target, monkeypatch, status, body, kind):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    stub.script(Answer(status=status, body=body))

    with pytest.raises(errors.ProviderError) as caught:
        whole(target, asking(stub))

    assert type(caught.value) is kind
    assert caught.value.status == status
    assert "sk-very-secret" not in repr(caught.value.args)


@needs_litellm
def test_a_provider_that_hangs_is_given_up(stub, target):
    stub.script(Answer(hangs=True))

    with pytest.raises(errors.TransientError) as caught:
        target.generate(asking(stub), timeout_s=0.3)
    assert caught.value.given_s == 0.3


@needs_litellm
@MODES
def test_a_call_that_is_stopped_ends_at_once_and_hangs_up(stub, target, ask):
    stub.script(Answer(hangs=True))
    hangup = Hangup()

    def stop():
        stub.wait_until(lambda: stub.inside == 1)
        hangup.cut(CallCancelled())

    stopping = threading.Thread(target=stop)
    stopping.start()
    with interruptible(hangup), pytest.raises(CallCancelled):
        ask(target, asking(stub))

    stub.wait_until(lambda: stub.inside == 0)
    stopping.join()


@needs_litellm
def test_tools_that_it_would_leave_out_are_refused(stub):
    with closing(Registry({})) as registry:
        (target,) = registry.parse("litellm/petals/petals-team/StableBeluga2")

        with pytest.raises(errors.Unsupported, match="no place for tools"):
            whole(target, asking(stub, tools=(Tool(name="look"),)))


@pytest.mark.skipif(is_there, reason="LiteLLM is installed")
def test_without_litellm_its_models_say_what_to_install(stub, target):
    with pytest.raises(errors.ConfigError, match=r"pip install celery-lanes\[litellm\]"):
        whole(target, asking(stub))
