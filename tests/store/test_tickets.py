"""Tickets: slots for code outside a task, granted by whoever frees one; workers never see them."""

from __future__ import annotations

from itertools import count

import pytest

from celery_lanes.errors import LaneNotConfigured, NotQueued
from celery_lanes.store.attempts import Outcome, Release
from celery_lanes.store.calls import Busy, Duplicate, Parked
from celery_lanes.store.rules import Bucket, CallerRules, Preemption, Scope

TTL_MS = 400


class Desk:
    """A holder of tickets in one lane, as its process would be."""

    def __init__(self, lane, name: str = "h1") -> None:
        self.lane, self.name = lane, name
        self.ear = lane.store.listen(name)
        self._ids = count(1)
        self._told: dict[str, str] = {}

    def want(self, caller: str = "ann", times: int = 1, **fields):
        max_wait_ms = fields.pop("max_wait_ms", None)
        calls = [
            self.lane.call(caller, id=f"{self.name}-{next(self._ids)}", holder=self.name, **fields)
            for _ in range(times)
        ]
        verdicts = self.lane.admit(*calls, max_wait_ms=max_wait_ms)
        return [call.id for call in calls] if max_wait_ms is None else verdicts[0]

    def claim(self, *known: str, releases=()):
        """Take a turn; what is known is as it was told last."""
        pairs = [(call, self._told.get(call, "")) for call in known]
        claim = self.lane.store.claim(
            self.lane.lane, holder=self.name, known=pairs, releases=releases
        )
        self._told.update(claim.granted)
        self._told.update(dict.fromkeys(claim.gone, ""))
        return claim

    def granted(self, *known: str) -> list[str]:
        return [call for call, _ in self.claim(*known).granted]

    def withdraw(self, call: str):
        return self.lane.store.withdraw(self.lane.lane, holder=self.name, call=call)

    def renew(self, *held: tuple[str, str]):
        return self.lane.store.renew(self.lane.lane, worker=self.name, held=held)

    def hears(self) -> None:
        """Wait until it is called; nothing it asks itself may have done that."""
        self.lane.until(lambda: self.lane.lane in self.ear.drain())


@pytest.fixture
def desks(lane):
    desks = {name: Desk(lane, name) for name in ["h1", "h2"]}
    yield desks
    for desk in desks.values():
        desk.ear.close()


@pytest.fixture
def desk(desks) -> Desk:
    return desks["h1"]


def test_a_free_slot_is_its_holders_at_once_and_it_is_told(lane, desk):
    lane.configure(2)

    first, _ = desk.want(times=2)

    desk.hears()
    assert lane.counts == (2, 0, 0, 0)
    granted = desk.claim().granted
    assert [call for call, _ in granted] == [first, "h1-2"]
    assert len({token for _, token in granted}) == 2


def test_what_a_holder_does_not_say_it_knows_is_told_again(lane, desk):
    lane.configure(2)
    calls = desk.want(times=2)

    assert desk.granted() == desk.granted() == calls
    assert desk.granted(calls[0]) == [calls[1]]
    assert desk.granted(calls[1]) == []


def test_no_worker_is_given_a_ticket_and_no_holder_a_call(lane, desk):
    lane.configure(3)
    lane.store.set_paused(lane.lane, paused=True)
    lane.park()
    desk.want("bob", times=2)
    lane.store.set_paused(lane.lane, paused=False)

    turn = lane.turn(3)

    assert [grant.call for grant in turn.grants] == ["c1"]
    assert desk.granted() == ["h1-1", "h1-2"]
    assert desk.withdraw("c1") is None
    assert desk.renew(("c1", turn.grants[0].token)).lost == ("c1",)
    assert lane.store.renew(lane.lane, worker="w1", held=[("h1-1", "")]).lost == ("h1-1",)


