"""Levels of urgency: the highest goes first, and lower ones have their turns."""

from __future__ import annotations

from collections import Counter
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_lanes.fairness.levels import TURN_EVERY, Levels

LEVELS = st.integers(-3, 3)


class Lane:
    """Levels, driven by one line per step."""

    def __init__(self, *, are_many: bool = True) -> None:
        self.levels = Levels(are_many=are_many)
        self._seq = count(1)

    def park(self, account: str, priority: int = 0, times: int = 1) -> None:
        for _ in range(times):
            seq = next(self._seq)
            self.levels.put(account, (-priority, seq, f"c{seq}"))

    def serve(self, times: int = 1, cost: float = 1.0) -> list[tuple[str, int]]:
        """Grant calls one after another; say whose each was, and how urgent."""
        return [self._serve_one(cost) for _ in range(times)]

    def _serve_one(self, cost: float) -> tuple[str, int]:
        account, place = self.levels.first()
        self.levels.finish(self.levels.take(account, place, cost))
        return account, -place[0]


def test_a_higher_level_goes_first():
    lane = Lane()
    lane.park("ann", -5)
    lane.park("bob", 0)
    lane.park("cid", 10)

    assert lane.serve(3) == [("cid", 10), ("bob", 0), ("ann", -5)]
    assert lane.levels.first() is None


def test_a_level_has_shares_of_its_own():
    lane = Lane()
    lane.park("ann", 5, times=9)
    lane.park("ann", 0, times=3)
    lane.park("bob", 0, times=3)
    lane.serve(9)  # what ann had at 5 is nothing to her at 0

    assert [account for account, _ in lane.serve(6)] == ["ann", "bob"] * 3


def test_with_the_scope_caller_there_is_one_level():
    lane = Lane(are_many=False)
    lane.park("ann", 10, times=3)
    lane.park("bob", 0, times=3)

    assert [account for account, _ in lane.serve(6)] == ["ann", "bob"] * 3


def test_one_grant_of_twenty_goes_to_a_lower_level():
    lane = Lane()
    lane.park("ann", 1, times=100)
    lane.park("bob", 0, times=100)

    served = [account for account, _ in lane.serve(60)]

    assert served == [*["ann"] * 19, "bob"] * 3


def test_the_highest_level_keeps_its_grants_however_many_wait_below():
    lane = Lane()
    for priority in range(50):
        lane.park("ann", priority, times=200)

    served = Counter(priority for _, priority in lane.serve(200))

    assert served[49] == 190
    assert [served[priority] for priority in range(48, 38, -1)] == [1] * 10


def test_turns_begin_again_at_the_top_of_the_lower_levels():
    lane = Lane()
    for priority in (3, 2, 1):
        lane.park("ann", priority, times=100)

    served = [priority for _, priority in lane.serve(80)]

    assert served[19::20] == [2, 1, 2, 1]


def test_grants_count_only_while_a_lower_level_waits():
    lane = Lane()
    lane.park("ann", 1, times=100)
    lane.serve(19)

    lane.park("bob", 0)

    assert [account for account, _ in lane.serve(20)] == [*["ann"] * 19, "bob"]


@given(load=st.lists(st.lists(LEVELS, max_size=3), min_size=200, max_size=200), low=LEVELS)
def test_a_level_that_waits_is_served_within_the_bound_whatever_comes(load, low):
    lane, seen = Lane(), {low, 9}
    lane.park("low", low)
    lane.park("flood", 9, times=200)

    for grants, arrivals in enumerate(load, start=1):
        for priority in arrivals:
            lane.park(f"one-shot-{grants}", priority)
        seen.update(arrivals)
        (served,) = lane.serve()
        if served[1] == low:
            break

    assert grants <= TURN_EVERY * (len(seen) - 1)


def test_tags_of_one_shot_callers_are_forgotten_as_they_pass():
    lane = Lane()
    for number in range(2_000):
        lane.park(f"one-shot-{number}", number % 3)
        lane.serve()

    assert sum(len(queue.finishes) for queue in lane.levels.queues.values()) < 50


def test_an_account_that_is_set_aside_gives_way_and_returns_to_its_level():
    lane = Lane()
    lane.park("ann", 1)
    lane.park("bob", 0)
    lane.levels.set_aside("ann", lane.levels.first()[1], until_ms=5.0)

    assert lane.levels.aside == [(5.0, -1, "ann")]
    assert lane.levels.first()[0] == "bob"
    lane.levels.come_back("ann", -1)
    assert lane.levels.first()[0] == "ann"


def test_a_weight_holds_at_every_level():
    lane = Lane()
    for priority in (1, 0):
        lane.park("ann", priority, times=100)
        lane.park("bob", priority, times=300)
    lane.levels.reweigh("bob", 3.0)

    served = Counter(lane.serve(200))

    assert served["bob", 1] / served["ann", 1] == pytest.approx(3, rel=0.05)
    assert lane.levels.queues[0].total_weight == 4


def test_an_empty_lane_starts_afresh():
    lane = Lane()
    lane.park("ann", 5)
    lane.serve(cost=7)

    assert not lane.levels.settle_down(is_running=True)
    assert lane.levels.settle_down(is_running=False)

    assert lane.levels == Levels(are_many=True)


def test_rounding_errors_go_when_nothing_runs():
    lane = Lane()
    lane.park("ann", 5)
    time = lane.levels.queues[-5].time
    time.serving = 1e-9

    lane.levels.settle_down(is_running=True)
    assert time.serving == 1e-9
    lane.levels.settle_down(is_running=False)
    assert time.serving == 0.0
