"""Chains outside tasks: each attempt holds a slot of its model's lane."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from celery import Celery

from celery_lanes import Lanes, Settings, call_context
from celery_lanes.callinfo import CallInfo
from celery_lanes.errors import (
    ChainExhausted,
    LaneBusy,
    ModelNotFound,
    RateLimited,
    StreamInterrupted,
    TransientError,
)
from celery_lanes.llm.messages import Message
from celery_lanes.llm.provider import Provider
from celery_lanes.llm.providers.fake import FakeProvider
from celery_lanes.llm.reply import Reply, Usage
from celery_lanes.llm.request import Request
from celery_lanes.slots.provider import wrap_provider_for_lane
from celery_lanes.store.quota import Quota
from tests.waiting import until

ASK = Request(model="?", messages=(Message(role="user", content="hello"),))


@pytest.fixture
def lanes():
    app = Celery("shop", broker="memory://", set_as_current=False)
    tables = {name: {"max_concurrent": 1} for name in "abc"}
    tables["c"]["stream_slot"] = "establish"
    tables["d"] = {"max_concurrent": 8, "adaptive": True}
    lanes = Lanes(app, Settings.parse({"store": {"url": "memory://chains"}, "lanes": tables}))
    for name in tables:
        lanes.registry.register_provider(FakeProvider(name))
    yield lanes
    lanes.parts.store.clear()
    app.close()


def running(lanes, names="ab") -> dict[str, int]:
    return {lane: lanes.parts.store.snapshot(lane).running for lane in names}


def test_the_cap_holds_for_chains_in_threads_and_each_target_has_its_lanes(lanes):
    inside, most, lock = [], [], threading.Lock()

    def answer(request):
        with lock:
            inside.append(request)
            most.append((len(inside), running(lanes)["a"]))
        with lock:
            inside.pop()
        return "hello"

    lanes.registry.provider("a").script(*[answer] * 8)
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: lanes.chain("a/x,b/y").generate(ASK), range(8)))

    assert [reply.attempts[0].lane for reply in replies] == ["a"] * 8
    assert most == [(1, 1)] * 8
    assert running(lanes) == {"a": 0, "b": 0}


def test_who_is_not_asked_needs_no_key(lanes):
    assert lanes.chain("a/x,openai/y").generate(ASK).attempts[-1].target == "a/x"


def test_one_lanes_slot_is_given_back_before_the_next_lane_is_asked(lanes):
    seen = []

    def missing(request):
        seen.append(running(lanes))
        return ModelNotFound("who?", 404)

    lanes.registry.provider("a").script(missing)
    lanes.registry.provider("b").script(lambda _: seen.append(running(lanes)) or "hello")

    assert lanes.chain("a/x,b/y").generate(ASK).text == "hello"
    assert seen == [{"a": 1, "b": 0}, {"a": 0, "b": 1}]


def test_a_stream_holds_its_slot_to_its_end(lanes):
    with lanes.chain("a/x").stream(ASK) as stream:
        next(stream)
        assert running(lanes)["a"] == 1
    assert running(lanes)["a"] == 0

    *_, done = lanes.chain("a/x").stream(ASK)
    assert (done.reply.text, running(lanes)["a"]) == ("hello", 0)


def test_a_stream_that_need_only_be_established_gives_its_slot_back_with_its_first_piece(lanes):
    held = []
    lanes.registry.provider("c").script(lambda _: held.append(running(lanes, "c")) or "two words")

    with lanes.chain("c/x").stream(ASK) as stream, lanes.chain("c/x").stream(ASK) as other:
        assert (held, running(lanes, "c")) == ([{"c": 1}], {"c": 0})
        *_, done = stream
        assert len(list(other)) > 0

    assert (done.reply.text, running(lanes, "c")) == ("two words", {"c": 0})


@pytest.mark.parametrize("lane", ["a", "c"], ids=["full", "establish"])
def test_the_time_of_a_stream_that_breaks_tells_nothing(lanes, lane):
    lanes.registry.provider(lane).script(["two", TransientError("it broke")])

    with pytest.raises(StreamInterrupted):
        list(lanes.chain(f"{lane}/x").stream(ASK))

    ledger = lanes.parts.store._lanes[lane]
    assert not ledger.leases
    assert bool(ledger.times_ms) == (lane == "c")  # its slot's time had ended well by then


def test_a_stream_that_is_dropped_gives_its_slot_back(lanes):
    for _ in range(2):
        for _ in lanes.chain("a/x", max_wait=10).stream(ASK):
            break
    until(lambda: running(lanes)["a"] == 0)

    reply = lanes.chain("a/x", max_wait=0).generate(ASK)

    assert [(a.target, a.error_class) for a in reply.attempts] == [("a/x", None)]


def test_a_lane_without_room_is_gone_on_from(lanes):
    with lanes.slot("a/x"):
        reply = lanes.chain("a/x,b/y", max_wait=0).generate(ASK)
        with call_context(caller="ann"), lanes.slot("b/y"), pytest.raises(ChainExhausted) as caught:
            lanes.chain("a/x,b/y", max_wait=0).generate(ASK)

    assert [(a.target, a.error_class) for a in reply.attempts] == [
        ("a/x", "LaneBusy"),
        ("b/y", None),
    ]
    assert [a["error_class"] for a in caught.value.attempts] == ["LaneBusy", "LaneBusy"]
    assert CallInfo.from_error(caught.value).caller == "ann"
    assert lanes.health.conditions() == []


def test_a_provider_by_itself_may_hold_slots_as_well(lanes):
    provider = wrap_provider_for_lane(lanes.registry.provider("a"), lanes)
    lanes.registry.provider("a").script(lambda _: str(running(lanes)["a"]))

    assert isinstance(provider, Provider)
    assert provider.generate(ASK, timeout_s=9).text == "1"


def test_the_wait_for_a_slot_counts_to_the_time_of_a_chains_call(lanes):
    left = []
    provider = lanes.registry.provider("a")
    ask = provider.generate
    provider.generate = lambda request, **terms: (
        left.append(terms["timeout_s"]) or ask(request, **terms)
    )
    chain = lanes.chain("a/x")
    with lanes.slot(lane="a") as slot:
        threading.Timer(0.3, slot.release).start()
        chain.generate(ASK, timeout_s=60)

    assert 0 < left[0] < 60 - 0.25


def whole(chain):
    return chain.generate(ASK)


def streamed(chain):
    *_, done = chain.stream(ASK)
    return done.reply


@pytest.mark.parametrize("ask", [whole, streamed])
def test_the_ledger_tells_the_wait_for_a_slot_from_the_time_of_the_attempt(lanes, ask):
    with lanes.slot(lane="a") as slot:
        began_at = time.monotonic()
        threading.Timer(0.3, slot.release).start()
        (attempt,) = ask(lanes.chain("a/x")).attempts
        took_s = time.monotonic() - began_at

    assert attempt.queued_s > 0.25
    assert attempt.queued_s + attempt.ran_s <= took_s


def test_a_chain_that_gets_no_slot_in_its_time_ends(lanes):
    with lanes.slot(lane="a"), pytest.raises((ChainExhausted, LaneBusy)):
        lanes.chain("a/x").generate(ASK, timeout_s=0.2)


# -- what a lane hears of its provider

BUSY = RateLimited("slow down", 429, 300)


def waits_s(lanes, lane) -> int:
    return round(lanes.lane(lane).stats().provider_wait_ms / 1000)


@pytest.mark.parametrize("ask", [whole, streamed])
def test_a_lane_hears_that_its_provider_is_busy_and_for_how_long_it_asks_to_wait(lanes, ask):
    lanes.registry.provider("a").script(BUSY)
    lanes.registry.provider("d").script(BUSY)

    for spec in ("a/x", "d/x"):
        with pytest.raises(RateLimited):
            ask(lanes.chain(spec))

    assert (waits_s(lanes, "a"), waits_s(lanes, "d")) == (300, 300)
    assert lanes.lane("d").stats().effective == 4
    with pytest.raises(LaneBusy):
        lanes.slot(lane="a", max_wait=1).__enter__()


def test_only_an_adaptive_lane_waits_for_one_model_where_there_is_another_to_ask(lanes):
    for name in "ad":
        lanes.registry.provider(name).script(BUSY)

        assert lanes.chain(f"{name}/x,b/y").generate(ASK).attempts[-1].lane == "b"

    assert (waits_s(lanes, "a"), waits_s(lanes, "d")) == (0, 300)


def test_a_lane_hears_of_an_overload_in_mid_reply_while_its_slot_is_held(lanes, monkeypatch):
    def broken():
        yield "a word"
        raise StreamInterrupted("overloaded", 529)

    held, tell = [], lanes.overloaded
    monkeypatch.setattr(
        lanes,
        "overloaded",
        lambda slot, **said: held.append(running(lanes, "d")) or tell(slot, **said),
    )
    lanes.registry.provider("d").script(broken())

    with pytest.raises(StreamInterrupted):
        streamed(lanes.chain("d/x"))

    assert held == [{"d": 1}]
    assert (running(lanes, "d"), lanes.lane("d").stats().effective) == ({"d": 0}, 4)


@pytest.mark.parametrize("ask", [whole, streamed])
def test_an_adaptive_lane_hears_what_is_left_of_its_providers_limits(lanes, ask):
    used_up = Quota("requests", 0, 60, 12_000)
    usage = Usage(input_tokens=1, output_tokens=1)
    answer = Reply(text="hello", model="d/x", usage=usage, quotas=(used_up,))
    lanes.registry.provider("d").script(answer)

    ask(lanes.chain("d/x"))

    now = lanes.lane("d").stats()
    assert (now.quota, now.effective) == (used_up, 8)
    assert 11_000 < now.provider_wait_ms <= 12_000


def test_code_that_holds_a_slot_may_say_so_itself_and_nobody_else(lanes):
    with lanes.slot(lane="d") as slot:
        lanes.overloaded(slot, retry_after=60)
    assert (waits_s(lanes, "d"), lanes.lane("d").stats().effective) == (60, 4)
    lanes.lane("d").resume()

    lanes.overloaded(slot, retry_after=60)

    assert waits_s(lanes, "d") == 0