def test_tickets_and_calls_share_by_weight_and_the_cap_holds(lane, desk):
    lane.configure(1, callers={"bob": CallerRules(weight=3.0)})
    lane.park("zoe")
    grant = lane.take()
    lane.park("ann", times=20)
    desk.want("bob", times=20)

    served, known = [], ()
    releases = [Release(grant.call, grant.token)]
    while len(served) < 20:
        grants = lane.turn(1, *releases).grants
        releases = [Release(grant.call, grant.token) for grant in grants]
        served += [grant.caller for grant in grants]
        claim = desk.claim(*known)
        if claim.granted:
            assert not grants, "two at once"
            ((call, token),) = claim.granted
            served.append("bob")
            known = (call,)
            desk.claim(*known, releases=[Release(call, token)])

    assert 14 <= served.count("bob") <= 16


def test_a_callers_urgent_ticket_goes_before_its_calls_and_in_a_lane_of_levels_before_all(
    lane, desk
):
    for scope, first in ((Scope.CALLER, "ann"), (Scope.LANE, "bob")):
        lane.scope = scope
        lane.configure(1)
        (running,) = lane.park("zoe")
        grant = lane.take()
        assert grant.call == running.id
        lane.park(first, priority=0)
        (urgent,) = desk.want("ann", priority=5)

        turn = lane.turn(1, Release(grant.call, grant.token))

        assert turn.grants == ()
        ((call, token),) = desk.claim().granted
        assert call == urgent
        desk.claim(call, releases=[Release(call, token)])
        lane.release(lane.take())


def test_whatever_frees_a_slot_serves_the_ticket_that_is_next(lane, desk):
    lane.configure(1, lease_ttl_ms=60_000)
    store = lane.store
    (held,) = desk.want()
    ((_, token),) = desk.claim().granted

    ways = {
        "release": lambda: desk.claim(held, releases=[Release(held, token)]),
        "a raised cap": lambda: store.set_max_concurrent(lane.lane, 2),
        "new rules": lambda: lane.configure(3, lease_ttl_ms=60_000),
    }
    for way, free_a_slot in ways.items():
        (call,) = desk.want()
        assert call not in desk.granted(), way
        desk.ear.drain()

        free_a_slot()

        desk.hears()
        assert call in desk.granted(), way
        if way == "a raised cap":
            store.set_max_concurrent(lane.lane, None)
            lane.configure(2, lease_ttl_ms=60_000)


def test_a_worker_that_releases_serves_the_ticket_also_if_it_wants_nothing(lane, desk):
    lane.configure(1)
    lane.park()
    grant = lane.take()
    (call,) = desk.want()

    lane.release(grant)

    desk.hears()
    assert desk.granted() == [call]


def test_a_paused_lane_serves_no_ticket_until_it_goes_on(lane, desk):
    lane.configure(1)
    lane.store.set_paused(lane.lane, paused=True)
    (call,) = desk.want()
    assert desk.granted() == []

    lane.store.set_paused(lane.lane, paused=False)

    desk.hears()
    assert desk.granted() == [call]


@pytest.fixture
def idle_workers(lane):
    """Two workers that wait for calls and hear when they are woken."""
    ears = {name: lane.store.listen(name) for name in ["w1", "w2"]}

    def idle() -> None:
        for name in ears:
            assert lane.turn(1, worker=name).grants == ()

    yield idle
    for ear in ears.values():
        ear.close()


def test_a_ticket_behind_a_call_is_served_when_the_call_is_cancelled(lane, desk, idle_workers):
    lane.configure(1)
    idle_workers()
    (call,) = lane.park("ann")
    (ticket,) = desk.want("bob")
    assert desk.granted() == []  # a worker is on its way to the call before it

    lane.store.cancel(lane.lane, call.task_id)

    desk.hears()
    assert desk.granted() == [ticket]


def test_a_ticket_passes_calls_that_no_worker_is_there_to_run(lane, desk):
    for scope in Scope:
        lane.scope = scope
        lane.configure(2)
        calls = lane.park("ann", times=3, priority=5)

        (ticket,) = desk.want("bob")

        ((_, token),) = desk.claim().granted
        desk.claim(ticket, releases=[Release(ticket, token)])
        grants = [lane.take() for _ in range(2)]  # and they have lost nothing by it
        assert [grant.call for grant in grants] == [call.id for call in calls[:2]]
        for grant in [*grants, None]:
            lane.release(grant or lane.take())


