"""Chains over real sockets: who is asked next, what it costs, and what is known of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from celery import Celery

from celery_lanes import Lanes, Settings, signals
from celery_lanes.callinfo import CallInfo
from celery_lanes.errors import ChainExhausted, ProviderError, StreamInterrupted, TransientError
from celery_lanes.llm.chains.effects import ChainConfig
from celery_lanes.llm.http.hangup import CallCancelled, Hangup, interruptible
from celery_lanes.llm.messages import Message
from celery_lanes.llm.registry import Registry
from celery_lanes.llm.reply import Reply
from celery_lanes.llm.request import Request
from celery_lanes.store.health import HealthConfig
from celery_lanes.testing.llm_dialects import DIALECTS, Anthropic, Asked, OpenAI
from celery_lanes.testing.llm_stub import Answer, LLMStub
from celery_lanes.testing.memory import serving

FAR_S = 30.0
"""A time-out that is not meant to strike."""

KEY = "sk-hunter2"
SPEC = "a/small,b/small"
ASK = Request(model="?", messages=(Message(role="user", content="hello you"),))
INFO = CallInfo(caller="ann", run_id="r1")


@pytest.fixture
def stubs() -> Iterator[tuple[LLMStub, LLMStub]]:
    with LLMStub(dialect=OpenAI()) as first, LLMStub(dialect=Anthropic()) as second:
        yield first, second


@pytest.fixture
def registry(stubs) -> Iterator[Registry]:
    registry = made(*stubs)
    yield registry
    registry.close()


def made(*stubs: LLMStub, **options) -> Registry:
    env = {f"LLM_{name}": dsn(stub) for name, stub in zip("AB", stubs, strict=False)}
    return Registry(env, chain=ChainConfig(backoff_s=0), **options)


def dsn(stub: LLMStub) -> str:
    return stub.dsn.replace("key@", f"{KEY}@")


def whole(registry: Registry, spec: str = SPEC, **terms) -> Reply:
    return registry.parse(spec).generate(ASK, info=INFO, **terms)


def streamed(registry: Registry, spec: str = SPEC, **terms) -> Reply:
    with registry.parse(spec).stream(ASK, info=INFO, **terms) as stream:
        *_, done = stream
    return done.reply


MODES = pytest.mark.parametrize("ask", [whole, streamed])


def ledger(attempts) -> list[tuple[str, str | None]]:
    found = (a if isinstance(a, dict) else a.model_dump() for a in attempts)
    return [(a["target"], a["error_class"]) for a in found]


@MODES
def test_a_limited_target_is_left_alone_and_the_next_one_answers(stubs, registry, ask):
    first, second = stubs
    first.script(Answer(status=429, body={}, headers={"Retry-After": "60"}))

    replies = [ask(registry) for _ in range(3)]

    assert [reply.text for reply in replies] == ["hello you"] * 3
    assert ledger(replies[0].attempts) == [("a/small", "RateLimited"), ("b/small", None)]
    assert ledger(replies[2].attempts) == [("a/small", "Benched"), ("b/small", None)]
    assert replies[0].attempts[0].retry_after_s == 60
    assert (first.served, second.served) == (1, 3)


@MODES
def test_all_attempts_at_a_target_bear_one_name_and_no_other_target_bears_it(stubs, registry, ask):
    first, second = stubs
    first.script(Answer(status=500, body={}), Answer(status=500, body={}))

    ask(registry, idempotency_key="n1")

    second.wait_until(lambda: second.log)
    one, again, other = [record.idempotency_key for stub in stubs for record in stub.log]
    assert one == again != other
    assert all(key.startswith("n1-") for key in (one, other))


@MODES
def test_a_server_that_is_down_is_so_for_all_of_its_models(stubs, ask):
    _, second = stubs
    with LLMStub() as gone:
        registry = made(gone, second)

    reply = ask(registry, "a/small,a/large,b/small")
    registry.close()

    assert ledger(reply.attempts) == [
        ("a/small", "Unreachable"),
        ("a/small", "Unreachable"),
        ("a/large", "Benched"),
        ("b/small", None),
    ]
    assert not any(attempt.possibly_billed for attempt in reply.attempts[:-1])


@MODES
def test_a_target_that_hangs_leaves_time_for_the_next(stubs, registry, ask):
    first, _ = stubs
    first.script(Answer(hangs=True), Answer(hangs=True))

    reply = ask(registry, timeout_s=FAR_S, attempt_timeout_s=0.3)

    assert ledger(reply.attempts) == [("a/small", "TransientError")] * 2 + [("b/small", None)]
    assert reply.attempts[0].possibly_billed
    assert reply.attempts[0].ran_s >= 0.3
    first.wait_until(lambda: first.inside == 0)


@MODES
def test_one_deadline_bounds_all_targets(stubs, registry, ask):
    first, second = stubs
    first.script(Answer(hangs=True))

    with pytest.raises(ChainExhausted, match="b/small was not asked: the time was up") as caught:
        ask(registry, timeout_s=0.4)

    assert ledger(caught.value.attempts) == [
        ("a/small", "TransientError"),
        ("b/small", "OutOfTime"),
    ]
    assert CallInfo.from_error(caught.value).caller == "ann"
    assert second.log == ()


@MODES
def test_when_all_fail_there_is_a_reason_for_each_and_no_key_in_it(stubs, registry, ask):
    first, second = stubs
    told = []
    registry.register_observer(told.append)
    said = {"error": {"message": f"no such thing for {KEY}"}}
    first.script(Answer(status=404, body=said))
    second.script(Answer(status=429, body=said, headers={"Retry-After": "9", "request-id": KEY}))

    with pytest.raises(ChainExhausted) as caught:
        ask(registry)

    error = caught.value
    assert "a/small answered 404: no such thing for ***" in str(error)
    assert "b/small answered 429: no such thing for ***" in str(error)
    assert 8 < error.retry_after_s <= 9
    assert [event.kind for event in told] == [
        "attempt_failed",
        "advance",
        "attempt_failed",
        "bench",
        "exhausted",
    ]
    shown = repr(error.args) + "".join(event.model_dump_json() for event in told)
    assert KEY not in shown + repr(registry.parse(SPEC))
    assert "hello you" not in shown


@MODES
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.scheme)
def test_what_would_fail_everywhere_is_not_asked_elsewhere(stubs, dialect, ask):
    with LLMStub(dialect=dialect) as first:
        registry = made(first, stubs[1])
        first.script(Answer(status=400, body={"error": {"message": "what?"}}))

        with pytest.raises(ProviderError, match="a/small answered 400") as caught:
            ask(registry)
        registry.close()

    assert not isinstance(caught.value, ChainExhausted)
    assert ledger(caught.value.attempts) == [("a/small", "BadRequest")]
    assert CallInfo.from_error(caught.value) == CallInfo(caller="ann", run_id="r1", model="a/small")
    assert stubs[1].log == ()


def test_a_limit_that_comes_within_a_stream_is_gone_on_from(stubs, registry):
    first, _ = stubs
    refusal = {"error": {"code": 429, "message": "slow down"}}
    first.script(Answer(events=[f"data: {json.dumps(refusal)}\n\n".encode()]))

    reply = streamed(registry)

    assert ledger(reply.attempts) == [("a/small", "RateLimited"), ("b/small", None)]


def test_a_stream_that_breaks_before_its_first_piece_is_gone_on_from(stubs, registry):
    first, _ = stubs
    first.script(Answer(events=[b": ping\n\n"], cuts=True), Answer(events=[], cuts=True))

    reply = streamed(registry)

    assert ledger(reply.attempts)[-1] == ("b/small", None)
    assert (reply.text, first.inside) == ("hello you", 0)


def test_a_stream_that_breaks_later_is_the_callers(stubs, registry):
    first, second = stubs
    events = list(first.dialect.events(Asked("/chat/completions", {"model": "small"}), "hello you"))
    begun = next(at for at, event in enumerate(events) if b"hell" in event)
    first.script(Answer(events=events[: begun + 1], cuts=True))

    with pytest.raises(StreamInterrupted) as caught:
        streamed(registry)

    (attempt,) = caught.value.attempts
    assert (attempt["target"], attempt["possibly_billed"]) == ("a/small", True)
    assert attempt["tokens"] > 0
    assert CallInfo.from_error(caught.value).caller == "ann"
    assert second.log == ()


def test_a_reader_that_leaves_closes_the_connection(stubs, registry):
    first, _ = stubs
    may_end = threading.Event()
    events = list(first.dialect.events(Asked("/chat/completions", {"model": "small"}), "hello you"))

    def halting() -> Iterator[bytes]:
        yield from events[:2]
        while not may_end.wait(0.01):  # how fast it writes
            yield b": ping\n\n"

    first.script(Answer(events=halting()))
    with registry.parse(SPEC).stream(ASK) as stream:
        next(stream)
        first.wait_until(lambda: first.inside == 1)

    first.wait_until(lambda: first.inside == 0)
    assert [record.status for record in first.log] == [None]


@MODES
@pytest.mark.parametrize(
    "answer",
    [Answer(hangs=True), Answer(events=[b": nothing yet\n\n"], hangs=True)],
    ids=["before_its_answer", "within_it"],
)
def test_a_call_that_waits_is_ended_from_another_thread_and_nobody_else_is_asked(
    stubs, registry, ask, answer
):
    first, second = stubs
    ask(registry, "a/small")  # leaves a connection open, as is usual
    first.script(answer)
    hangup = Hangup()

    def cut() -> None:
        first.wait_until(lambda: first.inside == 1)
        hangup.cut(CallCancelled())

    with ThreadPoolExecutor(1) as other, interruptible(hangup):
        other.submit(cut)
        with pytest.raises(CallCancelled) as caught:
            ask(registry)

    first.wait_until(lambda: first.inside == 0)
    assert ledger(caught.value.attempts) == [("a/small", "CallCancelled")]
    assert second.log == ()
    with interruptible(hangup), pytest.raises(CallCancelled):
        ask(registry)  # it asks nobody any more
    assert len(first.log) == 2


@MODES
def test_an_attempt_that_is_given_up_from_another_thread_is_followed_by_others(
    stubs, registry, ask
):
    first, second = stubs
    first.script(Answer(hangs=True))
    hangup = Hangup()

    def lapse() -> None:
        first.wait_until(lambda: first.inside == 1)
        hangup.lapse("took too long")

    with ThreadPoolExecutor(1) as other, interruptible(hangup):
        other.submit(lapse)
        reply = ask(registry)

    assert ledger(reply.attempts) == [("a/small", "TransientError"), ("a/small", None)]
    assert reply.attempts[0].reason == "took too long"
    assert second.log == ()


def test_a_target_that_fails_and_then_dies_loses_no_call_and_is_tried_by_one_at_a_time(stubs):
    first, second = stubs
    first.service = second.service = 0.01
    told, calls = [], 300
    registry = made(first, second, health=HealthConfig(base_cooldown_s=0.05, max_cooldown_s=0.2))
    registry.register_observer(told.append)
    refuse = Answer(status=500, body={})
    first.script(*[refuse, Answer()] * 20, *[refuse] * calls)

    failing = [whole(registry, timeout_s=FAR_S) for _ in range(25)]
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: whole(registry, timeout_s=FAR_S), range(calls)))
    registry.close()

    assert {reply.text for reply in failing + replies} == {"hello you"}
    assert max(len(reply.attempts) for reply in failing + replies) <= 3
    probes = sum(event.kind == "probe" for event in told)
    asked = [a for r in replies for a in r.attempts if a.target == "a/small" and a.status]
    assert 0 < len(asked) <= probes
    assert first.highest == 1


@pytest.fixture
def shop(stubs) -> Iterator[Celery]:
    """An app with a lane for each of the two, an alias for both, and a worker."""
    app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    lanes = {"a": {"max_concurrent": 1}, "b": {"max_concurrent": 1}}
    config = {"store": {"url": "memory://"}, "lanes": lanes, "aliases": {"both": SPEC}}
    config["health"] = {"base_cooldown": "200ms"}
    Lanes(app, Settings.parse(config), registry=partial(made, *stubs))

    @app.task(name="shop.summarise", bind=True, acks_late=True, shared=False)
    def summarise(self, model):
        lanes = self.app.lanes
        return lanes.registry.parse(model).generate(ASK, leg=lanes.leg(self.request)).text

    with serving(app):
        yield app
    app.lanes.registry.close()


def ask(shop: Celery, spec: str, **options):
    return shop.tasks["celery_lanes.generate"].apply_async((spec, "hello you"), **options)


def test_under_celery_each_model_is_asked_in_its_own_lane(shop, stubs):
    stubs[0].script(Answer(status=429, body={}, headers={"Retry-After": "60"}))

    call = ask(shop, "both", caller="ann")
    result = call.get(timeout=FAR_S)

    assert (result["text"], result["lane"]) == ("hello you", "b")
    assert [(a["target"], a["lane"], a["error_class"]) for a in result["attempts"]] == [
        ("a/small", "a", "RateLimited"),
        ("b/small", "b", None),
    ]
    (name, _, one), (same, _, other) = (
        record.idempotency_key.rpartition("-") for stub in stubs for record in stub.log
    )
    assert name == same
    assert one != other
    done = {lane: shop.lanes.lane(lane).stats() for lane in "ab"}
    assert [done[lane].running + done[lane].waiting for lane in "ab"] == [0, 0]


def test_a_stream_goes_on_in_the_next_models_lane(shop, stubs):
    stubs[0].script(Answer(status=429, body={}, headers={"Retry-After": "60"}))

    call = ask(shop, "both", stream=True)
    events = list(shop.lanes.stream(call, timeout=FAR_S))

    types = [event.type for event in events if event.type != "restart"]  # if "start" was in time
    assert types == ["start", "text", "done"]
    assert "".join(event.text for event in events) == "hello you"
    assert (call.get(timeout=FAR_S)["text"], call.get()["lane"]) == ("hello you", "b")


def test_a_call_that_fails_over_is_a_signal_a_line_in_the_log_and_an_event(shop, stubs, caplog):
    caplog.set_level("INFO", "celery_lanes.llm")
    stubs[0].script(Answer(status=404, body={"error": {"message": f"who? {KEY}"}}))
    told, ready, seen = [], threading.Event(), threading.Event()

    def tell(sender, event, **_):
        told.append((sender.name, event.kind, event.target, event.caller, event.messages))

    def fail(**_):
        raise ValueError("no harm")

    events = []

    def capture(connection):
        def keep(event):
            events.append(event)
            if event["kind"] == "advance":
                seen.set()

        receiver = shop.events.Receiver(connection, handlers={"lanes-failover": keep})
        receiver.on_consume_ready = lambda *_, **__: ready.set()
        receiver.capture(limit=2, timeout=FAR_S, wakeup=False)

    signals.failover.connect(tell)
    signals.failover.connect(fail)
    shop.lanes.parts.herald.sends_events = True
    with shop.connection_for_read() as connection:
        listener = threading.Thread(target=capture, args=(connection,), daemon=True)
        listener.start()
        assert ready.wait(FAR_S)
        call = ask(shop, SPEC, caller="ann")
        assert call.get(timeout=FAR_S)["lane"] == "b"
        assert seen.wait(FAR_S)
    signals.failover.disconnect(tell)
    signals.failover.disconnect(fail)

    name = "celery_lanes.generate"
    assert told == [
        (name, "attempt_failed", "a/small", "ann", None),
        (name, "advance", "a/small", "ann", None),
    ]
    assert [(e["uuid"], e["kind"], e["target"], e["caller"]) for e in events] == [
        (call.id, "attempt_failed", "a/small", "ann"),
        (call.id, "advance", "a/small", "ann"),
    ]
    assert "advance a/small, ModelNotFound 404, next is b/small, call " in caplog.text
    assert "hello you" not in caplog.text + str(events)
    assert KEY not in caplog.text + str(events)


def test_under_celery_a_chain_is_streamed_by_who_answers(shop, stubs):
    stubs[0].script(Answer(status=429, body={}, headers={"Retry-After": "60"}))
    generate = shop.tasks["celery_lanes.generate"]

    call = generate.s(SPEC, "hello you").set(stream=True).apply_async()
    events = list(shop.lanes.stream(call, timeout=FAR_S))

    assert "".join(event.text for event in events) == call.get(timeout=FAR_S)["text"] == "hello you"
    assert (events[0].type, events[-1].type) == ("start", "done")
    assert ledger(call.get()["attempts"]) == [("a/small", "RateLimited"), ("b/small", None)]


def test_under_celery_an_exhausted_chain_says_why_and_whose_it_was(shop, stubs):
    for stub in stubs:
        stub.script(Answer(status=404, body={"error": {"message": "who?"}}))

    with pytest.raises(ChainExhausted, match="a/small answered 404: who\\?") as caught:
        ask(shop, SPEC, caller="ann").get(timeout=FAR_S)

    assert ledger(caught.value.attempts) == [
        ("a/small", "ModelNotFound"),
        ("b/small", "ModelNotFound"),
    ]
    info = CallInfo.from_error(caught.value)
    assert (info.caller, info.lane, info.model) == ("ann", "b", "b/small")


def test_under_celery_a_lone_model_is_asked_though_it_is_benched(shop, stubs):
    first, _ = stubs
    first.script(Answer(status=500, body={}), Answer(status=500, body={}))

    with pytest.raises(TransientError):
        ask(shop, "a/small").get(timeout=FAR_S)
    result = ask(shop, "a/small", caller="bob").get(timeout=FAR_S)

    assert (result["text"], result["lane"]) == ("hello you", "a")
    assert first.served == 3


def test_under_celery_a_busy_model_lets_its_lane_wait_and_the_call_comes_again(shop, stubs):
    first, _ = stubs
    first.script(Answer(status=429, body={}, headers={"Retry-After": "1"}))

    began_at = time.monotonic()
    calls = [ask(shop, "a/small", caller=caller) for caller in ("ann", "bob")]
    results = [call.get(timeout=FAR_S) for call in calls]

    assert ledger(results[0]["attempts"]) == [("a/small", "RateLimited"), ("a/small", None)]
    assert ledger(results[1]["attempts"]) == [("a/small", None)]
    assert time.monotonic() - began_at >= 1
    assert results[1]["wait_s"] >= 1


def test_a_users_own_task_goes_from_lane_to_lane_as_well(shop, stubs):
    stubs[0].script(Answer(status=404, body={}))

    call = shop.tasks["shop.summarise"].delay(SPEC)

    assert call.get(timeout=FAR_S) == "hello you"
    assert [stub.served for stub in stubs] == [1, 1]
