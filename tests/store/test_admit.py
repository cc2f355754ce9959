"""Whatever is admitted waits once, at its place; what cannot be kept is refused whole."""

from __future__ import annotations

import math

import pytest

from celery_lanes.store.attempts import Outcome, Release
from celery_lanes.store.calls import Busy, Delayed, Duplicate, Parked
from celery_lanes.store.rules import Bucket, CallerRules


def test_admitted_call_waits_and_says_how_many_wait_before_it(lane):
    assert lane.admit(lane.call(), lane.call("bob")) == [Parked(0), Parked(1)]
    assert lane.counts == (0, 2, 0, 0)


def test_admit_needs_no_rules(lane):
    lane.park()

    lane.configure()

    assert lane.take().call == "c1"


def test_call_is_granted_once_with_its_envelope_to_the_last_byte(lane):
    lane.configure(2)
    lane.park(envelope=bytes(range(256)))

    turn = lane.turn(2)

    assert [(g.call, g.caller, g.attempt, g.envelope) for g in turn.grants] == [
        ("c1", "ann", 1, bytes(range(256)))
    ]


def test_same_call_is_a_duplicate_while_it_waits_runs_and_after_it_has_settled(lane):
    lane.configure()
    call = lane.call()
    lane.admit(call)

    assert lane.admit(call) == [Duplicate("waiting")]
    grant = lane.take()
    assert lane.admit(call) == [Duplicate("running")]
    lane.release(grant)
    assert lane.admit(call) == [Duplicate("settled")]
    assert lane.counts == (0, 0, 0, 0)


def test_same_call_is_a_duplicate_while_it_is_delayed_and_while_it_closes(lane):
    lane.configure()
    call = lane.call(due_ms=lane.clock() + 60_000)
    lane.admit(call)

    assert lane.admit(call) == [Duplicate("delayed")]
    lane.store.cancel(lane.lane, call.task_id)
    assert lane.admit(call) == [Duplicate("closing")]


def test_same_call_twice_in_one_batch_is_taken_once(lane):
    call = lane.call()

    assert lane.admit(call, call) == [Parked(0), Duplicate("waiting")]


def test_call_without_a_nonce_may_come_again_after_it_has_settled(lane):
    lane.configure()
    call = lane.call(remember=False)
    lane.admit(call)
    lane.release(lane.take())

    assert lane.admit(call) == [Parked(0)]


def test_redelivery_of_a_settled_call_without_a_nonce_is_a_duplicate(lane):
    lane.configure()
    lane.admit(lane.call(id="x", remember=False))
    lane.release(lane.take())

    assert lane.admit(lane.call(id="x", remember=True)) == [Duplicate("settled")]


def test_arrival_that_is_admitted_again_after_a_lost_reply_is_a_duplicate_even_if_it_has_settled(
    lane,
):
    lane.configure()
    arrived = {"id": "x", "remember": False}
    lane.admit(lane.call(**arrived, arrival="first"))
    lane.release(lane.take())

    assert lane.admit(lane.call(**arrived, arrival="first")) == [Duplicate("settled")]
    assert lane.admit(lane.call(**arrived, arrival="second")) == [Parked(0)]


def test_settled_call_is_forgotten_after_the_dedupe_time(lane):
    lane.configure(dedupe_ttl_ms=20)
    call = lane.call()
    lane.admit(call)
    lane.release(lane.take())

    lane.clock.sleep_ms(40)

    assert lane.admit(call) == [Parked(0)]


def test_call_from_a_broker_is_known_for_as_long_as_its_message_may_come_again(lane):
    lane.configure(dedupe_ttl_ms=20)
    call = lane.call(redelivery_ms=60_000)
    lane.admit(call)
    lane.release(lane.take())

    lane.clock.sleep_ms(40)

    assert lane.admit(call) == [Duplicate("settled")]


def test_delayed_call_waits_until_it_is_due_and_next_says_when_to_ask(lane):
    lane.configure()
    due = lane.clock() + 120
    assert lane.admit(lane.call(due_ms=due)) == [Delayed(due)]

    early = lane.turn()
    assert early.grants == ()
    assert 0 < early.due_in_ms <= 120

    lane.clock.sleep_ms(early.due_in_ms + 5)
    grant = lane.take()
    assert grant.wait_ms < 100  # since it was due, not since it was sent


def test_batches_beyond_the_limit_are_cut_and_all_answered(lane):
    calls = [lane.call() for _ in range(1_203)]

    verdicts = lane.admit(*calls)

    assert verdicts == [Parked(at) for at in range(1_203)]


ODD = {
    "cost-0": {"cost": 0},
    "cost-nan": {"cost": math.nan},
    "cost-inf": {"cost": math.inf},
    "cost-1e18": {"cost": 1e18},
    "cost-huge-int": {"cost": 10**400},
    "cost-text": {"cost": "1"},
    "cost-bool": {"cost": True},
    "priority-1001": {"priority": 1001},
    "priority-half": {"priority": 0.5},
    "due-negative": {"due_ms": -1},
    "due-nan": {"due_ms": math.nan},
    "caller-long": {"caller": "ü" * 129},
    "caller-surrogate": {"caller": "\ud800"},
}


@pytest.mark.parametrize("fields", ODD.values(), ids=ODD.keys())
def test_odd_numbers_refuse_the_whole_batch_and_lose_nothing(lane, fields):
    good, bad = lane.call(), lane.call(**fields)

    with pytest.raises(ValueError, match=r"expected|surrogates"):
        lane.admit(good, bad)

    assert lane.counts == (0, 0, 0, 0)
    assert lane.admit(good) == [Parked(0)]


