"""How much time a target has, and who is held to it."""

from __future__ import annotations

import pytest

from celery_lanes import errors
from celery_lanes.callinfo import CallInfo
from celery_lanes.llm.providers.fake import FakeProvider
from tests.unit.llm.chains.rig import WAYS, targets


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
