"""How a call goes from target to target, and what is known of it afterwards."""

from __future__ import annotations

import json
import pickle
import sys
from types import SimpleNamespace

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from celery_lanes import errors
from celery_lanes.callinfo import CallInfo, call_context
from celery_lanes.llm.capabilities import Capabilities
from celery_lanes.llm.chains import allowance, diary, failover, patience, retries, way
from celery_lanes.llm.chains.effects import ChainConfig, Effect
from celery_lanes.llm.chains.journey import MAX_WAITS, Journey, Leg
from celery_lanes.llm.chains.logbook import log
from celery_lanes.llm.http.hangup import CallCancelled, Hangup, interruptible
from celery_lanes.llm.ledger import Attempt
from celery_lanes.llm.messages import Message
from celery_lanes.llm.providers.fake import FakeProvider
from celery_lanes.llm.registry import Registry
from celery_lanes.llm.reply import Done, Reply, TextDelta, Usage
from celery_lanes.llm.request import Request
from celery_lanes.store.health import Benched, HealthConfig
from celery_lanes.store.quota import Quota

ASK = Request(model="?", messages=(Message(role="user", content="tell me hunter2"),))
INFO = CallInfo(caller="ann", run_id="r1")
DOWN = errors.TransientError("a/x answered 500: oh dear", 500)


class Chains:
    """A registry with providers a, b and c, a clock for all, and what the observers were told."""

    def __init__(self, **chain) -> None:
        self.now = 1000.0
        self.slept = []
        self.told = []
        config = ChainConfig(**{"backoff_s": 0, **chain})
        self.registry = Registry({}, chain=config, clock=lambda: self.now)
        self.registry.register_observer(self.told.append)
        for name in "abc":
            provider = FakeProvider(name)
            self.registry.register_provider(provider)
            setattr(self, name, provider)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def ask(self, spec: str = "a/x,b/y,c/z", **terms):
        return self.registry.parse(spec).generate(ASK, **terms)

    def stream(self, spec: str = "a/x,b/y,c/z", **terms):
        return self.registry.parse(spec).stream(ASK, **terms)

    def whole(self, spec: str = "a/x,b/y,c/z", **terms):
        """Stream, and give the reply."""
        with self.stream(spec, **terms) as stream:
            *_, done = stream
        return done.reply

    def fails(self, spec: str = "a/x,b/y,c/z", **terms) -> errors.LanesError:
        with pytest.raises(errors.LanesError) as caught:
            self.ask(spec, info=INFO, **terms)
        return caught.value

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.told]


@pytest.fixture
def make(monkeypatch):
    def make(**chain) -> Chains:
        chains = Chains(**chain)
        clock = SimpleNamespace(
            monotonic=lambda: chains.now, time=lambda: chains.now + 10**9, sleep=chains.sleep
        )
        for module in (allowance, diary, failover, patience, way):
            monkeypatch.setattr(module, "time", clock)
        return chains

    return make


@pytest.fixture
def chains(make) -> Chains:
    return make()


def targets(attempts) -> list[tuple[str, str | None]]:
    return [(a["target"], a["error_class"]) for a in map(as_json, attempts)]


def as_json(attempt):
    return attempt if isinstance(attempt, dict) else attempt.model_dump(mode="json")


WAYS = pytest.mark.parametrize("way", ["ask", "whole"])


@WAYS
def test_the_first_target_answers(chains, way):
    reply = getattr(chains, way)()

    assert (reply.text, targets(reply.attempts)) == ("tell me hunter2", [("a/x", None)])
    assert reply.attempts[0].possibly_billed
    assert reply.attempts[0].tokens == reply.usage.input_tokens + reply.usage.output_tokens
    assert chains.told == []
    assert chains.a.requests[0].model == "x"


@WAYS
def test_a_transient_failure_is_tried_again_at_the_same_target(chains, way):
    chains.a.script(DOWN)

    reply = getattr(chains, way)()

    assert targets(reply.attempts) == [("a/x", "TransientError"), ("a/x", None)]
    assert chains.kinds == ["attempt_failed", "retry"]
    assert chains.b.requests == []


@WAYS
def test_a_target_that_fails_twice_is_benched_and_the_next_one_asked(chains, way):
    chains.a.script(DOWN, DOWN)

    reply = getattr(chains, way)()

    assert targets(reply.attempts) == [
        ("a/x", "TransientError"),
        ("a/x", "TransientError"),
        ("b/y", None),
    ]
    assert chains.kinds == ["attempt_failed", "retry", "attempt_failed", "bench", "advance"]
    assert chains.registry.health.enter("a/x", probe_s=1) == Benched(left_s=5)


@WAYS
def test_a_benched_target_is_passed_by_and_then_probed(chains, way):
    chains.a.script(DOWN, DOWN)
    chains.ask()
    chains.told.clear()

    reply = getattr(chains, way)()
    chains.now += 5
    back = getattr(chains, way)()

    assert targets(reply.attempts) == [("a/x", "Benched"), ("b/y", None)]
    assert reply.attempts[0].reason == "is benched for 5 s"
    assert targets(back.attempts) == [("a/x", None)]
    assert chains.kinds == ["skip_benched", "probe", "recovered"]
    assert len(chains.a.requests) == 3