class OtherFloat(float):
    """A float that calls itself something else, as NumPy's do."""

    def __repr__(self) -> str:
        return f"np.float64({float(self)!r})"


def test_a_number_of_another_type_is_as_good_as_its_value(lane):
    half = OtherFloat(2.5)
    bucket = Bucket(count=half, period_ms=100, burst=half)
    lane.configure(2, tokens=bucket, callers={"bob": CallerRules(weight=half, rate=bucket)})
    lane.store.set_weight(lane.lane, "ann", half)
    call = lane.call(cost=half)

    assert lane.store.foresee(lane.lane, call, policy=lane.policy) == Busy(0, 0)
    assert lane.admit(call) == [Parked(0)]
    grant = lane.take()
    assert lane.store.settle(lane.lane, call=grant.call, token=grant.token, cost=half)
    lane.release(grant, cost=half)
    assert [caller.weight for caller in lane.store.callers(lane.lane)] == [2.5, 2.5]


def test_call_needs_an_id(lane):
    with pytest.raises(ValueError, match="id"):
        lane.admit(lane.call(id="x"), type(lane.call())(id="", task_id="t", task="x"))


@pytest.mark.parametrize("cost", [-1.0, math.nan, math.inf, 1e10])
def test_odd_real_cost_is_refused_and_the_lease_stays(lane, cost):
    lane.configure()
    lane.park()
    grant = lane.take()

    with pytest.raises(ValueError, match="real cost"):
        lane.release(grant, cost=cost)

    assert lane.counts == (1, 0, 0, 0)


@pytest.mark.parametrize("name", ["", "a{b", "a}b"])
def test_lane_names_that_break_the_hash_tag_are_refused(store, name):
    with pytest.raises(ValueError, match="name without braces"):
        store.snapshot(name)
    with pytest.raises(ValueError, match="name without braces"):
        store.admit(name, [], policy="fair")


CALLERS = [
    "",
    "*",
    "a:b",
    "a:",
    ":",
    "a",
    "a%3Ab",
    "naïve ☃ 🙂",
    "a\nb",
    "a\x00b",
    "w:1",
    "{x}",
    "ü" * 128,
]


def test_callers_may_have_any_name_and_are_never_mixed_up(lane):
    lane.configure(len(CALLERS) * 2)
    for caller in CALLERS:
        lane.park(caller, times=2)

    turn = lane.turn(len(CALLERS) * 2)

    assert sorted(g.caller for g in turn.grants) == sorted(CALLERS * 2)
    assert [g.caller for g in turn.grants[: len(CALLERS)]] == CALLERS
    lane.turn(0, *(Release(g.call, g.token) for g in turn.grants))
    assert lane.counts == (0, 0, 0, 0)


def test_lanes_may_have_any_name_without_braces_and_are_listed(store, clock):
    from tests.store.driving import Driver

    for name in ["b:c", "naïve ☃", "a b"]:
        lane = Driver(store, clock, name)
        lane.configure()
        lane.park()
        assert lane.take().call == "c1"

    store.snapshot("only asked about")
    assert store.lanes() == ["a b", "b:c", "naïve ☃"]


@pytest.mark.parametrize("name", ["a:b", "a\x00b", "☃", "%s%d", "x" * 500])
def test_calls_and_tasks_may_have_any_name(lane, name):
    lane.configure(2)
    lane.admit(lane.call(id=name, task_id=name), lane.call(id="other", task_id=name + ":"))

    grant = lane.take()
    assert grant.call == name
    lane.release(grant)
    assert lane.store.cancel(lane.lane, name + ":") == 1
    assert lane.counts == (0, 0, 0, 1)


def test_closed_call_is_gone_and_only_its_holder_may_close_it(lane):
    lane.configure()
    (call,) = lane.park(task_id="t")
    lane.store.cancel(lane.lane, "t")
    closing = lane.closing()

    assert not lane.store.close(lane.lane, call=call.id, token="stolen")
    assert lane.store.close(lane.lane, call=call.id, token=closing.token)
    assert not lane.store.close(lane.lane, call=call.id, token=closing.token)
    assert lane.counts == (0, 0, 0, 0)
    assert lane.admit(call) == [Duplicate("settled")]


def test_closing_calls_hold_no_slot(lane):
    lane.configure(1)
    lane.park(task_id="t")
    lane.store.cancel(lane.lane, "t")
    lane.park()

    turn = lane.turn(1, closings=1)

    assert len(turn.closings) == len(turn.grants) == 1


def test_settled_costs_follow_the_last_word(lane):
    lane.configure()
    lane.park()
    grant = lane.take()

    assert lane.store.settle(lane.lane, call=grant.call, token=grant.token, cost=5)
    assert lane.store.settle(lane.lane, call=grant.call, token=grant.token, cost=3)
    assert not lane.store.settle(lane.lane, call=grant.call, token="stolen", cost=3)
    lane.release(grant, Outcome.DONE)
    assert not lane.store.settle(lane.lane, call=grant.call, token=grant.token, cost=3)


def test_a_task_id_of_more_than_500_calls_loses_none_of_them(lane):
    lane.configure(max_concurrent=500)
    first = lane.call(task_id="beat", due_ms=lane.clock() + 2_000)
    lane.admit(first)
    others = [lane.call(task_id="beat") for _ in range(500)]
    lane.admit(*others)

    grants = lane.turn(len(others)).grants
    lane.turn(0, *(Release(grant.call, grant.token) for grant in grants))
    lane.until(lambda: lane.turn(0).due_in_ms is None)
    grant = lane.take()
    lane.release(grant)

    assert grant.call == first.id
    assert lane.counts == (0, 0, 0, 0)
