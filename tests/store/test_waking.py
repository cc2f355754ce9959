"""Nobody polls: one idle worker is woken for work, and never do two wake each other for ever."""

from __future__ import annotations

import select

import pytest

from celery_lanes.store.attempts import Outcome, Release
from celery_lanes.store.rules import CallerRules


@pytest.fixture
def ears(lane):
    ears = {worker: lane.store.listen(worker) for worker in ["w1", "w2", "w3"]}
    yield ears
    for ear in ears.values():
        ear.close()


@pytest.fixture
def woken(lane, ears):
    """Say which workers have been woken since it was asked last; waits for the first."""

    def ask(*, expected: int = 1) -> list[str]:
        found: list[str] = []

        def look() -> bool:
            found.extend(worker for worker, ear in ears.items() if lane.lane in ear.drain())
            return len(found) >= expected

        if expected:
            lane.until(look)
        lane.clock.sleep_ms(20)  # nobody else comes
        look()
        return found

    return ask


def idle(lane, *workers: str) -> None:
    for worker in workers:
        assert lane.turn(1, worker=worker).grants == ()
        lane.clock.sleep_ms(2)


def test_ear_becomes_readable_when_there_is_work(lane, ears):
    lane.configure()
    idle(lane, "w1")

    lane.park()

    readable, _, _ = select.select([ears["w1"]], [], [], 5)
    assert readable == [ears["w1"]]
    lane.until(lambda: ears["w1"].drain() == {lane.lane})


def test_ear_hears_all_lanes_and_is_empty_after_draining(store, clock, ears):
    from tests.store.driving import Driver

    lanes = [Driver(store, clock, name) for name in ["a", "b", "ü"]]
    heard: set[str] = set()
    for lane in lanes:
        lane.configure()
        idle(lane, "w1")
        lane.park()

    lanes[0].until(lambda: heard.update(ears["w1"].drain()) or heard == {"a", "b", "ü"})

    assert ears["w1"].drain() == set()


def test_admit_wakes_one_idle_worker_who_has_waited_longest(lane, woken):
    lane.configure(3)
    idle(lane, "w2", "w1", "w3")
    woken(expected=0)

    lane.park()

    assert woken() == ["w2"]


def test_admit_wakes_nobody_at_a_full_or_paused_lane(lane, woken):
    lane.configure(1)
    idle(lane, "w1")
    lane.park()
    woken()
    lane.take("w2")
    idle(lane, "w1")

    lane.park()
    assert woken(expected=0) == []

    lane.store.set_max_concurrent(lane.lane, 2)
    assert woken() == ["w1"]
    idle_again = lane.turn(1, worker="w1")
    assert len(idle_again.grants) == 1


def test_duplicate_wakes_nobody(lane, woken):
    lane.configure(2)
    (call,) = lane.park()
    lane.take("w2")
    idle(lane, "w1")

    lane.admit(call)

    assert woken(expected=0) == []


def test_woken_worker_passes_the_wake_on_while_there_is_more(lane, woken):
    lane.configure(3)
    idle(lane, "w1", "w2", "w3")
    lane.park(times=2)
    assert woken() == ["w1"]

    lane.turn(1, worker="w1")

    assert woken() == ["w2"]


def test_release_wakes_a_worker_for_the_freed_slot(lane, woken):
    lane.configure(1)
    lane.park(times=2)
    grant = lane.take("w1")
    idle(lane, "w2")

    lane.turn(0, Release(grant.call, grant.token), worker="w1")

    assert woken() == ["w2"]


def test_worker_that_does_not_listen_is_passed_over(lane, woken):
    lane.configure()
    idle(lane, "deaf1", "deaf2", "w1")

    lane.park()

    assert woken() == ["w1"]


def test_resume_wakes(lane, woken):
    lane.configure()
    lane.store.set_paused(lane.lane, paused=True)
    lane.park()
    idle(lane, "w1")

    lane.store.set_paused(lane.lane, paused=False)

    assert woken() == ["w1"]


def test_raised_cap_of_the_configuration_wakes(lane, woken):
    lane.configure(1)
    lane.park(times=2)
    lane.take("w2")
    idle(lane, "w1")

    lane.configure(2)

    assert woken() == ["w1"]


def test_cancel_wakes_a_worker_to_write_the_result(lane, woken):
    lane.configure()
    idle(lane, "w1")
    lane.park(task_id="t", due_ms=lane.clock() + 60_000)
    woken(expected=0)
    lane.turn(1, worker="w1")

    lane.store.cancel(lane.lane, "t")

    assert woken() == ["w1"]


def test_reap_wakes_a_worker_for_what_it_put_back(lane, woken):
    lane.configure(1, lease_ttl_ms=60)
    lane.park()
    lane.take("dead")
    idle(lane, "w1")

    lane.reap_until(lambda: lane.counts[0] == 0)

    assert woken() == ["w1"]


def test_call_put_back_by_its_worker_wakes_another(lane, woken):
    lane.configure(1)
    lane.park()
    grant = lane.take("w1")
    idle(lane, "w2")

    lane.turn(0, Release(grant.call, grant.token, Outcome.BACK), worker="w1")

    assert woken() == ["w2"]


def test_sooner_delayed_call_wakes_a_worker_to_learn_the_time(lane, woken):
    lane.configure()
    lane.park(due_ms=lane.clock() + 60_000)
    idle(lane, "w1")

    lane.park(due_ms=lane.clock() + 120_000)
    assert woken(expected=0) == []
    lane.park(due_ms=lane.clock() + 30_000)
    assert woken() == ["w1"]


def test_idle_workers_do_not_wake_each_other_for_ever(lane, woken):
    lane.configure(3, callers={"ann": CallerRules()})
    lane.park(task_id="t", times=3)
    lane.store.cancel(lane.lane, "t")
    woken(expected=0)

    rounds = 0
    idle(lane, "w1", "w2", "w3")
    while workers := woken(expected=0):
        idle(lane, *workers)  # none of them has room for a result to write
        rounds += 1
        assert rounds < 5