def test_a_ticket_passes_no_call_of_its_own_caller(lane, desk):
    lane.configure(2)
    lane.park("ann")

    desk.want("ann")

    assert desk.granted() == []


def test_a_ticket_passes_while_the_workers_have_all_they_can_run(lane, desk):
    lane.configure(2)
    lane.park("ann", times=3)
    lane.take()

    (ticket,) = desk.want("bob")

    assert desk.granted() == [ticket]


@pytest.mark.parametrize("kind", ["memory"])
def test_a_ticket_lets_a_worker_that_has_all_it_wanted_ask_for_more(lane, desk):
    """Of several lanes it asks for one call at a time, though it has room for more."""
    lane.configure(3)
    lane.park("zoe", times=3)
    releases = [Release(grant.call, grant.token) for grant in lane.turn(3).grants]
    lane.park("ann", times=3)
    first, second = desk.want("bob", times=2)

    (grant,) = lane.turn(1, *releases).grants
    assert (grant.caller, desk.granted()) == ("ann", [first])
    lane.clock.sleep_ms(99)
    assert desk.granted(first) == []

    lane.clock.sleep_ms(1)  # it has not asked again
    assert desk.granted() == [second]


@pytest.mark.parametrize("kind", ["memory"])
def test_a_ticket_lets_a_worker_that_was_woken_come_for_a_while(lane, desk, idle_workers):
    lane.configure(1)
    (has,) = desk.want("zoe")
    ((_, token),) = desk.claim().granted
    assert lane.turn(1, worker="w1").grants == ()
    lane.park("ann")
    (ticket,) = desk.want("bob")

    claim = desk.claim(has, releases=[Release(has, token)])
    assert (claim.granted, claim.due_in_ms) == ((), 100)
    lane.clock.sleep_ms(99)
    assert desk.granted() == []

    lane.clock.sleep_ms(1)  # it has not come
    assert desk.granted() == [ticket]


def test_a_slot_that_is_lost_before_its_holder_says_that_it_knows_is_told(lane, desk):
    lane.configure(1, lease_ttl_ms=TTL_MS)
    (call,) = desk.want()
    desk.claim()
    lane.reap_until(lambda: lane.counts == (0, 0, 0, 0))

    assert desk.claim(call).gone == (call,)
    assert desk.claim(call).gone == ()


def test_a_ticket_behind_one_that_is_withdrawn_is_served(lane, desks):
    lane.configure(5, tokens=Bucket(10, 100_000, 10))
    desks["h1"].want("ann", cost=5)
    (blocked,) = desks["h1"].want("bob", cost=9)
    (behind,) = desks["h2"].want("zoe", cost=5)
    assert desks["h2"].granted() == []

    assert desks["h1"].withdraw(blocked) is None

    desks["h2"].hears()
    assert desks["h2"].granted() == [behind]


def test_a_caller_with_an_empty_bucket_waits_and_its_holder_is_told_for_how_long(lane, desk):
    lane.configure(5, callers={"ann": CallerRules(rate=Bucket(1, 200, 1))})
    first, second = desk.want("ann", times=2)
    claim = desk.claim()
    assert [call for call, _ in claim.granted] == [first]
    assert 1 <= claim.due_in_ms <= 200

    lane.clock.sleep_ms(claim.due_in_ms)

    lane.until(lambda: desk.granted(first) == [second])


def test_a_lane_whose_bucket_is_empty_tells_its_holder_when_to_ask_again(lane, desk):
    lane.configure(5, rate=Bucket(1, 200, 1))
    first, second = desk.want(times=2)
    claim = desk.claim()
    assert [call for call, _ in claim.granted] == [first]

    lane.clock.sleep_ms(claim.due_in_ms)

    lane.until(lambda: desk.granted(first) == [second])


