"""The memory store and the scripts, step by step with the same inputs: they never disagree.

Lost replies are repeated, numbers are odd, workers forget. Rates, expiry and short delays are
left out: the two have their own clocks. Only fields that do not depend on time are compared.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from celery_lanes.errors import NotQueued
from celery_lanes.store.base import (
    Call,
    CallerRules,
    LaneRules,
    Outcome,
    Parked,
    Policy,
    Release,
    Turn,
)
from celery_lanes.store.memory import MemoryStore
from celery_lanes.store.redis import RedisStore
from tests.store.driving import FakeClock

LANE = "model"
WORKERS = ["w1", "w2", "w:3"]
FAR_MS = 2**50
EXAMPLES = int(os.environ.get("LANES_MODEL_EXAMPLES", "100"))

callers = st.sampled_from(["", "ann", "bob", "a:b", "☃"])
costs = st.sampled_from([1, 2.5, 7, 1000, 1e9])
weights = st.sampled_from([1e-3, 0.5, 1, 3, 1e3])
workers = st.sampled_from(WORKERS)


class TwoStores(RuleBasedStateMachine):
    client = None

    def __init__(self) -> None:
        super().__init__()
        self.ids = count(1)
        self.requests = dict.fromkeys(WORKERS, 0)
        self.last = {}
        self.held = {}  # call -> (worker, token)
        self.closings = {}
        self.admitted, self.settled = set(), set()
        self.cap, self.override = None, None

    @initialize(cap=st.integers(1, 4), max_leases=st.integers(1, 3), policy=st.sampled_from(Policy))
    def start(self, cap, max_leases, policy):
        mine, theirs = count(1), count(1)
        self.memory = MemoryStore(FakeClock(), lambda: f"token{next(mine)}")
        prefix = f"model-{uuid.uuid4().hex}"
        self.server = RedisStore(self.client, prefix, token=lambda: f"token{next(theirs)}")
        self.policy, self.max_leases = policy, max_leases
        self.set_rules(cap, {})

    def both(self, verb, *args, **kwargs):
        """Ask both stores; they must say the same."""
        answer, theirs = (ask(store, verb, *args, **kwargs) for store in (self.memory, self.server))
        assert answer == theirs
        return answer

    def set_rules(self, cap, weights):
        rules = {name: CallerRules(weight) for name, weight in weights.items()}
        early = {"early": True, "late": False}
        self.cap = cap
        self.both(
            "configure",
            LaneRules(
                max_concurrent=cap, max_leases=self.max_leases, callers=rules, acks_early=early
            ),
        )

    @rule(cap=st.integers(1, 4), weights=st.dictionaries(callers, weights, max_size=3))
    def configure(self, cap, weights):
        self.set_rules(cap, weights)

    @rule(slots=st.none() | st.integers(0, 5))
    def set_cap(self, slots):
        self.override = slots
        self.both("set_max_concurrent", slots)

    @rule(paused=st.booleans())
    def pause(self, paused):
        self.both("set_paused", paused=paused)

    @rule(
        batch=st.lists(
            st.tuples(
                callers,
                costs,
                st.sampled_from([-1000, 0, 0, 1, 1000]),
                st.sampled_from([0, 0, 0, FAR_MS]),
                st.sampled_from(["early", "late"]),
            ),
            min_size=1,
            max_size=5,
        ),
        again=st.booleans(),
    )
    def admit(self, batch, again):
        calls = []
        for caller, cost, priority, due_ms, task in batch:
            calls.append(
                call_number(
                    next(self.ids),
                    task=task,
                    caller=caller,
                    priority=priority,
                    cost=cost,
                    due_ms=due_ms,
                )
            )
        calls += calls[:1] if again else []
        self.both("admit", calls, policy=self.policy)
        self.admitted.update(call.id for call in calls)

    @rule(number=st.integers(1, 40))
    def admit_again(self, number):
        call = call_number(number)
        verdicts = self.both("admit", [call], policy=self.policy)
        assert isinstance(verdicts[0], Parked) == (call.id not in self.admitted)
        self.admitted.add(call.id)

    @rule(cost=st.sampled_from([0, float("nan"), 1e10]))
    def admit_oddly(self, cost):
        calls = [call_number(-1), call_number(-2, cost=cost)]
        assert "expected the cost" in self.both("admit", calls, policy=self.policy)

    @rule(
        worker=workers,
        want=st.integers(0, 3),
        closings=st.integers(0, 2),
        outcome=st.sampled_from([Outcome.DONE, Outcome.BACK, Outcome.LOST]),
        cost=st.none() | st.sampled_from([0, 1, 3, 5000]),
        ends=st.integers(0, 2),
        is_reply_lost=st.booleans(),
    )
    def next(self, worker, want, closings, outcome, cost, ends, is_reply_lost):
        mine = [call for call, (owner, _) in sorted(self.held.items()) if owner == worker][:ends]
        releases = [Release(call, self.held.pop(call)[1], outcome, cost) for call in mine]
        releases.append(Release("never", "x"))
        self.requests[worker] += 1
        ask = {
            "worker": worker,
            "request": self.requests[worker],
            "want": want,
            "releases": releases,
            "closings": closings,
        }
        turn = self.both("next", **ask)
        if is_reply_lost:
            assert self.both("next", **ask) == turn
        self.last[worker] = ask
        if outcome is Outcome.DONE:
            self.settled.update(mine)
        self.note(worker, turn)

    def note(self, worker, turn):
        for grant in turn.grants:
            assert grant.call not in self.held, "granted twice at once"
            self.held[grant.call] = (worker, grant.token)
            assert len(self.held) <= (self.cap if self.override is None else self.override)
        self.closings.update({closing.call: closing.token for closing in turn.closings})

    @precondition(lambda self: self.last)
    @rule(data=st.data())
    def late_twin(self, data):
        ask = self.last[data.draw(st.sampled_from(sorted(self.last)))]
        turn = self.both("next", **ask | {"request": ask["request"] - 1})
        assert turn.grants == turn.closings == ()

    @rule(number=st.integers(0, 6))
    def cancel(self, number):
        self.both("cancel", f"t{number}")

    @precondition(lambda self: self.closings)
    @rule(token=st.sampled_from(["right", "wrong"]))
    def close(self, token):
        call = min(self.closings)
        name = self.closings[call] if token == "right" else "x"
        if self.both("close", call=call, token=name):
            self.settled.add(call)
            del self.closings[call]

    @precondition(lambda self: self.held)
    @rule(cost=st.sampled_from([0, 2, 10_000]))
    def settle(self, cost):
        call = min(self.held)
        assert self.both("settle", call=call, token=self.held[call][1], cost=cost)

    @rule(worker=workers)
    def renew(self, worker):
        mine = [(call, token) for call, (owner, token) in self.held.items() if owner == worker]
        renewal = self.both("renew", worker=worker, held=[*mine, ("never", "x")])
        assert renewal.lost == ("never",)

    @rule()
    def reap(self):
        assert not self.both("reap").put_back

    @invariant()
    def snapshots_agree_and_every_call_is_accounted_for(self):
        if not hasattr(self, "memory"):
            return
        now = self.both("snapshot")
        assert now.running == len(self.held)
        alive = now.running + now.waiting + now.delayed + now.closing
        assert alive == len(self.admitted - self.settled)

    @invariant()
    def accounts_agree_to_the_last_bit(self):
        if not hasattr(self, "memory"):
            return
        ledger = self.memory._lanes[LANE]
        ring, tags = self.server._keys.of_lane(LANE, ("ring", "tags"))
        starts = {
            name[17:].decode(): at for name, at in self.client.zrange(ring, 0, -1, withscores=True)
        }
        finishes = {
            name.decode(): at for name, at in self.client.zrange(tags, 0, -1, withscores=True)
        }
        assert starts == ledger.queue.ring
        assert finishes == ledger.queue.finishes


def call_number(number, **fields):
    fields = {"task": "late", "envelope": b"%d" % number} | fields
    return Call(id=f"c{number}", task_id=f"t{number % 7}", **fields)


def ask(store, verb, *args, **kwargs):
    try:
        return timeless(getattr(store, verb)(LANE, *args, **kwargs))
    except (NotQueued, ValueError) as error:
        return repr(error)


def timeless(answer):
    if isinstance(answer, Turn):
        grants = tuple(replace(grant, wait_ms=0) for grant in answer.grants)
        return replace(answer, grants=grants, due_in_ms=None)
    if hasattr(answer, "oldest_wait_ms"):
        return replace(answer, oldest_wait_ms=0, done_last_minute=0)
    return answer


@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_memory_and_scripts_agree_step_by_step(store, kind):
    machine = type("Machine", (TwoStores,), {"client": store._wire.client})

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
