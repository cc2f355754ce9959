"""Replies that are read as they come: real workers, real sockets, a stub that sees who hangs up."""

from __future__ import annotations

import asyncio
import json
import threading
from itertools import groupby

import pytest

from celery_lanes.testing.llm_stub import Answer
from tests.integration.conftest import running, until, waiting
from tests.waiting import pass_time

MODEL = "ollama/small"
END = [
    b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n',
    b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}\n\n',
    b"data: [DONE]\n\n",
]
CAP = "[lanes.ollama]\nmax_concurrent = {}"
AT_ONCE = """
[lanes.ollama]
preemption = true
min_runtime = 0
preempt_grace = "500ms"
max_concurrent = 1
"""


def said(word) -> bytes:
    delta = {"index": 0, "delta": {"content": word}}
    return b"data: " + json.dumps({"model": "small", "choices": [delta]}).encode() + b"\n\n"


def halting(*words, go_on=None):
    """Say some words, and then nothing, until the client has gone or ``go_on`` is set."""
    yield from map(said, words)
    while not (go_on or threading.Event()).wait(0.02):
        yield b": nothing\n\n"  # how fast it writes, and sees that nobody listens
    yield from END


def counted(words, together):
    """Say the numbers up to ``words``, in some haste, when all are there."""
    together.wait(30)
    for number in range(words):
        yield said(f"{number} ")
        pass_time(0.02, because="it writes so fast")
    yield from END


@pytest.fixture
def make(make_shop, observer):
    """Make a shop whose workers ask the observer."""

    def make(*workers, **config):
        shop = make_shop(**config)
        for options in workers:
            start(shop, observer, **options)
        return shop

    return make


def start(shop, observer, **options):
    return shop.worker(env={"LLM_OLLAMA": observer.dsn}, **options)


def ask(shop, *args, stream=True, **options):
    generate = shop.tasks.app.tasks["celery_lanes.generate"]
    return generate.apply_async((MODEL, *(args or ("hello",))), stream=stream, **options)


def read(shop, call, **terms):
    return list(shop.tasks.lanes.stream(call, timeout=30, **terms))


def kinds(events):
    return [kind for kind, _ in groupby(event.type for event in events)]


def text(events):
    return "".join(event.text for event in events)


def test_many_streams_of_one_worker_lose_and_reorder_nothing(make, observer):
    calls, words = 40, 30
    together = threading.Barrier(calls)
    whole = "".join(f"{number} " for number in range(words))
    shop = make({"pool": "threads", "concurrency": calls}, rest=CAP.format(calls))
    observer.script(*(Answer(events=counted(words, together)) for _ in range(calls)))
    lanes = shop.tasks.lanes

    async def read_in_two(call):
        first = []
        async for event in lanes.stream(call, timeout=30):
            first.append(event)
            if len(first) == 5:
                break
        return first, [event async for event in lanes.stream(call.id, after=first[-1].id)]

    async def read_all(calls):
        return await asyncio.gather(*map(read_in_two, calls))

    results = [ask(shop) for _ in range(calls)]
    seen = asyncio.run(read_all(results))

    assert observer.highest == calls
    assert {text(first + rest) for first, rest in seen} == {whole}
    assert {tuple(kinds(first + rest)) for first, rest in seen} == {("start", "text", "done")}
    assert [first + rest for first, rest in seen] == [read(shop, call) for call in results]
    result = results[0].get(timeout=10)
    assert (result["text"], result["usage"]["output_tokens"]) == (whole, 7)
    assert seen[0][1][-1].what.usage.output_tokens == 7


@pytest.mark.crash
def test_a_stream_whose_worker_is_killed_begins_again_and_ends(make, observer):
    shop = make()
    worker = start(shop, observer)
    observer.script(Answer(events=halting("half ", "of it")), Answer(events=[said("all"), *END]))
    call = ask(shop)
    events = iter(shop.tasks.lanes.stream(call, timeout=60))
    begun = [next(events), next(events)]

    worker.signal_all(9)
    worker.wait()
    start(shop, observer)
    rest = list(events)

    assert kinds(begun) == ["start", "text"]
    assert kinds(rest[-3:]) == ["restart", "text", "done"]
    assert rest[-3].what.attempt == 2
    assert text(rest[-2:]) == call.get(timeout=10)["text"] == "all"


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_a_stream_that_is_stopped_is_cut_off_at_its_provider(make, observer, pool):
    shop = make({"pool": pool, "concurrency": 1})
    lanes = shop.tasks.lanes
    observer.script(
        Answer(hangs=True),
        Answer(events=halting("some ", "words")),
        Answer(events=halting("drained", go_on=(go_on := threading.Event()))),
    )

    mute = ask(shop)
    observer.wait_until(lambda: observer.inside == 1)
    lanes.stop(mute)
    observer.wait_until(lambda: observer.inside == 0)

    speaking = ask(shop)
    reader = lanes.stream(speaking, timeout=30)
    begun = [next(reader), next(reader)]
    reader.cancel()
    observer.wait_until(lambda: observer.inside == 0 and len(observer.log) == 2)

    drained = ask(shop)
    with lanes.stream(drained, timeout=30) as reader:
        begun_too = [next(reader), next(reader)]
        reader.cancel(drain=True)
        assert kinds(list(reader)) == ["cancelled"]
        assert observer.inside == 1
    go_on.set()

    assert kinds(read(shop, mute)) == ["start", "cancelled"]
    assert mute.get(timeout=10)["finish_reason"] == "cancelled"
    assert kinds(read(shop, speaking)) == ["start", "text", "cancelled"]
    result = speaking.get(timeout=10)
    assert (result["text"], result["finish_reason"]) == (text(read(shop, speaking)), "cancelled")
    assert result["usage"]["is_estimated"]
    assert result["usage"]["output_tokens"] > 0
    assert drained.get(timeout=10)["text"] == "drained"
    assert drained.get()["usage"]["output_tokens"] == 7
    assert kinds(begun) == kinds(begun_too) == ["start", "text"]