def test_withdrawing_says_either_withdrawn_or_you_have_it(lane, desk):
    lane.configure(1)
    has, waits = desk.want(times=2)

    assert desk.withdraw(waits) is None
    assert lane.counts == (1, 0, 0, 0)
    token = desk.withdraw(has)
    assert (has, token) in desk.claim().granted
    assert desk.withdraw(has) == token  # a repeat says the same, and takes nothing away
    assert desk.withdraw("never") is None


def test_only_its_holder_may_withdraw_a_ticket(lane, desks):
    lane.configure(1)
    _, waits = desks["h1"].want(times=2)

    assert desks["h2"].withdraw(waits) is None

    assert lane.counts == (1, 1, 0, 0)


def test_a_repeated_admit_is_a_duplicate(lane, desk):
    lane.configure(1)
    call = lane.call(id="q", holder="h1")

    lane.admit(call)

    assert lane.admit(call) == [Duplicate("running")]
    ((_, token),) = desk.claim().granted
    desk.claim(releases=[Release("q", token)])
    assert lane.admit(call) == [Duplicate("settled")]


def test_a_silent_holders_slot_returns_by_its_lease_and_is_simply_forgotten(lane, desks):
    lane.configure(1, lease_ttl_ms=TTL_MS)
    (lost,) = desks["h1"].want()
    (waits,) = desks["h2"].want()
    ((_, token),) = desks["h1"].claim().granted
    desks["h1"].claim(lost)

    def is_served() -> bool:
        desks["h2"].renew((waits, ""))
        return lane.counts == (1, 0, 0, 0)

    lane.reap_until(is_served)

    desks["h2"].hears()
    assert desks["h2"].granted() == [waits]
    assert lane.store.snapshot(lane.lane).dead == 0
    claim = desks["h1"].claim()
    assert (claim.granted, claim.gone) == ((), (lost,))
    assert desks["h1"].renew((lost, token)).lost == (lost,)


def test_tickets_of_a_dead_holder_take_no_slot_when_their_turn_comes(lane, desks):
    lane.configure(1, lease_ttl_ms=TTL_MS)
    lane.park("zoe")
    grant = lane.take()
    desks["h1"].want("ann", times=3)
    desks["h2"].want("bob")

    waited = 0
    while waited < 2 * TTL_MS:  # the worker and the second holder live on
        lane.clock.sleep_ms(50)
        waited += 50
        lane.store.renew(lane.lane, worker="w1", held=[(grant.call, grant.token)])
        desks["h2"].renew(("h2-1", ""))
    lane.release(grant)

    assert desks["h2"].granted() == ["h2-1"]
    assert lane.counts == (1, 0, 0, 0)


def test_renewing_keeps_a_slot_and_names_what_waits(lane, desk):
    lane.configure(1, lease_ttl_ms=TTL_MS)
    has, waits = desk.want(times=2)
    ((_, token),) = desk.claim().granted

    waited = 0
    while waited < 2 * TTL_MS:
        lane.clock.sleep_ms(50)
        waited += 50
        assert desk.renew((has, token), (waits, ""), ("never", "")).lost == ("never",)
        lane.store.reap(lane.lane)

    assert lane.counts == (1, 1, 0, 0)


def test_a_holder_is_no_worker(lane, desk):
    lane.configure(1)
    desk.want()
    desk.claim()
    desk.renew()

    assert lane.store.snapshot(lane.lane).workers == 0


def test_cancelling_a_caller_withdraws_its_tickets_and_tells_the_holder(lane, desk):
    lane.configure(1)
    has, waits, _ = desk.want("ann", times=3)
    desk.claim()
    desk.ear.drain()

    assert lane.store.cancel_caller(lane.lane, "ann") == 2

    desk.hears()
    claim = desk.claim(has)
    assert claim.gone == (waits, "h1-3")
    assert lane.counts == (1, 0, 0, 0)


def test_cancelling_by_id_withdraws_a_ticket(lane, desk):
    lane.configure(1)
    _, waits = desk.want(times=2)

    assert lane.store.cancel(lane.lane, f"task-{waits}") == 1

    assert desk.claim().gone == (waits,)
    with pytest.raises(NotQueued):
        lane.store.cancel(lane.lane, f"task-{waits}")


