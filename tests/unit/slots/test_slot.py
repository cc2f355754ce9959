"""``lanes.slot``: slots for code that is no task, on a store in this process's memory."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack

import pytest

from celery_lanes import call_context
from celery_lanes.errors import (
    ConfigError,
    LaneBusy,
    LanesError,
)
from celery_lanes.store.attempts import Outcome
from tests.unit.slots.waiters import DEADLINE_S, Waiter, counts, ends_of
from tests.waiting import pass_time, until


def test_a_slot_is_held_for_the_block_and_free_when_it_has_ended(lanes):
    with lanes.slot("ollama/llama3.1:8b", caller="alice") as slot:
        assert counts(lanes) == (1, 0)
        assert (slot.lane, slot.caller, slot.is_lost, slot.should_yield()) == (
            "ollama",
            "alice",
            False,
            False,
        )

    assert counts(lanes) == (0, 0)
    assert lanes.parts.store.snapshot("ollama").done_last_minute == 1


def test_a_slot_of_a_lane_by_name(lanes):
    with lanes.slot(lane="ollama"):
        assert counts(lanes) == (1, 0)


def test_the_block_of_another_waits_until_the_slot_is_given_back(lanes):
    first = Waiter(lanes.slot("ollama/x"))
    assert first.has_it.wait(DEADLINE_S)
    second = Waiter(lanes.slot("ollama/x"))
    until(lambda: counts(lanes) == (1, 1))
    assert not second.has_it.is_set()

    first.go()

    assert second.has_it.wait(DEADLINE_S)
    assert counts(lanes) == (1, 0)
    second.go()


def test_releasing_early_and_twice_is_legal(lanes):
    with lanes.slot("ollama/x") as slot:
        slot.release()
        assert counts(lanes) == (0, 0)
        slot.release()
        with lanes.slot("ollama/x"):
            slot.release()
            assert counts(lanes) == (1, 0)

    slot.release()
    assert counts(lanes) == (0, 0)
    assert lanes.parts.store.snapshot("ollama").done_last_minute == 2


def test_a_block_that_raises_gives_its_slot_back_and_says_nothing_of_service_times(lanes):
    with pytest.raises(KeyError), lanes.slot("ollama/x"):
        raise KeyError

    assert counts(lanes) == (0, 0)
    assert not lanes.parts.store._lanes["ollama"].times_ms


def test_the_real_cost_is_charged(make_lanes):
    lanes = make_lanes(lane={"cost": "tokens"})
    ends = ends_of(lanes.parts.store)

    with lanes.slot("ollama/x", cost=500) as slot:
        slot.release(cost=120)

    assert [(end.outcome, end.cost) for end in ends] == [(Outcome.DONE, 120)]


def test_whose_and_how_urgent_it_is_as_given_or_as_the_context_says(lanes):
    with lanes.slot("ollama/x"):
        with call_context(caller="bob", priority=7):
            waiters = [
                Waiter(lanes.slot("ollama/x")),
                Waiter(lanes.slot("ollama/x", caller="zoe", priority=0)),
            ]
        until(lambda: counts(lanes) == (1, 2))
        waiting = [r for r in lanes.parts.store._lanes["ollama"].records.values() if not r.token]
        assert sorted((r.call.caller, r.call.priority) for r in waiting) == [("bob", 7), ("zoe", 0)]

    for waiter in waiters:
        waiter.may_go.set()
    for waiter in waiters:
        waiter.go()


def test_who_would_wait_too_long_is_refused_at_once(lanes):
    with lanes.slot("ollama/x"):
        pass_time(0.06, because="so long a call of this lane takes")
    with lanes.slot("ollama/x"):
        begun_at = time.monotonic()
        with (
            pytest.raises(LaneBusy, match="would wait") as busy,
            lanes.slot("ollama/x", max_wait=0),
        ):
            pytest.fail("it was let in")

    assert time.monotonic() - begun_at < DEADLINE_S
    assert busy.value.position == 1
    assert busy.value.eta_s > 0
    assert busy.value.retry_after_s == busy.value.eta_s
    assert counts(lanes) == (0, 0)


def test_who_has_waited_too_long_is_told_where_it_stood(lanes):
    with lanes.slot("ollama/x"):
        waiter = Waiter(lanes.slot("ollama/x"))
        until(lambda: counts(lanes) == (1, 1))
        with pytest.raises(LaneBusy, match=r"within 0\.1s, and 1 others") as busy:
            lanes.slot("ollama/x", max_wait=0.1).__enter__()
        assert counts(lanes) == (1, 1)

    assert (busy.value.position, busy.value.eta_s, busy.value.retry_after_s) == (2, None, None)
    waiter.go()


def test_in_an_event_loop_waiters_leave_it_free(lanes):
    seen = []

    async def hold(number):
        async with lanes.slot("ollama/x", caller=f"c{number}"):
            seen.append(counts(lanes)[0])
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(*(hold(number) for number in range(30)))

    asyncio.run(main())

    assert seen == [1] * 30
    assert counts(lanes) == (0, 0)


def test_an_async_block_may_release_early_without_waiting(lanes):
    async def main():
        async with lanes.slot("ollama/x") as slot:
            slot.release()
            slot.release()
        assert counts(lanes) == (0, 0)

    asyncio.run(main())


def test_a_preemptible_slot_is_asked_for_by_a_more_urgent_one(make_lanes):
    lanes = make_lanes(lane={"preemption": True, "min_runtime": 0})
    with lanes.slot("ollama/x", priority=-10, preemptible=True) as slot:
        urgent = Waiter(lanes.slot("ollama/x", priority=10))
        until(slot.should_yield)
        assert not slot.is_lost
        assert not urgent.has_it.is_set()

    assert urgent.has_it.wait(DEADLINE_S)
    assert urgent.error is None
    urgent.go()


def test_what_is_no_answer_is_refused(lanes):
    with pytest.raises(ValueError, match="expected preemptible to be True or False"):
        lanes.slot("ollama/x", preemptible="yes")


def test_slots_are_renewed_while_their_blocks_run(lanes):
    with lanes.slot("ollama/x") as slot:
        ledger = lanes.parts.store._lanes["ollama"]
        (call,) = ledger.leases
        first = ledger.leases[call]
        until(lambda: ledger.leases[call] > first + 100)
        assert not slot.is_lost


def test_a_lease_may_last_for_longer_than_the_system_can_wait(make_lanes):
    lanes = make_lanes(lane={"lease_ttl": "100d"})

    with lanes.slot("ollama/x"):
        pass_time(0.1, because="the thread goes to sleep")

    assert counts(lanes) == (0, 0)


def test_a_bucket_that_refills_lets_the_waiter_go_with_no_worker_there(make_lanes):
    lanes = make_lanes(lane={"max_concurrent": 5, "rate": "10/s"})

    for _ in range(3):
        with lanes.slot("ollama/x"):
            pass

    assert lanes.parts.store.snapshot("ollama").done_last_minute == 3


def test_a_slot_is_for_one_block(lanes):
    slot = lanes.slot("ollama/x")
    with slot:
        pass

    with pytest.raises(LanesError, match="ask for another one"), slot:
        pytest.fail("it was let in")


def test_where_lanes_are_switched_off_slots_are_free(make_lanes):
    lanes = make_lanes(enabled=False)

    with ExitStack() as slots:
        for _ in range(9):
            slots.enter_context(lanes.slot("ollama/x"))

    assert counts(lanes) == (0, 0)


@pytest.mark.parametrize("model", ["quick", "best", "quick,openai/y"])
def test_an_alias_names_the_lane_of_its_first_model(make_lanes, model):
    lanes = make_lanes(aliases={"quick": "ollama/x,openai/y", "best": "quick"})

    with lanes.slot(model) as slot:
        assert (slot.lane, counts(lanes)) == ("ollama", (1, 0))


@pytest.mark.parametrize(
    ("wish", "complaint"),
    [
        ({}, "expected a model"),
        ({"model": "ollama/x", "lane": "ollama"}, "expected a model"),
        ({"model": "ollama"}, "or an alias, got 'ollama'; a lane has a name: slot"),
        ({"model": 3}, "expected model to be"),
        ({"lane": "olama"}, "did you mean ollama"),
        ({"model": "ollama/x", "max_wait": -1}, "expected max_wait to be a number of seconds"),
        ({"model": "ollama/x", "max_wait": "5s"}, "expected max_wait to be a number of seconds"),
        ({"model": "ollama/x", "max_wait": 1e13}, "expected max_wait to be a number of seconds"),
        (
            {"model": "ollama/x", "max_wait": float("nan")},
            "expected max_wait to be a number of seconds",
        ),
        ({"model": "ollama/x", "priority": 1001}, "expected priority to be a whole number"),
        ({"model": "ollama/x", "cost": 0}, "expected the cost"),
        ({"model": "ollama/x", "caller": "x" * 300}, "expected a caller of up to 256 bytes"),
    ],
    ids=str,
)
def test_odd_wishes_are_refused_before_anything_waits(lanes, wish, complaint):
    with pytest.raises((ValueError, ConfigError), match=complaint):
        lanes.slot(**wish)