@pytest.mark.parametrize(
    ("pool", "stream"),
    [("threads", True), ("solo", False), ("prefork", True)],
    ids=["threads-stream", "solo-whole", "prefork-stream"],
)
def test_a_call_makes_room_between_two_chunks_and_begins_again(make, observer, pool, stream):
    shop = make({"pool": pool, "concurrency": 1}, rest=AT_ONCE)
    low = Answer(events=halting("low")) if stream else Answer(hangs=True)
    observer.script(low)
    call = ask(shop, stream=stream, lane_priority=-10, preemptible=True)
    observer.wait_until(lambda: observer.inside == 1)

    urgent = ask(shop, "vip", lane_priority=10).get(timeout=30)

    assert urgent["text"] == "vip"
    assert call.get(timeout=30)["text"] == "hello"
    observer.wait_until(lambda: len(observer.log) == 3)  # it logs who left when it notices
    assert sorted(record.prompt for record in observer.log) == ["hello", "hello", "vip"]
    if stream:
        assert kinds(read(shop, call)) == ["restart", "text", "done"]


def test_the_end_comes_by_the_result_where_nobody_could_write_it(make, observer):
    shop = make({"concurrency": 1}, rest=CAP.format(1))
    lanes = shop.tasks.lanes
    observer.script(Answer(events=halting("on and on")))
    ended, revoked = ask(shop), ask(shop)
    reader = lanes.stream(ended, timeout=30)
    begun = [next(reader), next(reader)]
    until(lambda: (running(shop), waiting(shop)) == (1, 1))

    lanes.stop(revoked)  # it waits
    ended.revoke(terminate=True, signal="SIGKILL")

    assert kinds(begun + list(reader)) == ["start", "text", "cancelled"]
    assert kinds(read(shop, revoked)) == ["cancelled"]
    assert revoked.state == "REVOKED"


def test_a_provider_that_falls_silent_ends_the_stream_with_an_error(make, observer):
    shop = make({"pool": "threads", "concurrency": 2})
    observer.script(
        Answer(events=halting()), Answer(events=halting()), Answer(events=halting("one"))
    )
    generate = shop.tasks.app.tasks["celery_lanes.generate"]

    first = generate.apply_async((MODEL, "hello"), {"first_token_s": 0.3}, stream=True)
    *_, never_begun = read(shop, first)
    second = generate.apply_async((MODEL, "hello"), {"idle_s": 0.3}, stream=True)
    *_, broken = read(shop, second)

    assert never_begun.what.error_class == "TransientError"
    assert "began no answer within 0.3 s" in never_begun.what.message
    assert len(never_begun.what.attempts) == 2
    assert broken.what.error_class == "StreamInterrupted"
    assert "was silent for 0.3 s" in broken.what.message
    assert text(read(shop, second)) == "one"


@pytest.mark.crash
def test_an_established_stream_frees_its_slot_but_not_its_process_and_is_not_lost(make, observer):
    establish = CAP.format(1) + '\nlease_ttl = "3s"\nstream_slot = "establish"'
    shop = make(rest=establish)
    worker = start(shop, observer, concurrency=2)
    observer.script(*(Answer(events=halting("half")) for _ in range(2)))
    calls = [ask(shop) for _ in range(3)]
    until(lambda: (established(shop), running(shop), waiting(shop)) == (2, 0, 1))
    assert observer.highest == 2

    worker.signal_all(9)
    worker.wait()
    start(shop, observer, concurrency=2)

    assert [call.get(timeout=30)["text"] for call in calls] == ["hello"] * 3
    until(lambda: (established(shop), running(shop), waiting(shop)) == (0, 0, 0))
    begun_anew = [kinds(read(shop, call)) == ["restart", "text", "done"] for call in calls]
    assert sorted(begun_anew) == [False, True, True]


def established(shop):
    return shop.tasks.lanes.lane("ollama").stats().established
