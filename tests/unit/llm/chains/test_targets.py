"""How a call goes from target to target."""

from __future__ import annotations

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from hypothesis import given
from hypothesis import strategies as st

from celery_lanes import errors
from celery_lanes.callinfo import CallInfo
from celery_lanes.llm.chains import retries
from celery_lanes.llm.chains.effects import Effect
from celery_lanes.store.health import Benched, HealthConfig
from tests.unit.llm.chains.rig import DOWN, INFO, WAYS, Chains, as_json, targets


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
    monkeypatch.setattr("tests.unit.llm.chains.rig.ASK", "hi")

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
