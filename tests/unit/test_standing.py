"""What follows from a reading: when a call starts, and which of several reasons holds it up."""

from __future__ import annotations

from math import sqrt

import pytest

from celery_lanes.position import in_about, position_of
from celery_lanes.store.calls import State
from celery_lanes.store.standing import Hold, Standing


def reading(**facts):
    """A call that waits for the only slot, in a lane where each call takes a second."""
    usual = {
        "lane": "ollama", "state": State.WAITING, "own_ahead": 0, "others_ahead": 0,
        "is_at_least": False, "is_fifo": False, "paused": False, "caller_paused": False,
        "max_concurrent": 1, "running": 1, "workers": 1, "due_in_ms": 0,
        "caller_rate_in_ms": 0, "lane_rate_in_ms": 0, "lane_tokens_in_ms": 0, "provider_wait_ms": 0,
        "running_ms": (0,), "served_ms": (1000,) * 5,
    }  # fmt: skip
    return Standing(**{**usual, **facts})


@pytest.mark.parametrize(
    ("facts", "start_ms"),
    [
        pytest.param({}, 1000, id="next"),
        pytest.param({"running_ms": (400,)}, 600, id="what-runs-has-run-for-a-while"),
        pytest.param({"running_ms": (1400,)}, 0, id="what-runs-is-late"),
        pytest.param({"own_ahead": 2, "others_ahead": 3}, 6000, id="five-ahead"),
        pytest.param({"running": 0, "running_ms": ()}, 0, id="free-slot"),
        pytest.param(
            {"max_concurrent": 3, "running": 1, "running_ms": (400,), "own_ahead": 2},
            600,
            id="free-slots-are-taken-before-it",
        ),
        pytest.param(
            {"max_concurrent": 3, "running": 3, "running_ms": (0, 800, 500), "own_ahead": 4},
            1500,
            id="second-wave-in-the-slot-that-ends-second",
        ),
        pytest.param(
            {"max_concurrent": 1, "running": 3, "running_ms": (0, 800, 500)},
            1000,
            id="more-run-than-there-are-slots-now",
        ),
        pytest.param(
            {"max_concurrent": 200, "running": 200, "running_ms": (0, 800), "own_ahead": 99},
            200,
            id="only-some-of-the-running-were-looked-at",
        ),
        pytest.param({"state": State.DELAYED, "due_in_ms": 5000}, 5000, id="due-later"),
        pytest.param(
            {"running": 0, "running_ms": (), "provider_wait_ms": 7000}, 7000, id="provider-waits"
        ),
        pytest.param({"provider_wait_ms": 700}, 1000, id="what-runs-ends-later-than-the-wait"),
        pytest.param({"own_ahead": 2, "provider_wait_ms": 7000}, 9000, id="waves-after-the-wait"),
        pytest.param({"caller_rate_in_ms": 7000, "lane_rate_in_ms": 4000}, 7000, id="buckets"),
    ],
)
def test_a_call_starts_when_its_slot_is_free_and_nothing_else_holds_it(facts, start_ms):
    assert reading(**facts).eta_ms == (start_ms, start_ms)


@pytest.mark.parametrize(
    "facts",
    [
        {"paused": True},
        {"caller_paused": True},
        {"workers": 0},
        {"max_concurrent": None},
        {"max_concurrent": 0, "running": 0, "running_ms": ()},
        {"served_ms": ()},
        {"state": State.RUNNING},
        {"state": State.CLOSING},
    ],
    ids=lambda facts: next(iter(facts)),
)
def test_nobody_can_tell(facts):
    assert reading(**facts).eta_ms is None


SPREAD = (900, 100, 500, 300, 700)
"""Quartiles of 300, 500 and 700, and 500 on average, with a deviation of 283."""


def test_what_runs_ends_as_the_quicker_or_as_the_slower_quarter_does():
    now = reading(running_ms=(100,), served_ms=SPREAD)

    assert (now.eta_ms, now.wait_ms) == ((200, 600), 400)


def test_those_ahead_take_the_mean_more_or_less_as_means_of_so_many_differ():
    now = reading(own_ahead=4, served_ms=SPREAD)

    half = 0.6745 * 282.84 * sqrt(1 / 4 + 1 / 5)
    assert now.eta_ms == pytest.approx((4 * (500 - half) + 300, 4 * (500 + half) + 700), abs=1)
    assert now.wait_ms == 4 * 500 + 500