def test_a_ticket_that_would_wait_too_long_is_refused(lane, desk):
    lane.configure(1)
    for _ in range(2):
        lane.park("ann")
        grant = lane.take()
        lane.clock.sleep_ms(60)
        lane.release(grant)
    lane.park("ann")
    lane.take()

    assert isinstance(desk.want("bob", max_wait_ms=0), Busy)
    assert lane.counts == (1, 0, 0, 0)


@pytest.mark.parametrize("scope", Scope)
def test_a_ticket_that_passes_calls_nobody_runs_is_not_refused_for_them(lane, desk, scope):
    lane.scope = scope
    lane.configure(2)
    lane.park("ann", times=30, priority=5)
    for _ in range(2):
        grant = lane.take()
        lane.clock.sleep_ms(60)
        lane.release(grant)
    lane.clock.sleep_ms(110)  # the worker does not come again

    assert isinstance(desk.want("ann", max_wait_ms=0, priority=5), Busy)  # its own go first
    for _ in range(2):
        assert isinstance(desk.want("bob", max_wait_ms=0), Parked)

    assert len(desk.claim().granted) == 2
    assert isinstance(desk.want("zoe", max_wait_ms=0), Busy)  # no slot is free any more


def test_a_new_lane_says_that_it_has_no_rules_and_serves_when_it_has(lane, desk):
    (call,) = desk.want()
    with pytest.raises(LaneNotConfigured):
        desk.claim()
    assert lane.counts == (0, 1, 0, 0)

    lane.configure(1)

    desk.hears()
    assert desk.granted() == [call]


def test_a_real_cost_is_charged_and_a_slot_given_back_unused_costs_nothing(lane, desk):
    lane.configure(1)
    for outcome, cost in [(Outcome.DONE, 10), (Outcome.BACK, None), (Outcome.FAILED, None)]:
        desk.want("ann")
        ((call, token),) = desk.claim().granted
        desk.claim(call, releases=[Release(call, token, outcome, cost)])

    assert lane.counts == (0, 0, 0, 0)
    assert lane.store.snapshot(lane.lane).done_last_minute == 2


def test_odd_tickets_are_refused(lane, desk):
    lane.configure()
    with pytest.raises(ValueError, match="expected ticket 'q' to wait from now on"):
        lane.admit(lane.call(id="q", holder="h1", due_ms=1))
    with pytest.raises(ValueError, match="expected a ticket to end done, failed or back"):
        desk.claim(releases=[Release("q", "x", Outcome.LOST)])
    assert lane.counts == (0, 0, 0, 0)


def test_a_ticket_wakes_no_worker(lane, desk):
    lane.configure(2)
    ear = lane.store.listen("w1")
    assert lane.turn(1).grants == ()

    desk.want()

    desk.hears()
    assert ear.drain() == set()
    ear.close()


def test_a_slot_that_is_released_wakes_a_worker_if_a_call_is_next(lane, desk):
    lane.configure(1)
    ear = lane.store.listen("w1")
    (has,) = desk.want()
    ((_, token),) = desk.claim().granted
    assert lane.turn(1).grants == ()
    lane.park()

    desk.claim(has, releases=[Release(has, token)])

    lane.until(lambda: lane.lane in ear.drain())
    assert len(lane.turn(1).grants) == 1
    ear.close()


def test_a_preemptible_slot_is_asked_for_and_given_back(lane, desk):
    lane.scope = Scope.LANE
    lane.configure(preemption=Preemption(min_runtime_ms=0))
    (low,) = desk.want("low", priority=-10, preemptible=True)
    ((_, token),) = desk.claim().granted
    desk.ear.drain()

    (urgent,) = desk.want("vip", priority=10)

    desk.hears()
    assert desk.claim(low).preempted == ((low, token),)
    answer = desk.claim(low, releases=[Release(low, token)])
    assert [call for call, _ in answer.granted] == [urgent]
    assert answer.preempted == ()