@pytest.mark.parametrize(
    ("error", "asked", "kinds"),
    [
        (errors.RateLimited("slow", 429, 7.0), 1, ["attempt_failed", "bench", "advance"]),
        (errors.QuotaExhausted("broke", 402), 1, ["attempt_failed", "bench", "advance"]),
        (errors.ModelNotFound("who", 404), 1, ["attempt_failed", "advance"]),
        (errors.Unsupported("no pictures"), 1, ["attempt_failed", "advance"]),
        (
            errors.Unreachable("refused"),
            2,
            ["attempt_failed", "retry", "attempt_failed", "bench", "advance"],
        ),
        (
            errors.TransientError("overloaded", 529, 60.0),
            1,
            ["attempt_failed", "advance"],
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
@WAYS
def test_an_error_has_its_effect_on_the_way(chains, way, error, asked, kinds):
    chains.a.script(*[error] * 9)

    reply = getattr(chains, way)()

    assert (len(chains.a.requests), reply.attempts[-1].target) == (asked, "b/y")
    assert chains.kinds == kinds


@pytest.mark.parametrize(
    "error",
    [errors.BadRequest("what", 400), errors.AuthenticationFailed("no", 401)],
    ids=lambda error: type(error).__name__,
)
def test_what_would_fail_everywhere_fails_at_once(make, error):
    chains, stubborn = make(), make(advance_on_permanent=True)
    for each in (chains, stubborn):
        each.a.script(error)

    caught = chains.fails()

    assert caught is error
    assert targets(caught.attempts) == [("a/x", type(error).__name__)]
    assert chains.kinds == ["attempt_failed", "fail_fast"]
    assert (
        chains.registry.health.report(chains.registry.health.enter("a/x", probe_s=1), "none")
        is None
    )
    assert stubborn.ask().attempts[-1].target == "b/y"


@WAYS
def test_a_bug_is_raised_as_it_is_and_benches_nobody(chains, way):
    bug = TypeError("a bug in code of one's own")

    def broken(_):
        raise bug

    for _ in range(3):
        chains.a.script(broken)
        with pytest.raises(TypeError) as caught:
            getattr(chains, way)()
        assert caught.value is bug

    assert (chains.registry.health.conditions(), chains.b.requests) == ([], [])


@WAYS
def test_what_is_no_request_is_refused_before_anybody_is_asked(chains, way, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ASK", "hi")

    with pytest.raises(TypeError, match=r"expected a celery_lanes.llm.Request, got str"):
        getattr(chains, way)()
    assert (chains.told, chains.registry.health.conditions()) == ([], [])


def test_a_classifier_of_ones_own_decides(make):
    chains = make(classify=lambda _: Effect("advance", "none"))
    chains.a.script(errors.BadRequest("what"))

    assert chains.ask().attempts[-1].target == "b/y"


@pytest.mark.parametrize(
    "error", [SoftTimeLimitExceeded(), errors.Preempted(), KeyboardInterrupt()]
)
@WAYS
def test_who_gives_up_ends_the_chain_without_a_word(make, way, error):
    chains = make(classify=lambda _: Effect("advance", "bench"))

    def interrupted(_):
        raise error

    chains.a.script(interrupted)

    with pytest.raises(type(error)):
        getattr(chains, way)()
    assert (chains.told, chains.b.requests) == ([], [])
    assert chains.ask().attempts[0].target == "a/x"


def test_a_probe_that_is_given_up_is_anothers(chains):
    chains.a.script(DOWN, DOWN)
    chains.ask()
    chains.now += 5

    def interrupted(_):
        raise KeyboardInterrupt

    chains.a.script(interrupted)
    with pytest.raises(KeyboardInterrupt):
        chains.ask()

    assert chains.ask().attempts[0].target == "a/x"


def test_an_exhausted_chain_has_a_reason_for_each_target(chains):
    chains.a.script(DOWN, DOWN)
    chains.b.script(errors.RateLimited("b/y answered 429: slow down", 429, 3.0, "req_7"))
    chains.c.script(errors.ModelNotFound("c/z answered 404: who?", 404))

    error = chains.fails()

    assert type(error) is errors.ChainExhausted
    assert str(error) == (
        "no target of 'a/x,b/y,c/z' answered: a/x answered 500: oh dear; "
        "b/y answered 429: slow down; c/z answered 404: who?"
    )
    assert error.retry_after_s == 5
    assert type(error.__cause__) is errors.ModelNotFound
    assert error.attempts[2] == {
        "target": "b/y",
        "lane": None,
        "error_class": "RateLimited",
        "reason": "answered 429: slow down",
        "status": 429,
        "retry_after_s": 3,
        "request_id": "req_7",
        "queued_s": 0,
        "waited_s": 0,
        "ran_s": 0,
        "tokens": None,
        "possibly_billed": False,
        "left_out": 0,
    }
    assert chains.kinds[-1] == "exhausted"
    assert (chains.told[-1].target, chains.told[-1].retry_after_s) == (None, 5)
    assert len([kind for kind in chains.kinds if kind == "advance"]) == 2


def test_when_all_are_benched_it_says_when_to_come_again(chains):
    spec = "a/x,b/y"
    for provider in (chains.a, chains.b):
        provider.script(errors.RateLimited("slow", 429, 9.0))
    chains.fails(spec)
    chains.now += 2

    error = chains.fails(spec)

    assert type(error) is errors.ChainExhausted
    assert {a["error_class"] for a in error.attempts} == {"Benched"}
    assert error.retry_after_s == 7
    assert error.__cause__ is None


def test_a_lone_target_is_asked_even_if_it_is_benched(chains):
    """There is nobody else; in a lane, refusing would fail all that waits as fast as it comes."""
    chains.a.script(*[errors.RateLimited("slow", 429, 9.0)] * 2)
    chains.fails("a/x")

    error = chains.fails("a/x")

    assert type(error) is errors.RateLimited
    assert targets(error.attempts) == [("a/x", "RateLimited")]
    assert chains.ask("a/x", info=INFO).text


def test_a_lone_targets_own_error_is_raised(chains):
    chains.a.script(DOWN, DOWN)

    error = chains.fails("a/x")

    assert error is DOWN
    assert targets(error.attempts) == [("a/x", "TransientError")] * 2
    assert chains.kinds[-1] == "exhausted"


def test_who_has_nobody_else_goes_along_with_anothers_probe(chains):
    chains.a.script(DOWN, DOWN)
    chains.b.script(errors.RateLimited("slow", 429, 99.0))
    chains.fails("a/x,b/y")
    chains.now += 5
    chains.registry.health.enter("a/x", probe_s=60)

    reply = chains.ask("a/x,b/y")

    assert targets(reply.attempts) == [("a/x", "Benched"), ("b/y", "Benched"), ("a/x", None)]
    assert reply.attempts[0].reason == "is being tried by another call for 60 s"


def test_anothers_probe_is_left_alone_by_who_has_asked_somebody_else(chains):
    chains.a.script(DOWN, DOWN)
    chains.ask()
    chains.now += 5
    chains.registry.health.enter("a/x", probe_s=60)
    chains.b.script(errors.ModelNotFound("who", 404))

    error = chains.fails("a/x,b/y")

    assert targets(error.attempts) == [("a/x", "Benched"), ("b/y", "ModelNotFound")]


def test_a_lone_target_is_asked_beside_anothers_probe(chains):
    chains.a.script(DOWN, DOWN)
    chains.ask()
    chains.now += 5
    chains.registry.health.enter("a/x", probe_s=60)

    assert targets(chains.ask("a/x").attempts) == [("a/x", None)]


def test_what_has_just_been_benched_is_not_tried_again(make):
    chains = make(transient_retries=5, retry_budget=9)
    chains.a.script(*[DOWN] * 9)

    chains.ask()

    assert len(chains.a.requests) == 2


def test_a_pause_that_leaves_no_time_is_not_made(chains):
    chains.a.script(errors.TransientError("busy", 503, 4.0))

    reply = chains.ask(timeout_s=4)

    assert ([a.target for a in reply.attempts], chains.slept) == (["a/x", "b/y"], [])


def test_all_targets_share_one_budget_of_retries(make):
    chains = make(transient_retries=5, retry_budget=2)
    chains.registry.health._config = HealthConfig(failure_threshold=99)
    for provider in (chains.a, chains.b, chains.c):
        provider.script(*[DOWN] * 9)

    chains.fails()

    assert [len(p.requests) for p in (chains.a, chains.b, chains.c)] == [3, 1, 1]


def test_what_may_be_charged_is_lost_once_and_not_again(make):
    chains = make(transient_retries=5, retry_budget=9)
    chains.registry.health._config = HealthConfig(failure_threshold=99)
    chains.a.script(*[errors.TransientError("gave no answer within 5 s")] * 9)

    reply = chains.ask()

    assert [a.possibly_billed for a in reply.attempts] == [True, True, True]
    assert len(chains.a.requests) == 2


def test_pauses_grow_and_are_waited_before_the_next_attempt(make, monkeypatch):
    chains = make(transient_retries=9, retry_budget=9, backoff_s=0.5)
    chains.registry.health._config = HealthConfig(failure_threshold=99)
    monkeypatch.setattr(retries.random, "uniform", lambda _, most_s: most_s)
    chains.a.script(*[DOWN] * 6)

    reply = chains.ask()

    assert chains.slept == [0.5, 1, 2, 4, 8, 8]
    assert [a.waited_s for a in reply.attempts] == [0, 0.5, 1, 2, 4, 8, 8]


def test_a_short_retry_after_is_waited_for_and_nothing_sent_needs_no_pause(make):
    chains = make(backoff_s=0.5)
    chains.a.script(errors.TransientError("busy", 503, 4.0))
    chains.ask()
    chains.b.script(errors.Unreachable("refused"))
    chains.ask("b/y")

    assert chains.slept == [4.0, 0.0]


def test_one_deadline_bounds_all_targets(chains):
    given = []

    def slow(_):
        chains.now += 6
        raise errors.ModelNotFound("who", 404)

    def remember(generate):
        def noted(request, *, timeout_s, idempotency_key=None):
            given.append(timeout_s)
            return generate(request, timeout_s=timeout_s)

        return noted

    for provider in (chains.a, chains.b, chains.c):
        provider.script(slow)
        provider.generate = remember(provider.generate)

    error = chains.fails(timeout_s=10)

    assert given == [10, 4]
    assert targets(error.attempts)[-1] == ("c/z", "OutOfTime")
    assert "c/z was not asked: the time was up" in str(error)
    assert CallInfo.from_error(error).caller == "ann"


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({}, 300),
        ({"timeout_s": 1000}, 1000),
        ({"timeout_s": 1000, "attempt_timeout_s": 20}, 20),
        ({"attempt_timeout_s": 20}, 20),
        ({"timeout_s": 7, "attempt_timeout_s": 20}, 7),
    ],
    ids=str,
)
def test_an_attempt_has_its_time(chains, terms, expected):
    given = []
    generate = chains.a.generate

    def noted(request, *, timeout_s, idempotency_key=None):
        given.append(timeout_s)
        return generate(request, timeout_s=timeout_s)

    chains.a.generate = noted
    chains.ask(**terms)

    assert given == [expected]


@pytest.mark.parametrize(
    ("terms", "takes_s", "expected"),
    [
        ({}, 300, [("a", 300), ("b", 300)]),
        ({}, 200, [("a", 300), ("a", 100), ("b", 300)]),
        ({"attempt_timeout_s": 20}, 20, [("a", 20), ("a", 20), ("b", 20)]),
        ({"attempt_timeout_s": 1000}, 1000, [("a", 1000), ("b", 1000)]),
    ],
    ids=str,
)
def test_a_target_that_hangs_leaves_the_next_one_its_own_time(chains, terms, takes_s, expected):
    given = []

    def hang(request, *, timeout_s, idempotency_key=None):
        given.append(("a", timeout_s))
        chains.now += min(takes_s, timeout_s)
        raise errors.TransientError("gave no answer")

    def answer(request, *, timeout_s, idempotency_key=None):
        given.append(("b", timeout_s))
        return FakeProvider("b").generate(request, timeout_s=timeout_s)

    chains.a.generate, chains.b.generate = hang, answer

    assert chains.ask("a/x,b/y", **terms).attempts[-1].target == "b/y"
    assert given == expected


def test_a_stream_is_gone_on_from_until_its_first_piece(chains):
    chains.a.script([errors.TransientError("x")], [DOWN])

    reply = chains.whole()

    assert [a.target for a in reply.attempts] == ["a/x", "a/x", "b/y"]
    assert chains.a.closed_streams == 2


def test_a_stream_that_breaks_in_its_midst_is_gone_on_from_by_nobody(chains):
    chains.a.script(["one", DOWN])
    stream = chains.stream(info=INFO)

    assert next(stream) == TextDelta(text="one")
    with pytest.raises(errors.StreamInterrupted) as caught:
        next(stream)

    assert (chains.b.requests, chains.a.closed_streams) == ([], 1)
    assert targets(caught.value.attempts) == [("a/x", "StreamInterrupted")]
    assert caught.value.attempts[0]["possibly_billed"]
    assert CallInfo.from_error(caught.value) == CallInfo(caller="ann", run_id="r1", model="a/x")
    assert chains.kinds == ["attempt_failed", "fail_fast"]
    assert stream.partial.text == "one"
    assert list(stream) == []


def test_a_stream_that_is_cut_between_two_pieces_has_its_attempt_in_the_ledger(chains):
    hangup = Hangup()
    with interruptible(hangup), chains.stream() as stream:
        first = next(stream)
        hangup.cut(CallCancelled())
        with pytest.raises(CallCancelled) as caught:
            next(stream)

    assert [attempt["target"] for attempt in caught.value.attempts] == ["a/x"]
    assert stream.partial.text == first.text
    assert chains.a.closed_streams == 1


def test_streams_that_keep_breaking_bench_their_target(chains):
    chains.a.script(["one", DOWN], ["one", DOWN])
    for _ in range(2):
        with pytest.raises(errors.StreamInterrupted):
            chains.whole()

    assert chains.whole().attempts[0].error_class == "Benched"


def test_a_reader_who_leaves_stops_the_provider_and_gives_the_probe_back(chains):
    chains.a.script(DOWN, DOWN)
    chains.ask()
    chains.now += 5
    chains.a.script(["one", "two"])

    with chains.stream() as stream:
        next(stream)

    assert chains.a.closed_streams == 1
    assert chains.ask().attempts[0].target == "a/x"
    assert chains.kinds.count("probe") == 2


def late(given_s: float | None) -> errors.TransientError:
    error = errors.TransientError("gave no answer in time")
    error.given_s = given_s
    return error


@pytest.mark.parametrize(
    ("given_s", "is_held_against_it"), [(1.0, False), (29.9, False), (30.0, True), (None, True)]
)
@WAYS
def test_one_who_hardly_gives_a_target_time_benches_it_for_nobody(
    chains, way, given_s, is_held_against_it
):
    chains.a.script(late(given_s), late(given_s))

    reply = getattr(chains, way)()

    assert [attempt.target for attempt in reply.attempts] == ["a/x", "a/x", "b/y"]
    assert ("bench" in chains.kinds) is is_held_against_it
    assert bool(chains.registry.health.conditions()) is is_held_against_it


def test_what_a_lanes_own_limit_leaves_is_time_enough(legs):
    trip = legs()
    trip.usual_s = 20.0
    trip.chains.a.script(late(19.0), late(19.0))

    assert trip.ask("a/x,b/y").attempts[-1].target == "b/y"
    assert "bench" in trip.chains.kinds


def test_a_short_silence_in_mid_reply_is_held_against_nobody(chains):
    broken = errors.StreamInterrupted("was silent for 1 s")
    broken.given_s = 1.0

    def breaks(_):
        yield "one"
        raise broken

    chains.a.script(breaks)
    with pytest.raises(errors.StreamInterrupted):
        chains.whole()

    assert chains.registry.health.conditions() == []


@pytest.mark.parametrize(("sent", "kind"), [([], "TransientError"), (["one"], "StreamInterrupted")])
def test_a_provider_that_forgets_to_end_its_stream_has_failed(chains, sent, kind):
    stream = chains.a.stream

    def endless(*args, **options):
        begun = stream(*args, **options)
        return begun.relayed((p for p in begun if not isinstance(p, Done)), lambda: None)

    chains.a.stream = endless
    chains.a.script(sent, sent)

    if sent:
        with pytest.raises(errors.StreamInterrupted, match="a/x ended its stream without Done"):
            chains.whole()
    else:
        assert chains.whole().attempts[0].error_class == kind


@pytest.mark.parametrize("path", ["fail", "exhausted", "benched", "lone", "stream"])
def test_every_error_says_whose_call_it_was(chains, path):
    if path == "fail":
        chains.a.script(errors.BadRequest("what"))
    else:
        for provider in (chains.a, chains.b, chains.c):
            provider.script(*[errors.RateLimited("slow", 429, 60.0)] * 3)
    spec = "a/x" if path in {"lone", "benched"} else "a/x,b/y,c/z"
    if path == "benched":
        chains.fails(spec)

    with call_context(caller="bob", run_id="r2"), pytest.raises(errors.ProviderError) as caught:
        (chains.stream if path == "stream" else chains.ask)(spec)

    info = CallInfo.from_error(caught.value)
    assert (info.caller, info.run_id) == ("bob", "r2")
    assert info.model == ("a/x" if path in {"fail", "lone"} else spec)


def test_all_attempts_at_a_target_bear_one_key(chains):
    seen = []
    for provider in (chains.a, chains.b):
        provider.generate = lambda request, **options: seen.append(options) or fail()

    def fail():
        raise errors.ModelNotFound("who")

    chains.fails("a/x,b/y")
    chains.fails("a/x,b/y", idempotency_key="n1")

    keys = [options["idempotency_key"].rpartition("-") for options in seen]
    assert keys[0][0] == keys[1][0] != "n1"
    assert [key[0] for key in keys[2:]] == ["n1", "n1"]
    assert keys[0][2] == keys[2][2] != keys[1][2] == keys[3][2]
    assert [event.call_id for event in chains.told[-2:]] == ["n1", "n1"]


def test_a_key_is_a_targets_whatever_a_worker_takes_an_alias_for(chains):
    seen = {}
    for provider in (chains.a, chains.b):
        provider.generate = lambda request, **options: fail(request.model, options)

    def fail(model, options):
        seen.setdefault(model, set()).add(options["idempotency_key"])
        raise errors.ModelNotFound("who")

    for spec in ("a/x,b/y", "b/y,a/x", "A/x,a/z"):
        chains.registry.register_alias("quick", spec)
        chains.fails("quick", idempotency_key="n1")

    assert [len(keys) for keys in seen.values()] == [1, 1, 1]
    assert len(set.union(*seen.values())) == 3


def test_an_event_says_what_happened_and_not_what_was_asked(chains):
    chains.a.script(errors.RateLimited("hunter2 is slow", 429, 9.0))

    chains.ask("a/x,b/y", info=INFO, idempotency_key="n1")

    assert [event.model_dump(exclude_defaults=True) for event in chains.told[1:]] == [
        {
            "kind": kind,
            "ts": 10**9 + 1000,
            "call_id": "n1",
            "run_id": "r1",
            "caller": "ann",
            "spec": "a/x,b/y",
            "target": "a/x",
            "next_target": "b/y",
            "error_class": "RateLimited",
            "status": 429,
            "attempt": 1,
            "elapsed_s": 0,
            "retry_after_s": 9,
            "is_overload": True,
            **more,
        }
        for kind, more in [("bench", {"bench_until": 10**9 + 1009}), ("advance", {})]
    ]
    assert "hunter2" not in "".join(event.model_dump_json() for event in chains.told)


def test_an_event_shows_the_prompt_only_where_that_is_wanted(make):
    chains = make(persist_prompts=True)
    chains.a.script(DOWN)

    chains.ask()

    assert chains.told[0].messages == ASK.messages


def test_no_name_begins_another_line_of_the_log(chains, caplog):
    chains.registry.register_observer(log)
    chains.a.script(errors.BadRequest("what", 400))

    with pytest.raises(errors.BadRequest):
        chains.ask("a/x", info=CallInfo(caller="ann\nbench b/y"), idempotency_key="n1")

    (line,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert line == "celery_lanes: fail_fast a/x, BadRequest 400, call n1, of ann\\nbench b/y"


def test_an_observer_that_fails_is_logged_and_harms_neither_the_call_nor_the_others(chains, caplog):
    def broken(_):
        raise RuntimeError("no room")

    later = []
    chain = chains.registry.parse("a/x")
    chains.registry.register_observer(broken)
    chains.registry.register_observer(later.append)
    chains.a.script(DOWN)

    assert chain.generate(ASK).text == "tell me hunter2"

    assert [event.kind for event in later] == ["attempt_failed", "retry"]
    logged = [record for record in caplog.records if "an observer" in record.message]
    assert [str(record.exc_info[1]) for record in logged] == ["no room"] * 2


def test_a_time_limit_that_strikes_in_an_observer_is_no_failure_of_it(chains):
    def struck(_):
        raise SoftTimeLimitExceeded

    chains.registry.register_observer(struck)
    chains.a.script(DOWN)

    with pytest.raises(SoftTimeLimitExceeded):
        chains.ask()


def test_the_ledger_survives_json_and_pickle(chains):
    chains.a.script(DOWN, DOWN, DOWN, DOWN)
    chains.b.script(["one", DOWN])
    with pytest.raises(errors.StreamInterrupted) as caught:
        chains.whole()

    backend = Celery(backend="cache+memory://", set_as_current=False).backend
    for error in (caught.value, chains.fails("a/x,a/z")):
        stored = json.loads(json.dumps(backend.prepare_exception(error, "json")))
        rebuilt = backend.exception_to_python(stored)
        pickled = pickle.loads(pickle.dumps(error))

        assert type(rebuilt) is type(pickled) is type(error)
        assert rebuilt.attempts == pickled.attempts == error.attempts
        assert str(rebuilt) == str(error)


def test_a_chain_shows_its_targets_and_can_do_what_the_first_can(chains):
    able = Capabilities(tools=False)
    chains.registry.register_provider(FakeProvider("d", capabilities=able))
    chain = chains.registry.parse("d/x,a/y")

    assert (repr(chain), str(chain)) == ("Chain(d/x, a/y)", "d/x,a/y")
    assert (len(chain), [str(t) for t in chain[1:]]) == (2, ["a/y"])
    assert chain.capabilities == able


OUTCOMES = st.sampled_from(
    [
        "fine",
        errors.RateLimited("slow", 429, 7.0),
        errors.TransientError("oh", 500),
        errors.TransientError("late"),
        errors.Unreachable("refused"),
        errors.QuotaExhausted("broke", 402),
        errors.ModelNotFound("who", 404),
    ]
)


@given(st.lists(st.lists(OUTCOMES, max_size=4), min_size=3, max_size=3), st.integers(1, 6))
def test_whatever_happens_a_call_ends_with_its_ledger_and_within_its_budget(scripts, calls):
    chains = Chains()
    for name, script in zip("abc", scripts, strict=True):
        getattr(chains, name).script(*script)

    for _ in range(calls):
        before = sum(len(getattr(chains, name).requests) for name in "abc")
        try:
            attempts = [as_json(a) for a in chains.ask().attempts]
            assert attempts[-1]["error_class"] is None
        except errors.ChainExhausted as error:
            attempts = error.attempts
            assert {a["target"] for a in attempts} == {"a/x", "b/y", "c/z"}
            assert all(a["reason"] for a in attempts)
        asked = [a for a in attempts if a["error_class"] != "Benched"]
        assert sum(len(getattr(chains, n).requests) for n in "abc") - before == len(asked) <= 6


@WAYS
def test_a_provider_without_its_key_matters_to_who_asks_it(chains, way):
    answered = getattr(chains, way)("a/x,openai/y")
    chains.a.script(errors.ModelNotFound("who", 404))

    with pytest.raises(errors.ConfigError, match="no key for openai") as caught:
        getattr(chains, way)("a/x,openai/y", info=INFO)

    assert answered.attempts[-1].target == "a/x"
    assert CallInfo.from_error(caught.value).caller == "ann"
    assert chains.kinds == ["attempt_failed", "advance", "attempt_failed", "fail_fast"]
    assert chains.registry.health.conditions() == []


# From lane to lane


class LegEndedError(Exception):
    """The body has to let it pass."""


class Legs:
    """Takes calls from lane to lane as a task does, by way of JSON; ``trip`` is what happened.

    ``queue_s`` pass in each queue, where ``on_hop`` is called; ``full`` lanes have too long a line.
    """

    def __init__(self, chains: Chains, *full: str) -> None:
        self.chains, self.full = chains, full
        self.trip, self.refused, self.forewarned = [], [], []
        self.queue_s, self.on_hop = 3600, lambda: None
        self.usual_s = 300.0
        self._next = None

    def ask(self, spec: str, *, lane: str = "a", journey=None, left_s: float = 300.0, **terms):
        self._next = (lane, journey)
        while True:
            lane, journey = self._next
            leg = self.leg(lane, journey, left_s)
            self._lane = lane
            try:
                return self.chains.registry.parse(spec).generate(ASK, info=INFO, leg=leg, **terms)
            except LegEndedError:
                self.chains.now += self.queue_s
                self.on_hop()

    def leg(self, lane: str, journey=None, left_s: float = 300.0) -> Leg:
        return Leg(
            lane=lane,
            move=self.move,
            wait=self.wait,
            refused=self.refused.append,
            forewarned=self.forewarned.append,
            left_s=left_s,
            usual_s=self.usual_s,
            queued_s=self.queue_s,
            journey=journey and Journey.model_validate_json(journey),
        )

    def move(self, target, journey):
        if target.lane in self.full:
            raise errors.LaneBusy(f"lane {target.lane} has too long a line", 9, 60.0, 55.0)
        self.trip.append(f"to {target.lane}")
        self._next = (target.lane, journey.model_dump_json())
        raise LegEndedError

    def wait(self, wait, journey):
        self.trip.append(("lane" if wait.is_lanes else "call", wait.seconds))
        self._next = (self._lane, journey.model_dump_json())
        raise LegEndedError


@pytest.fixture
def legs(make):
    def make_legs(*full: str, **chain) -> Legs:
        chains = make(**chain)
        chains.registry._lane_of = lambda model: model.partition("/")[0]
        return Legs(chains, *full)

    return make_legs


def test_a_call_whose_alias_is_another_by_now_asks_whom_it_has_not_asked(legs):
    trip = legs()
    told = Attempt(target="a/x", error_class="LaneBusy", reason="too long a line")
    begun = Journey(call_id="n1", to_come=("b/old",), retries_left=3, ledger=(told,))

    reply = trip.ask("a/x,b/new", lane="b", journey=begun.model_dump_json())

    assert reply.attempts[-1].target == "b/new"
    assert trip.chains.a.requests == []


def test_a_call_that_workers_pass_to_and_fro_is_asked_where_it_is_at_last(legs):
    trip = legs()
    lanes = iter("ba" * 100)
    trip.chains.registry._lane_of = lambda _: next(lanes)  # always another than it is in

    reply = trip.ask("a/x", lane="a")

    assert reply.attempts[-1].target == "a/x"
    assert 0 < len(trip.trip) <= 3


def test_a_slots_wait_that_is_cancelled_is_nobodys_failure(chains):
    def cancelled(_):
        raise errors.WaitCancelled

    chains.a.script(cancelled)

    with pytest.raises(errors.WaitCancelled):
        chains.ask("a/x,b/y")

    assert (len(chains.a.requests), chains.b.requests) == (1, [])
    assert "bench" not in [event.kind for event in chains.told]


def test_each_target_is_asked_in_its_own_lane_and_one_call_goes_through_all(legs):
    trip = legs()
    trip.chains.a.script(DOWN, DOWN)
    trip.chains.b.script(errors.ModelNotFound("who?", 404))

    reply = trip.ask("a/x,b/y,c/z")

    assert trip.trip == ["to b", "to c"]
    assert [(a.target, a.lane, a.queued_s) for a in reply.attempts] == [
        ("a/x", "a", 3600),
        ("a/x", "a", 0),
        ("b/y", "b", 3600),
        ("c/z", "c", 3600),
    ]
    assert len({event.call_id for event in trip.chains.told}) == 1


def test_a_lane_needs_the_keys_of_its_own_providers_only(legs):
    trip = legs()
    trip.chains.a.script(errors.ModelNotFound("who?", 404))

    with pytest.raises(errors.ConfigError, match="no key for openai"):
        trip.ask("a/x,openai/y,groq/z")

    assert trip.trip == ["to openai"]


def test_targets_of_one_lane_are_asked_in_place(legs):
    trip = legs()
    trip.chains.a.script(errors.ModelNotFound("who?", 404))

    assert trip.ask("a/x,a/w").attempts[-1].target == "a/w"
    assert trip.trip == []


def test_a_call_in_the_wrong_lane_moves_before_anybody_is_asked(legs):
    trip = legs()

    assert trip.ask("a/x", lane="default").attempts[0].lane == "a"
    assert trip.trip == ["to a"]


def test_a_benched_target_is_passed_by_without_a_visit_to_its_lane(legs):
    trip = legs()
    trip.chains.b.script(errors.RateLimited("slow", 429, 60.0))
    trip.chains.ask("b/y,c/z")
    trip.chains.a.script(errors.ModelNotFound("who?", 404))

    reply = trip.ask("a/x,b/y,c/z")

    assert trip.trip == ["to c"]
    assert targets(reply.attempts) == [("a/x", "ModelNotFound"), ("b/y", "Benched"), ("c/z", None)]


def test_a_look_at_the_next_target_does_not_take_its_probe(legs):
    trip = legs()
    trip.queue_s = 0
    trip.chains.b.script(errors.RateLimited("slow", 429, 60.0))
    trip.chains.ask("b/y,c/z")
    trip.chains.now += 61
    trip.chains.a.script(errors.ModelNotFound("who?", 404))

    assert trip.ask("a/x,b/y").attempts[-1].target == "b/y"
    assert [event.kind for event in trip.chains.told[-2:]] == ["probe", "recovered"]


def test_retries_and_time_are_of_the_whole_call_and_its_waits_cost_nothing(legs):
    trip = legs(retry_budget=1)
    trip.chains.a.script(DOWN, DOWN)
    trip.chains.b.script(DOWN, DOWN)

    reply = trip.ask("a/x,b/y,c/z", timeout_s=60)

    assert targets(reply.attempts) == [
        ("a/x", "TransientError"),
        ("a/x", "TransientError"),
        ("b/y", "TransientError"),
        ("c/z", None),
    ]


def test_the_time_of_a_call_is_that_of_its_parts_in_all_lanes(legs):
    trip = legs()

    def slow(request):
        trip.chains.now += 40
        return errors.ModelNotFound("who?", 404)

    trip.chains.a.script(slow)
    trip.chains.b.script(slow)
    with pytest.raises(errors.ChainExhausted, match="c/z was not asked: the time was up"):
        trip.ask("a/x,b/y,c/z", timeout_s=60)


def test_a_target_that_others_try_by_then_is_not_asked_by_a_call_that_has_asked_somebody(legs):
    trip = legs()
    trip.chains.b.script(errors.RateLimited("slow", 429, 60.0))
    trip.chains.ask("b/y,c/z")
    trip.chains.now += 61
    trip.chains.a.script(errors.ModelNotFound("who?", 404))
    trip.on_hop = lambda: trip.chains.registry.health.enter("b/y", probe_s=99.0)

    with pytest.raises(errors.ChainExhausted, match="b/y is being tried by another call"):
        trip.ask("a/x,b/y")
    assert len(trip.chains.b.requests) == 1


def test_the_time_of_one_lane_is_not_that_of_the_next(legs):
    trip = legs()

    def hang(request):
        trip.chains.now += 299
        return errors.TransientError("a/x gave no answer")

    trip.chains.a.script(hang, hang)
    reply = trip.ask("a/x,a/w,b/y")

    assert targets(reply.attempts)[-1] == ("b/y", None)
    trip.chains.a.script(hang, hang)
    trip.chains.now += 10_000
    with pytest.raises(errors.ChainExhausted, match="b/y was not asked: the time was up"):
        trip.ask("a/x,b/y", timeout_s=290)


def test_a_lone_target_that_is_busy_lets_its_lane_wait(legs):
    trip = legs()
    trip.chains.a.script(errors.RateLimited("slow", 429, 7.0), errors.RateLimited("slow", 429))

    reply = trip.ask("a/x")

    assert trip.trip == [("lane", 7), ("call", 2)]  # the second one does not say how long
    assert trip.refused == [7, None]
    assert targets(reply.attempts) == [("a/x", "RateLimited")] * 2 + [("a/x", None)]
    assert [event.attempt for event in trip.chains.told if event.kind == "attempt_failed"] == [1, 2]


@WAYS
def test_what_is_left_is_told_as_an_answer_begins_and_is_no_part_of_the_result(legs, way):
    trip = legs()
    usage = Usage(input_tokens=1, output_tokens=1)
    used_up = (Quota("requests", 0, 60, 12_000),)
    trip.chains.a.script(Reply(text="hi", usage=usage, model="x", quotas=used_up))
    terms = {"leg": trip.leg("a"), "info": INFO}

    reply = getattr(trip.chains, way)("a/x", **terms)

    assert trip.forewarned == [used_up]
    assert (reply.quotas, "quotas" in reply.model_dump_json()) == (used_up, False)
    assert trip.refused == trip.trip == []


def test_when_all_are_benched_the_call_alone_waits_for_the_first(legs):
    trip = legs()
    trip.chains.a.script(errors.RateLimited("slow", 429, 400.0))
    trip.chains.b.script(errors.RateLimited("slow", 429, 500.0))
    trip.chains.fails("a/x,b/y")

    assert trip.ask("a/x,b/y").attempts[-1].target == "a/x"
    assert trip.trip == [("call", 400)]


def bench(chains, spec="a/x,b/y"):
    """Have the first two targets benched, the second for a shorter time."""
    chains.a.script(errors.RateLimited("slow", 429, 400.0))
    chains.b.script(errors.RateLimited("slow", 429, 300.0))
    chains.fails(spec)


def test_when_all_are_benched_a_call_may_ask_the_one_that_is_free_first_at_once(legs):
    trip = legs(on_all_benched="force")
    bench(trip.chains)

    reply = trip.ask("a/x,b/y")

    assert trip.trip == ["to b"]
    assert targets(reply.attempts) == [("a/x", "Benched"), ("b/y", "Benched"), ("b/y", None)]


def test_one_that_is_asked_although_it_is_benched_is_asked_once(legs):
    trip = legs(on_all_benched="force")
    bench(trip.chains)
    trip.chains.b.script(errors.RateLimited("slow", 429, 300.0))

    with pytest.raises(errors.ChainExhausted) as caught:
        trip.ask("a/x,b/y")

    asked = [("a/x", "Benched"), ("b/y", "Benched"), ("b/y", "RateLimited")]
    assert (targets(caught.value.attempts), trip.trip) == (asked, ["to b"])


@WAYS
def test_without_lanes_too_the_one_that_is_free_first_may_be_asked(make, way):
    chains = make(on_all_benched="force")
    bench(chains)

    assert getattr(chains, way)("a/x,b/y").attempts[-1].target == "b/y"


def test_a_call_whose_time_is_up_forces_nobody(make):
    chains = make(on_all_benched="force")
    bench(chains)
    chains.registry.register_observer(
        lambda event: chains.sleep(100) if event.kind == "skip_benched" else None
    )

    error = chains.fails("a/x,b/y", timeout_s=150)

    found = [attempt["error_class"] for attempt in error.attempts]
    assert found == ["Benched", "Benched", "OutOfTime"]


def test_a_call_may_fail_at_once_where_it_would_have_to_wait(legs):
    trip = legs(on_all_benched="raise")
    bench(trip.chains)
    trip.chains.c.script(errors.RateLimited("slow", 429, 7.0))

    with pytest.raises(errors.ChainExhausted) as caught:
        trip.ask("a/x,b/y")
    with pytest.raises(errors.RateLimited):
        trip.ask("c/z", lane="c")

    assert (caught.value.retry_after_s, trip.trip) == (300, [])


def test_another_way_than_there_is_is_refused():
    with pytest.raises(errors.ConfigError, match="on_all_benched to be wait, raise, force, got"):
        ChainConfig(on_all_benched="hope")


def test_a_lane_does_not_wait_for_the_provider_of_another(legs):
    trip = legs()
    trip.queue_s = 0
    trip.chains.a.script(errors.RateLimited("slow", 429, 20.0))
    trip.chains.b.script(errors.RateLimited("slow", 429, 400.0))

    with pytest.raises(errors.ChainExhausted):
        trip.ask("a/x,b/y")
    assert trip.trip[:2] == ["to b", ("call", 20)]


def test_a_wait_is_not_for_ever(legs):
    trip = legs()
    trip.chains.a.script(*[errors.RateLimited("slow", 429, 1.0)] * 99)

    with pytest.raises(errors.RateLimited) as caught:
        trip.ask("a/x")

    assert len(trip.trip) == MAX_WAITS
    assert len(caught.value.attempts) == MAX_WAITS + 1


def test_a_provider_that_asks_for_too_long_fails_the_call(legs):
    trip = legs()
    trip.chains.a.script(errors.RateLimited("slow", 429, 601.0))

    with pytest.raises(errors.RateLimited):
        trip.ask("a/x")
    assert trip.trip == []


def test_what_has_failed_otherwise_is_not_waited_for(legs):
    trip = legs()
    trip.chains.a.script(errors.RateLimited("slow", 429, 7.0))
    trip.chains.b.script(errors.ModelNotFound("who?", 404))

    with pytest.raises(errors.ChainExhausted):
        trip.ask("a/x,b/y")
    assert trip.trip == ["to b"]


def test_a_lane_with_too_long_a_line_is_passed_by(legs):
    trip = legs("b")
    trip.chains.a.script(errors.ModelNotFound("who?", 404))

    reply = trip.ask("a/x,b/y,c/z")

    assert trip.trip == ["to c"]
    assert targets(reply.attempts)[1] == ("b/y", "LaneBusy")
    (busy,) = [event for event in trip.chains.told if event.kind == "lane_busy"]
    assert (busy.target, busy.retry_after_s) == ("b/y", 55)


def test_when_all_other_lanes_are_busy_there_is_a_reason_for_each(legs):
    trip = legs("b", "c")
    trip.chains.a.script(errors.ModelNotFound("who?", 404))

    with pytest.raises(errors.ChainExhausted, match="b/y lane b has too long a line; c/z"):
        trip.ask("a/x,b/y,c/z")
