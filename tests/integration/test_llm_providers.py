"""Every provider over real sockets, whole and streamed, and what can go wrong on the way."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from celery import Celery

from celery_lanes import Lanes, Settings
from celery_lanes.errors import ProviderError, RateLimited, StreamInterrupted, TransientError
from celery_lanes.llm.messages import Message
from celery_lanes.llm.registry import Registry
from celery_lanes.llm.reply import Done, Reply, TextDelta, Usage
from celery_lanes.llm.request import Request
from celery_lanes.llm.target import Target
from celery_lanes.testing.llm_dialects import DIALECTS, Asked, Dialect
from celery_lanes.testing.llm_stub import Answer, LLMStub
from celery_lanes.testing.memory import serving
from tests.waiting import pass_time

FAR_S = 30.0
"""A time-out that is not meant to strike; what must not wait for it ends long before."""

FORK = """
import os, sys
from celery_lanes.llm.messages import Message
from celery_lanes.llm.registry import Registry
from celery_lanes.llm.request import Request

(target,) = Registry({"LLM_M1": sys.argv[1]}).parse("m1/small")
ask = lambda text: target.generate(
    Request(model="?", messages=(Message(role="user", content=text),))
).text
assert ask("before") == "before"
if (child := os.fork()) == 0:
    is_right = [ask(f"child {n}") for n in range(20)] == [f"child {n}" for n in range(20)]
    os._exit(0 if is_right else 1)
assert [ask(f"parent {n}") for n in range(20)] == [f"parent {n}" for n in range(20)]
assert os.waitpid(child, 0)[1] == 0
assert ask("after") == "after"
target.provider.close()
"""


@pytest.fixture(params=DIALECTS, ids=lambda dialect: dialect.scheme)
def dialect(request) -> Dialect:
    return request.param


@pytest.fixture
def stub(dialect) -> Iterator[LLMStub]:
    with LLMStub(dialect=dialect) as stub:
        yield stub


@pytest.fixture
def target(stub) -> Iterator[Target]:
    registry = Registry({"LLM_M1": stub.dsn})
    yield registry.parse("m1/small")[0]
    registry.close()


@pytest.fixture
def events(dialect) -> tuple[list[bytes], list[bytes]]:
    """A stream of "hello you" in the server's dialect: up to the first word, and the rest."""
    asked = Asked("/models/small:streamGenerateContent?alt=sse", {"model": "small"})
    all_of_them = list(dialect.events(asked, "hello you"))
    first = next(at for at, event in enumerate(all_of_them) if b"hell" in event)
    return all_of_them[: first + 1], all_of_them[first + 1 :]


def asking(text: str = "hello you") -> Request:
    return Request(model="?", messages=(Message(role="user", content=text),))


def whole(target: Target, text: str = "hello you", **options) -> Reply:
    return target.generate(asking(text), **options)


def streamed(target: Target, text: str = "hello you", **options) -> Reply:
    with target.stream(asking(text), **options) as stream:
        *_, done = stream
    assert isinstance(done, Done)
    return done.reply


MODES = pytest.mark.parametrize("ask", [whole, streamed])


@MODES
def test_a_call_is_answered(stub, target, ask):
    reply = ask(target, idempotency_key="n1")

    usage = Usage(input_tokens=3, output_tokens=3)
    assert reply == Reply(text="hello you", usage=usage, model="small", finish_reason="stop")
    stub.wait_until(lambda: stub.log)
    (record,) = stub.log
    assert (record.model, record.prompt, record.status) == ("small", "hello you", 200)
    assert record.idempotency_key == "n1"


def test_pieces_come_as_they_are_sent(stub, target, events):
    (begun, rest), may_go_on = events, threading.Event()

    def halting() -> Iterator[bytes]:
        yield from begun
        assert may_go_on.wait(FAR_S)
        yield from rest

    stub.script(Answer(events=halting()))
    with target.stream(asking()) as stream:
        first = next(stream)
        may_go_on.set()
        *_, done = stream

    assert isinstance(first, TextDelta)
    assert done.reply.text == "hello you"


def test_a_reader_that_leaves_closes_the_connection(stub, target, events):
    def endless() -> Iterator[bytes]:
        yield from events[0]
        while True:
            pass_time(0.01, because="it writes so fast")
            yield b"\n"

    stub.script(Answer(events=endless()))
    with target.stream(asking()) as stream:
        next(stream)
        stub.wait_until(lambda: stub.inside == 1)

    stub.wait_until(lambda: stub.inside == 0)
    assert [record.status for record in stub.log] == [None]


def test_a_stream_that_is_cut_is_an_interruption(stub, target, events):
    stub.script(Answer(events=events[0], cuts=True))
    stream = target.stream(asking())

    with pytest.raises(StreamInterrupted, match="m1/small broke off") as caught:
        list(stream)

    assert stream.partial.text != ""
    assert caught.value.usage["is_estimated"] or caught.value.usage["output_tokens"]
    assert streamed(target).text == "hello you"