def test_a_few_long_calls_among_many_short_count_for_the_time_they_take():
    now = reading(own_ahead=100, served_ms=(100,) * 27 + (1000,) * 3)

    assert now.wait_ms == 100 * 190 + 100


def test_the_more_calls_are_ahead_the_nearer_is_their_mean():
    few, many = (reading(own_ahead=count, served_ms=SPREAD).eta_ms for count in (1, 100))

    assert (few[1] - few[0]) / 1 > (many[1] - many[0]) / 100


def test_a_call_that_runs_longer_than_usual_may_take_as_long_as_the_longest():
    now = reading(running_ms=(2000,), served_ms=(1000,) * 9 + (9000,))

    assert now.eta_ms == (0, 7000)


IN_ORDER = [
    (Hold.RUNNING, {"state": State.RUNNING}),
    (Hold.DELAYED, {"due_in_ms": 1}),
    (Hold.PAUSED, {"paused": True}),
    (Hold.CALLER_PAUSED, {"caller_paused": True}),
    (Hold.NO_WORKER, {"workers": 0}),
    (Hold.PROVIDER_WAIT, {"provider_wait_ms": 1}),
    (Hold.LANE_TOKENS, {"lane_tokens_in_ms": 9999}),
    (Hold.SHARE, {"others_ahead": 1}),
    (Hold.CAP, {"own_ahead": 1}),
]


@pytest.mark.parametrize("first", range(len(IN_ORDER)), ids=lambda n: IN_ORDER[n][0].value)
def test_of_several_reasons_the_first_is_told(first):
    facts = {}
    for _, fact in IN_ORDER[first:]:
        facts |= fact

    assert reading(**facts).hold is IN_ORDER[first][0]


BUSY = "the only slot is busy; "
SHARED = "all 3 slots are busy, and other callers have their share; "

WORDS = [
    ({}, BUSY + "it is next; it starts in about 1.0s"),
    ({"own_ahead": 2}, BUSY + "2 calls of its own caller go before it; it starts in about 3.0s"),
    (
        {"own_ahead": 1, "is_fifo": True, "served_ms": (1000, 2000, 3000)},
        BUSY + "1 call goes before it; it starts in about 2.4s to 4.6s",
    ),
    (
        {"own_ahead": 2, "others_ahead": 1, "max_concurrent": 3, "running": 3, "served_ms": ()},
        SHARED + "1 call of other callers and 2 calls of its own caller go before it",
    ),
    (
        {"others_ahead": 9, "is_at_least": True, "max_concurrent": 3, "running": 3},
        SHARED + "at least 9 calls of other callers go before it; it starts in about 4.0s",
    ),
    (
        {"max_concurrent": 2, "own_ahead": 1, "served_ms": ()},
        "the free slots go to calls before it; 1 call of its own caller goes before it",
    ),
    ({"max_concurrent": 0}, "the lane has no slots; it is next"),
    (
        {"running": 0, "running_ms": ()},
        "a slot is free for it; it starts as soon as a worker has room",
    ),
    ({"state": State.RUNNING}, "it runs"),
    (
        {"state": State.CLOSING},
        "it neither waits nor runs here any more; its result is being written, or it moves on",
    ),
    (
        {"state": State.CLOSING, "workers": 0},
        (
            "it neither waits nor runs here any more; no worker serves the lane, to write its"
            " result and what hangs on it"
        ),
    ),
    ({"due_in_ms": 65_000}, "it is due in 1m 5s; it is next; it starts in about 1m 5s"),
    ({"paused": True}, "the lane is paused; it is next"),
    ({"workers": 0}, "no worker serves the lane; it is next"),
    (
        {"caller_rate_in_ms": 20_000},
        "its caller's rate is used up; it is next; it starts in about 20s",
    ),
]


@pytest.mark.parametrize(("facts", "words"), WORDS, ids=[words for _, words in WORDS])
def test_the_reason_is_told_in_one_line(facts, words):
    assert position_of(reading(**facts)).explanation == f"ollama: {words}"


def test_a_place_counts_from_one_and_is_none_for_what_runs():
    assert position_of(reading(own_ahead=2, others_ahead=3)).place == 6
    assert position_of(reading(state=State.RUNNING)).place == 0


def test_what_starts_now_starts_at_any_moment():
    assert in_about((0.0, 0.04)) == "at any moment"
    assert in_about((0.0, 4.2)) == "in about 0.0s to 4.2s"
