"""What travels of a long call: its newest attempts, and how many came before them."""

from __future__ import annotations

import json

import pytest

from celery_lanes.journeys.journey import MAX_STAGE_BYTES, checked_stage
from celery_lanes.llm.chains.journey import MAX_BYTES, MAX_LEDGER, Journey
from celery_lanes.llm.ledger import Attempt


def journey(*reasons, **state):
    ledger = tuple(
        Attempt(target=f"a/{number}", error_class="RateLimited", status=429, reason=reason)
        for number, reason in enumerate(reasons)
    )
    return Journey(call_id="n1", to_come=("b/x",), retries_left=3, ledger=ledger, **state)


def targets(journey):
    return [attempt.target for attempt in journey.ledger]


def test_what_has_room_travels_as_it_is():
    whole = journey(*["busy"] * MAX_LEDGER)

    assert whole.fitted() == whole
    assert journey().fitted() == journey()


def test_of_many_the_newest_travel_and_say_how_many_came_before():
    fitted = journey(*["busy"] * (MAX_LEDGER + 5)).fitted()

    assert targets(fitted) == [f"a/{number}" for number in range(5, MAX_LEDGER + 5)]
    assert [attempt.left_out for attempt in fitted.ledger] == [5] + [0] * (MAX_LEDGER - 1)


@pytest.mark.parametrize("others", [0, 500, 2000])
def test_long_reasons_fit_into_a_message_and_leave_as_little_out_as_need_be(others):
    spec = tuple(f"provider/model-{number}" for number in range(others))
    fitted = journey(*["\U0001f600" * 200] * MAX_LEDGER, tried_by_others=spec).fitted()

    stage = fitted.model_dump(mode="json")

    assert checked_stage(stage) == stage
    assert MAX_BYTES == MAX_STAGE_BYTES
    kept = len(fitted.ledger)
    assert targets(fitted) == [f"a/{number}" for number in range(MAX_LEDGER - kept, MAX_LEDGER)]
    assert fitted.ledger[0].left_out == MAX_LEDGER - kept > 0
    assert len(json.dumps(stage)) > MAX_BYTES - 3000


def test_what_was_left_out_before_is_counted_on():
    once = journey(*["busy"] * (MAX_LEDGER + 5)).fitted()
    more = once.model_copy(update={"ledger": (*once.ledger, *journey("x", "y").ledger)})

    twice = more.fitted()

    assert twice.ledger[0].left_out == 7
    assert len(twice.ledger) == MAX_LEDGER


def test_the_newest_attempt_travels_in_any_case():
    spec = tuple(f"provider/model-{number}" for number in range(4000))

    assert targets(journey("a", "b", tried_by_others=spec).fitted()) == ["a/1"]