def test_a_whole_reply_that_is_cut_is_transient(stub, target):
    stub.script(Answer(cuts=True, body={"text": "x" * 1000}))

    with pytest.raises(TransientError, match="m1/small broke off"):
        whole(target)


def test_a_stream_that_falls_silent_is_given_up(stub, target, events):
    stub.script(Answer(events=events[0], hangs=True))

    with pytest.raises(StreamInterrupted, match=r"m1/small was silent for 0\.3 s"):
        streamed(target, timeout_s=FAR_S, idle_s=0.3)

    stub.wait_until(lambda: stub.inside == 0)


def test_signs_of_life_without_a_word_are_silence(stub, target):
    def pings() -> Iterator[bytes]:
        while True:
            pass_time(0.02, because="it pings so often")
            yield b"\n" if target.provider._wire.framing.__name__ == "ndjson" else b": ping\n\n"

    stub.script(Answer(events=pings()))

    with pytest.raises(TransientError, match=r"m1/small was silent for 0\.3 s"):
        streamed(target, timeout_s=FAR_S, idle_s=0.3)

    stub.wait_until(lambda: stub.inside == 0)


def test_a_stream_that_does_not_end_is_given_up_at_its_deadline(stub, target, events):
    def endless() -> Iterator[bytes]:
        while True:
            pass_time(0.02, because="it writes so fast")
            yield from events[0]

    stub.script(Answer(events=endless()))

    with pytest.raises(StreamInterrupted, match=r"m1/small gave no answer within 0\.5 s"):
        streamed(target, timeout_s=0.5)

    stub.wait_until(lambda: stub.inside == 0)


@MODES
def test_a_provider_that_hangs_is_given_up(stub, target, ask):
    stub.script(Answer(hangs=True))

    with pytest.raises(TransientError, match=r"m1/small gave no answer within 0\.2 s"):
        ask(target, timeout_s=0.2)

    stub.wait_until(lambda: stub.inside == 0)


@MODES
def test_a_busy_provider_says_when_to_come_back(stub, target, ask):
    headers = {"Retry-After": "7", "X-Request-Id": "req_7"}
    stub.script(Answer(status=429, body={"error": {"message": "slow down"}}, headers=headers))

    with pytest.raises(RateLimited, match="m1/small answered 429: slow down") as caught:
        ask(target)

    error = caught.value
    assert (error.status, error.retry_after_s, error.request_id) == (429, 7.0, "req_7")
    assert ask(target).text == "hello you"


@MODES
def test_a_redirect_is_not_followed_with_the_key(stub, target, ask, dialect):
    with LLMStub(dialect=dialect) as other:
        headers = {"Location": other.url + "/messages"}
        stub.script(Answer(status=307, body={}, headers=headers))

        with pytest.raises(ProviderError, match="m1/small answered 307"):
            ask(target)

        assert other.log == ()


@MODES
@pytest.mark.parametrize("body", ["{", "", "[]", "<html>"])
def test_nonsense_is_transient(stub, target, ask, body):
    stub.script(Answer(body=body))

    with pytest.raises(TransientError, match=r"m1/small (answered oddly|broke off)"):
        ask(target)


def test_many_streams_at_once_lose_and_mix_nothing(stub, target):
    texts = [f"{n} " * 200 for n in range(24)]

    def read(text: str) -> str:
        with target.stream(asking(text)) as stream:
            return "".join(piece.text for piece in stream if isinstance(piece, TextDelta))

    with ThreadPoolExecutor(len(texts)) as pool:
        assert list(pool.map(read, texts)) == texts


def test_a_forked_process_has_connections_of_its_own(stub):
    result = subprocess.run(
        [sys.executable, "-c", FORK, stub.dsn], check=False, capture_output=True, text=True
    )

    assert (result.returncode, result.stderr) == (0, "")
    assert stub.served == 42


def test_a_task_in_a_lane_asks_it(stub, monkeypatch):
    monkeypatch.setenv("LLM_M1", stub.dsn)
    app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    settings = {"store": {"url": "memory://"}, "lanes": {"m1": {"max_concurrent": 1}}}
    Lanes(app, Settings.parse(settings))

    with serving(app):
        prompt = [{"role": "user", "content": [{"type": "text", "text": "hello you"}]}]
        call = app.tasks["celery_lanes.generate"].apply_async(("m1/small", prompt), caller="ann")
        result = call.get(timeout=FAR_S)
    app.lanes.registry.close()

    assert (result["text"], result["lane"], result["model"]) == ("hello you", "m1", "small")
    assert result["usage"]["input_tokens"] == 3
    assert "key" not in json.dumps(result)
