"""Chains over real sockets: who is asked next, what it costs, and what is known of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from celery import Celery

from celery_lanes import Lanes, Settings, tasks
from celery_lanes.callinfo import CallInfo
from celery_lanes.errors import ChainExhausted, ProviderError, StreamInterrupted, TransientError
from celery_lanes.llm.effects import ChainConfig
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
def test_all_attempts_at_one_call_bear_its_name(stubs, registry, ask):
    first, second = stubs
    first.script(Answer(status=500, body={}), Answer(status=500, body={}))

    ask(registry, idempotency_key="n1")

    second.wait_until(lambda: second.log)
    names = [record.idempotency_key for stub in stubs for record in stub.log]
    assert names == ["n1"] * 3


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
def shop(stubs, monkeypatch) -> Iterator[Celery]:
    """An app with a lane for each of the two, and a worker."""
    health = HealthConfig(base_cooldown_s=0.2)
    monkeypatch.setattr(tasks, "registry", made(*stubs, health=health))
    app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    lanes = {"a": {"max_concurrent": 1}, "b": {"max_concurrent": 1}}
    Lanes(app, Settings.parse({"store": {"url": "memory://"}, "lanes": lanes}))
    with serving(app):
        yield app
    tasks.registry.close()


def test_under_celery_a_chain_runs_in_the_lane_of_its_first_model(shop, stubs):
    stubs[0].script(Answer(status=429, body={}, headers={"Retry-After": "60"}))

    call = shop.tasks["celery_lanes.generate"].apply_async((SPEC, "hello you"), caller="ann")
    result = call.get(timeout=FAR_S)

    assert (result["text"], result["lane"]) == ("hello you", "a")
    assert ledger(result["attempts"]) == [("a/small", "RateLimited"), ("b/small", None)]


def test_under_celery_an_exhausted_chain_says_why_and_whose_it_was(shop, stubs):
    for stub in stubs:
        stub.script(Answer(status=404, body={"error": {"message": "who?"}}))

    call = shop.tasks["celery_lanes.generate"].apply_async((SPEC, "hello you"), caller="ann")
    with pytest.raises(ChainExhausted, match="a/small answered 404: who\\?") as caught:
        call.get(timeout=FAR_S)

    assert ledger(caught.value.attempts) == [
        ("a/small", "ModelNotFound"),
        ("b/small", "ModelNotFound"),
    ]
    info = CallInfo.from_error(caught.value)
    assert (info.caller, info.lane, info.model) == ("ann", "a", SPEC)


def test_under_celery_a_call_whose_models_are_benched_comes_again(shop, stubs):
    first, _ = stubs
    first.script(Answer(status=500, body={}), Answer(status=500, body={}))
    generate = shop.tasks["celery_lanes.generate"]

    with pytest.raises(TransientError):
        generate.apply_async(("a/small", "hello you")).get(timeout=FAR_S)
    result = generate.apply_async(("a/small", "hello you"), caller="bob").get(timeout=FAR_S)

    assert (result["text"], result["lane"]) == ("hello you", "a")
    assert first.served == 3
