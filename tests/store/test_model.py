"""The memory store and the scripts, step by step with the same inputs: they never disagree.

Replies are lost and repeated, numbers are odd, workers forget what they hold or start anew, and the
clock moves: calls fall due, buckets refill, leases lapse, the store comes back from an absence.
"""

from __future__ import annotations

import os
import struct
import uuid
from dataclasses import replace
from itertools import count

import msgpack
import pytest
import redis as redis_py
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
from celery_lanes.fairness import levels as by_level
from celery_lanes.store.attempts import Outcome, Reason, Release
from celery_lanes.store.base import Snapshot
from celery_lanes.store.calls import Busy, Call, Duplicate, State
from celery_lanes.store.connect import open_store
from celery_lanes.store.keys import quoted
from celery_lanes.store.memory import survey
from celery_lanes.store.memory.store import MemoryStore
from celery_lanes.store.quota import Quota
from celery_lanes.store.rules import (
    Bucket,
    CallerRules,
    LaneRules,
    Limit,
    Policy,
    Preemption,
    Scope,
    Unlimited,
)
from celery_lanes.store.standing import Standing
from celery_lanes.testing.embedded import EmbeddedValkey
from tests import services
from tests.store.clocked import (
    LOOKED_AT,
    TURN_EVERY,
    ClockedFunctions,
    ClockedScripts,
    ServerClock,
)

LANE = "model"
WORKERS = ["w1", "w2", "w:3"]
HOLDERS = ["h1", "h:2"]
EXAMPLES = int(os.environ.get("LANES_MODEL_EXAMPLES", "70"))
LEASE_TTL_MS = 10_000
DEDUPE_TTL_MS = 60_000

callers = st.sampled_from(["", "ann", "bob", "a:b", "☃"])
costs = st.sampled_from([1, 2.5, 7, 1000, 1e9])
weights = st.sampled_from([1e-3, 0.5, 1, 3, 1e3])
SERVES = {"next", "claim", "set_max_concurrent", "set_paused"}
"""Verbs that always look whether a ticket may go; others do where they have changed something."""

GOES_ON = [
    {"outcome": Outcome.MOVED, "envelope": b"on"},
    {"outcome": Outcome.BACK, "envelope": b"on"},
    {"outcome": Outcome.BACK, "wait_ms": 900},
]
ENDS = [{"outcome": outcome} for outcome in Outcome if outcome is not Outcome.MOVED]
workers = st.sampled_from(WORKERS)
holders = st.sampled_from(HOLDERS)
buckets = st.none() | st.builds(
    Bucket,
    count=st.sampled_from([1, 3]),
    period_ms=st.sampled_from([100, 1000]),
    burst=st.sampled_from([1, 2, 1000]),
)
preemption = st.none() | st.builds(
    Preemption,
    min_runtime_ms=st.sampled_from([0, 0, 900, 30_000]),
    most=st.integers(0, 2),
    fails=st.booleans(),
)
rules_of_callers = st.builds(CallerRules, weight=weights, rate=buckets)
pauses_ms = st.sampled_from([1, 50, 999, 4_000, 5_001, 6_000, 7_000, 11_000, 61_000, 700_000])


class TwoStores(RuleBasedStateMachine):
    client = None
    dialect = None
    has_levels = False

    def __init__(self) -> None:
        super().__init__()
        self.ids, self.starts = count(1), count(1)
        self.names = {worker: worker for worker in WORKERS}
        self.requests = dict.fromkeys(WORKERS, 0)
        self.last = {}
        self.held = {}  # call -> (worker, token), as the workers believe
        self.closings = {}
        self.moving = {}  # call -> its closing, which admits it to its next lane
        self.known, self.ended = set(), set()
        self.wanted = {}  # ticket -> its holder, as the holders believe
        self.slots = {}  # ticket -> (holder, token)
        self.news = {holder: {} for holder in HOLDERS}

    @initialize(
        cap=st.integers(1, 4),
        max_leases=st.integers(1, 3),
        policy=st.sampled_from(Policy),
        scope=st.sampled_from(Scope),
        rules=st.fixed_dictionaries(
            {
                "rate": buckets,
                "tokens": buckets,
                "preemption": preemption,
                "adaptive": st.booleans(),
            }
        ),
        is_busy=st.sampled_from([True, True, True, False]),
    )
    def start(self, cap, max_leases, policy, scope, rules, is_busy):
        mine, theirs = count(1), count(1)
        self.clock = ServerClock(self.client)
        self.memory = MemoryStore(self.clock, lambda: f"token{next(mine)}")
        self.server = open_store(self.url, prefix=f"model-{uuid.uuid4().hex}")
        self.server._token = lambda: f"token{next(theirs)}"
        self.server._wire.speak(self.dialect)
        self.policy, self.scope = policy, Scope.LANE if self.has_levels else scope
        self.lane_rules = {"max_leases": max_leases, **rules}
        self.set_rules(cap, {})
        self.served_at = self.clock()
        if is_busy:
            self.get_busy()

    def get_busy(self):
        """Have something that can end, move, be reported or stopped: chance alone seldom does."""
        for caller, priority in (("ann", -1000), ("bob", 0), ("ann", 0), ("", -1000)):
            fields = {"caller": caller, "priority": priority, "preemptible": True}
            self.take_in([call_number(next(self.ids), **fields)])
        end = {"end": {"outcome": Outcome.DONE}, "cost": None, "count": 0}
        self.next(worker="w1", want=3, closings=0, is_reply_lost=False, **end)

    def teardown(self):
        if hasattr(self, "server"):
            self.server.disconnect()

    def both(self, verb, *args, **kwargs):
        """Ask both stores; they must say the same."""
        answer, theirs = (ask(store, verb, *args, **kwargs) for store in (self.memory, self.server))
        if verb == "snapshot" and self.clock.has_gone_back:  # what two seconds of one name counted
            theirs = replace(theirs, done_last_minute=answer.done_last_minute)
            theirs = replace(theirs, moved_last_minute=answer.moved_last_minute)
        assert answer == theirs
        if verb in SERVES:
            self.served_at = self.clock()
        return answer

    @property
    def ledger(self):
        return self.memory._lanes[LANE]

    def is_held(self, call, token, state):
        """Say whether a token is the holder's, by the readable store."""
        record = self.ledger.records.get(call)
        return record is not None and record.token == token and record.state is state

    def set_rules(self, cap, callers):
        self.both(
            "configure",
            LaneRules(
                max_concurrent=cap,
                lease_ttl_ms=LEASE_TTL_MS,
                dedupe_ttl_ms=DEDUPE_TTL_MS,
                callers=callers,
                acks_early={"early": True, "late": False},
                **self.lane_rules,
            ),
        )

    @precondition(lambda self: not self.has_levels)
    @rule(scope=st.sampled_from(Scope))
    def change_scope(self, scope):
        self.scope = scope

    @rule(ms=pauses_ms)
    def wait(self, ms):
        self.clock.sleep_ms(ms)

    @rule(ms=st.sampled_from([1, 5_000, 3_600_000]))
    def set_clock_back(self, ms):
        self.clock.set_back(ms)
        self.served_at = None  # by another clock

    @rule(
        cap=st.integers(1, 4),
        callers=st.dictionaries(callers, rules_of_callers, max_size=3),
        rate=buckets,
        preemption=preemption,
        adaptive=st.sampled_from([True, True, True, False]),
    )
    def configure(self, cap, callers, rate, preemption, adaptive):
        self.lane_rules |= {"rate": rate, "preemption": preemption, "adaptive": adaptive}
        self.set_rules(cap, callers)

    @rule(slots=st.none() | st.integers(0, 5))
    def set_cap(self, slots):
        self.both("set_max_concurrent", slots)

    @rule(paused=st.booleans())
    def pause(self, paused):
        self.both("set_paused", paused=paused)

    @rule(caller=callers, weight=st.none() | weights)
    def set_weight(self, caller, weight):
        self.both("set_weight", caller, weight)

    @rule(caller=callers, rate=st.just(Unlimited.UNLIMITED) | buckets)
    def set_rate(self, caller, rate):
        self.both("set_rate", caller, rate)

    @rule(caller=callers, paused=st.booleans())
    def pause_caller(self, caller, paused):
        self.both("set_caller_paused", caller, paused=paused)

    @rule(limit=st.sampled_from(Limit), bucket=st.just(Unlimited.UNLIMITED) | buckets)
    def set_limit(self, limit, bucket):
        self.both("set_limit", limit, bucket)

    @rule(
        batch=st.lists(
            st.tuples(
                callers,
                costs,
                st.sampled_from([-1000, 0, 0, 1000]),
                st.sampled_from([0, 0, 0, 40, 5_000, 2**40]),
                st.sampled_from(["early", "late"]),
                st.booleans(),
                st.booleans(),
                st.booleans(),
            ),
            min_size=1,
            max_size=5,
        ),
        again=st.booleans(),
        max_wait_ms=st.sampled_from([None, None, 0, 900, 5_000, 30_000]),
    )
    def admit(self, batch, again, max_wait_ms):
        calls = []
        for caller, cost, priority, in_ms, task, remember, preemptible, has_waited in batch:
            calls.append(
                call_number(
                    next(self.ids),
                    task=task,
                    caller=caller,
                    priority=priority,
                    cost=cost,
                    due_ms=in_ms and self.clock() + in_ms,
                    remember=remember,
                    preemptible=preemptible,
                    has_waited=has_waited,
                )
            )
            if not remember:  # a broker brought it
                calls[-1] = replace(calls[-1], arrival=f"a-{calls[-1].id}", redelivery_ms=1)
        self.take_in([*calls, *calls[:1]] if again else calls, max_wait_ms)

    @rule(number=st.integers(1, 40), remember=st.booleans(), same_arrival=st.booleans())
    def admit_again(self, number, remember, same_arrival):
        arrival = f"a-c{number}" if same_arrival else ""
        self.take_in([call_number(number, remember=remember, arrival=arrival)])

    def take_in(self, calls, max_wait_ms=None):
        how = {"policy": self.policy, "scope": self.scope, "max_wait_ms": max_wait_ms}
        if len(calls) == 1:
            foreseen = self.both("foresee", *calls, policy=self.policy)
            verdicts = [self.both("place", *calls, **how)[0]]
            if isinstance(verdicts[0], Busy):
                assert foreseen == verdicts[0]
        else:
            verdicts = self.both("admit", calls, **how)
        for call, verdict in zip(calls, verdicts, strict=True):
            if isinstance(verdict, Busy):
                continue
            alive = call.id in self.known - self.ended
            assert isinstance(verdict, Duplicate) or not alive, "one call, twice in the lane"
            if not isinstance(verdict, Duplicate):
                self.ended.discard(call.id)
            self.known.add(call.id)

    @rule(cost=st.sampled_from([0, float("nan"), 1e10]))
    def admit_oddly(self, cost):
        calls = [call_number(-1), call_number(-2, cost=cost)]
        how = {"policy": self.policy, "scope": self.scope}
        assert "expected the cost" in self.both("admit", calls, **how)

    @rule(
        worker=workers,
        want=st.integers(0, 3),
        closings=st.integers(0, 2),
        end=st.sampled_from([*ENDS, *GOES_ON]),
        cost=st.none() | st.sampled_from([0, 1, 3, 5000]),
        count=st.integers(0, 2),
        is_reply_lost=st.booleans(),
    )
    def next(self, worker, want, closings, end, cost, count, is_reply_lost):
        mine = [call for call, (owner, _) in sorted(self.held.items()) if owner == worker][:count]
        releases = [Release(call, self.held.pop(call)[1], cost=cost, **end) for call in mine]
        if end["outcome"] in (Outcome.DONE, Outcome.FAILED):
            self.ended.update(
                r.call for r in releases if self.is_held(r.call, r.token, State.RUNNING)
            )
        self.requests[worker] += 1
        ask = {
            "worker": self.names[worker],
            "request": self.requests[worker],
            "want": want,
            "releases": [*releases, Release("never", "x")],
            "closings": closings,
        }
        before = self.both("snapshot").running
        turn = self.both("next", **ask)
        if is_reply_lost:  # a ticket may have its turn by now: the one to be woken was gone
            again = self.both("next", **ask)
            assert replace(again, due_in_ms=None) == replace(turn, due_in_ms=None)
        self.last[worker], self.last_turn = ask, turn
        self.note(worker, turn, before)

    @rule(worker=workers, times=st.integers(2, 10))
    def work_off(self, worker, times):
        """Chance alone hardly ever serves as many in a row as it takes for a lower level's turn."""
        for _ in range(times):
            end = {"end": {"outcome": Outcome.DONE}, "cost": None, "count": 2}
            self.next(worker=worker, want=1, closings=0, is_reply_lost=False, **end)

    def note(self, worker, turn, before):
        for grant in turn.grants:
            owner, token = self.held.get(grant.call, (None, None))
            assert owner is None or not self.is_held(grant.call, token, State.RUNNING)
            self.held[grant.call] = (worker, grant.token)
        self.closings.update({closing.call: closing.token for closing in turn.closings})
        self.moving.update({c.call: c for c in turn.closings if c.reason is Reason.MOVED})
        for call, token in turn.preempted:
            assert self.is_held(call, token, State.RUNNING)
            assert self.ledger.records[call].call.preemptible
        assert len(self.ledger.leases) <= max(self.ledger.cap, before)

    @precondition(lambda self: self.last)
    @rule(data=st.data())
    def late_twin(self, data):
        ask = self.last[data.draw(st.sampled_from(sorted(self.last)))]
        is_known = ask["worker"] in self.ledger.replies  # not after ten minutes of silence
        turn = self.both("next", **ask | {"request": ask["request"] - 1, "releases": []})
        assert not is_known or turn.grants == turn.closings == ()

    @rule(worker=workers)
    def start_anew(self, worker):
        """A worker dies with all that it holds, and comes back by another name."""
        self.names[worker] = f"{worker}.{next(self.starts)}"
        self.requests[worker] = 0
        self.last.pop(worker, None)
        self.held = {call: at for call, at in self.held.items() if at[0] != worker}

    @rule(number=st.integers(0, 6))
    def cancel(self, number):
        self.both("cancel", f"t{number}")

    @rule(number=st.integers(0, 6), for_ms=st.sampled_from([60_000, 700_000]))
    def forbid(self, number, for_ms):
        """Not for less: the server lets go of its key by a clock that goes on by itself."""
        self.both("forbid", f"t{number}", for_ms)

    @rule(caller=callers)
    def cancel_caller(self, caller):
        self.both("cancel_caller", caller)

    @precondition(lambda self: self.closings)
    @rule(token=st.sampled_from(["right", "wrong"]))
    def close(self, token):
        call = min(self.closings)
        name = self.closings[call] if token == "right" else "x"
        if self.both("close", call=call, token=name):
            self.ended.add(call)
        if token == "right":
            del self.closings[call]

    @precondition(lambda self: self.held)
    @rule(end=st.sampled_from(GOES_ON), cost=st.none() | st.just(3), is_reply_lost=st.booleans())
    def part(self, end, cost, is_reply_lost):
        """Chance alone seldom has a body end so that its call goes on."""
        worker = self.held[min(self.held)][0]
        how = {"end": end, "cost": cost, "count": 1, "is_reply_lost": is_reply_lost}
        self.next(worker=worker, want=1, closings=0, **how)

    @precondition(lambda self: self.moving)
    @rule(again=st.booleans())
    def go_on(self, again):
        """Finish a move, into the same lane, as many a worker may try one after the other."""
        closing = self.moving[min(self.moving)]
        assert closing.envelope == closing.onward.envelope == b"on"
        self.take_in([replace(closing.onward, id=f"{closing.call}-on")])
        if again:
            return
        del self.moving[closing.call]
        if self.both("close", call=closing.call, token=closing.token):
            self.ended.add(closing.call)
        self.closings.pop(closing.call, None)

    @rule(number=st.integers(1, 40), is_moved=st.booleans())
    def confirm(self, number, is_moved):
        self.both("confirm", f"c{number}-on" if is_moved else f"c{number}")

    @precondition(lambda self: self.held)
    @rule(cost=st.sampled_from([0, 2, 10_000]))
    def settle(self, cost):
        call = min(self.held)
        token = self.held[call][1]
        is_ours = self.is_held(call, token, State.RUNNING)
        assert self.both("settle", call=call, token=token, cost=cost) == is_ours
        self.served_at = None  # whose turn it is may have changed, and nobody has looked

    @precondition(lambda self: self.held)
    @rule(
        wait_ms=st.sampled_from([0, 0, 0, 30, 2_000, 2**40]),
        quota=st.sampled_from([None, None, Quota("requests", 0, 60, 2_000), Quota("tokens", 9)]),
        is_ended=st.booleans(),
        data=st.data(),
    )
    def report(self, wait_ms, quota, is_ended, data):
        call = data.draw(st.sampled_from(sorted(self.held)))
        worker, token = self.held[call]
        is_ours = self.is_held(call, token, State.RUNNING)
        assert self.both("report", call=call, token=token, wait_ms=wait_ms, quota=quota) == is_ours
        if is_ended:
            end = {"end": {"outcome": Outcome.FAILED}, "cost": None, "count": 1}
            self.next(worker=worker, want=1, closings=0, is_reply_lost=False, **end)

    @precondition(lambda self: self.held)
    @rule(is_repeated=st.booleans(), data=st.data())
    def establish(self, is_repeated, data):
        call = data.draw(st.sampled_from(sorted(self.held)))
        token = self.held[call][1]
        is_ours = self.is_held(call, token, State.RUNNING)
        for _ in range(1 + is_repeated):
            assert self.both("establish", call=call, token=token) == is_ours
        assert call not in self.ledger.leases or not is_ours

    @rule(worker=workers, is_forgetful=st.booleans())
    def renew(self, worker, is_forgetful):
        mine = [(call, token) for call, (owner, token) in self.held.items() if owner == worker]
        named = [*mine[is_forgetful:], ("never", "x")]
        renewal = self.both("renew", worker=self.names[worker], held=named)
        assert "never" in renewal.lost
        for call in renewal.lost:
            self.held.pop(call, None)

    @rule()
    def reap(self):
        self.both("reap")

    @precondition(lambda self: self.held)
    @rule()
    def lose_one_and_close(self):
        """Chance alone hardly ever makes a dead letter."""
        worker = self.held[min(self.held)][0]
        lost = {"end": {"outcome": Outcome.LOST}, "cost": None, "count": 1}
        self.next(worker=worker, want=0, closings=2, is_reply_lost=False, **lost)
        while self.closings:
            self.close(token="right")

    @rule(worker=workers, caller=callers, want=st.integers(1, 3))
    def preempt(self, worker, caller, want):
        """Nor that a lane is full of lowly calls when an urgent one comes."""
        preempted = {"outcome": Outcome.PREEMPTED}
        end = {"end": preempted, "cost": None, "closings": 1, "is_reply_lost": False}
        for _ in range(5):
            self.take_in([call_number(next(self.ids), priority=-1000, preemptible=True)])
        self.next(worker=worker, want=4, count=0, **end)
        for priority in (0, *[1000] * want):
            self.take_in([call_number(next(self.ids), caller=caller, priority=priority)])
        for _ in range(2):
            for call, token in self.last_turn.preempted:
                self.make_room(call, token)
            self.next(worker=worker, want=1, count=0, **end)

    def make_room(self, call, token):
        self.held.pop(call, None)
        ask = {"worker": self.names["w1"], "request": 0, "want": 0}
        self.both("next", **ask, releases=[Release(call, token, Outcome.PREEMPTED)])

    @rule(worker=workers, ms=st.sampled_from([1, 300, 2_000]), cost=st.none() | st.just(3))
    def serve_one(self, worker, ms, cost):
        """Nor that a call ends well, so that a lane knows how long its calls take."""
        done = {"outcome": Outcome.DONE}
        end = {"end": done, "cost": cost, "closings": 0, "is_reply_lost": False}
        self.next(worker=worker, want=1, count=0, **end)
        self.clock.sleep_ms(ms)
        self.next(worker=worker, want=0, count=1, **end)

    @rule(limit=st.sampled_from([1, 3, 100]))
    def read_leases(self, limit):
        self.both("leases", limit)

    @rule()
    def read_dead_letters(self):
        self.both("dead_letters", limit=5)

    @rule(is_older=st.booleans())
    def bury_the_last_of_a_page(self, is_older):
        page = self.both("dead_letters", limit=1)
        if page and is_older:
            page = self.both("dead_letters", limit=1, before_ms=page[-1].died_ms)
        for letter in page[-1:]:
            assert self.both("bury", letter.call.id, letter.died_ms)
            assert not self.both("bury", letter.call.id, letter.died_ms)

    @rule(
        holder=holders,
        batch=st.lists(
            st.tuples(callers, costs, st.sampled_from([-1000, 0, 0, 1000]), st.booleans()),
            min_size=1,
            max_size=3,
        ),
        max_wait_ms=st.sampled_from([None, None, 0, 900]),
        is_reply_lost=st.booleans(),
    )
    def want_slots(self, holder, batch, max_wait_ms, is_reply_lost):
        calls = [
            ticket_number(
                next(self.ids),
                caller=caller,
                cost=cost,
                priority=priority,
                holder=holder,
                preemptible=preemptible,
            )
            for caller, cost, priority, preemptible in batch
        ]
        how = {"policy": self.policy, "scope": self.scope, "max_wait_ms": max_wait_ms}
        before = self.both("snapshot").running
        verdicts = self.both("admit", calls, **how)
        if is_reply_lost:
            self.both("admit", calls, **how)
        for call, verdict in zip(calls, verdicts, strict=True):
            if not isinstance(verdict, Busy) or call.id in self.ledger.records:
                self.wanted[call.id] = holder
        assert len(self.ledger.leases) <= max(self.ledger.cap, before)

    @rule(
        holder=holders,
        ends=st.integers(0, 2),
        outcome=st.sampled_from([Outcome.DONE, Outcome.FAILED, Outcome.BACK]),
        cost=st.none() | st.sampled_from([0, 3, 5000]),
        is_reply_lost=st.booleans(),
    )
    def claim(self, holder, ends, outcome, cost, is_reply_lost):
        mine = [call for call, (owner, _) in sorted(self.slots.items()) if owner == holder][:ends]
        releases = [Release(call, self.slots.pop(call)[1], outcome, cost) for call in mine]
        ask = {"holder": holder, "known": sorted(self.news[holder].items()), "releases": releases}
        before = self.both("snapshot").running
        claim = self.both("claim", **ask)
        if is_reply_lost:
            told, claim = {*claim.granted, *claim.gone}, self.both("claim", **ask)
            assert told <= {*claim.granted, *claim.gone}  # and what has been granted meanwhile
        self.news[holder] = {**dict(claim.granted), **dict.fromkeys(claim.gone, "")}
        assert all(self.is_held(*lease, State.RUNNING) for lease in claim.preempted)
        for call, token in claim.granted:
            assert self.wanted.pop(call) == holder, "granted twice, or to another"
            assert self.is_held(call, token, State.RUNNING)
            self.slots[call] = (holder, token)
        for call in claim.gone:
            self.wanted.pop(call, None)
            self.slots.pop(call, None)
        assert len(self.ledger.leases) <= max(self.ledger.cap, before)

    @precondition(lambda self: self.wanted)
    @rule(is_reply_lost=st.booleans(), is_owner=st.booleans())
    def withdraw(self, is_reply_lost, is_owner):
        call = min(self.wanted)
        ask = {"holder": self.wanted[call] if is_owner else "w1", "call": call}
        token = self.both("withdraw", **ask)
        if is_reply_lost:
            assert self.both("withdraw", **ask) == token
        if not is_owner:
            assert token is None
        elif token is not None:
            assert self.is_held(call, token, State.RUNNING)
            self.slots[call] = (self.wanted.pop(call), token)
            self.news[self.slots[call][0]][call] = token
        else:
            assert call not in self.ledger.records
            del self.wanted[call]

    @rule(holder=holders, is_forgetful=st.booleans())
    def vouch(self, holder, is_forgetful):
        """Renew what a holder has, and name what it waits for."""
        held = [(call, token) for call, (owner, token) in self.slots.items() if owner == holder]
        waiting = [(call, "") for call, owner in self.wanted.items() if owner == holder]
        for call in self.both("renew", worker=holder, held=[*held[is_forgetful:], *waiting]).lost:
            self.slots.pop(call, None)
            self.wanted.pop(call, None)

    @invariant()
    def tickets_are_counted_and_no_worker_has_one(self):
        if not hasattr(self, "memory"):
            return
        tickets = [record for record in self.ledger.records.values() if record.is_ticket]
        waiting = [record for record in tickets if record.state is State.WAITING]
        assert self.ledger.tickets.waiting == len(waiting)
        assert all(r.worker == r.call.holder for r in tickets if r.state is State.RUNNING)
        assert not {record.call.id for record in tickets} & set(self.held)
        (meta,) = self.server._keys.of_lane(LANE, ("meta",))
        lane = msgpack.unpackb(self.client.hget(meta, "lane") or b"\x80", unicode_errors="replace")
        assert lane.get("tickets", 0) == len(waiting)

    @invariant()
    def no_ticket_waits_beside_a_free_slot_that_is_its_turn(self):
        """It waits for a bucket or its provider: what has come since, its holder will ask for."""
        if not hasattr(self, "memory") or not self.ledger.free_slots or self.served_at is None:
            return
        account, place = self.ledger.queue.first() or ("", (0, 0, ""))
        record = self.ledger.records.get(place[2])
        if record is not None and record.is_ticket:
            buckets = self.ledger.buckets
            lane_at = buckets.lane_ready_at(record.call.cost)
            own_at = buckets.account_ready_at(account, self.ledger.now)
            assert max(own_at, lane_at, self.ledger.learned.wait_ms) > self.served_at

    @invariant()
    def snapshots_agree_and_every_call_is_accounted_for(self):
        if not hasattr(self, "memory"):
            return
        now = self.both("snapshot")
        alive = now.running + now.established + now.waiting + now.delayed + now.closing
        tickets = sum(record.is_ticket for record in self.ledger.records.values())
        assert alive == len(self.known - self.ended) + tickets == len(self.ledger.records)

    @invariant()
    def callers_agree_and_the_paused_start_nothing(self):
        if not hasattr(self, "memory"):
            return
        held = {status.caller for status in self.both("callers") if status.paused}
        waiting = {name for _, name in tags_of(self.ledger.queue, "ring")}
        assert not waiting & {quoted(caller) for caller in held}

    @invariant()
    def positions_agree(self):
        if not hasattr(self, "memory"):
            return
        for number in range(7):
            self.both("position", f"t{number}")

    @invariant()
    def accounts_agree_to_the_last_bit(self):
        if not hasattr(self, "memory"):
            return
        queue = self.ledger.queue
        assert self.standing("ring", skipped=17) == tags_of(queue, "ring")
        skipped = 4 if queue.are_many else 0
        assert self.standing("tags", skipped=skipped) == tags_of(queue, "finishes")
        assert self.set_aside() == tags_of(queue, "aside")

    @invariant()
    def victims_agree_and_run(self):
        if not hasattr(self, "memory"):
            return
        running = [self.ledger.records[call] for call in self.ledger.leases]
        victims, meta = self.server._keys.of_lane(LANE, ("victims", "meta"))
        theirs = {
            (int(priority), name)
            for name, priority in self.client.zrange(victims, 0, -1, withscores=True)
        }
        assert theirs == {
            (r.call.priority, b"%016d:%s" % (r.granted_at_ms, r.call.id.encode()))
            for r in running
            if r.is_victim
        }
        lane = msgpack.unpackb(self.client.hget(meta, "lane") or b"\x80", unicode_errors="replace")
        marks = [[r.call.id, r.token, r.worker.replace(":", "%3A")] for r in self.ledger.marks]
        assert lane.get("marks", []) == marks
        assert all(r in running and r.is_marked and not r.is_victim for r in self.ledger.marks)

    @invariant()
    def clocks_of_one_level_agree_to_the_last_bit(self):
        if not hasattr(self, "memory") or self.ledger.queue.are_many:
            return
        (meta,) = self.server._keys.of_lane(LANE, ("meta",))
        packed = self.client.hget(meta, "lane")
        lane = msgpack.unpackb(packed, unicode_errors="replace") if packed else {}
        assert lane.get("promised", 0) == self.ledger.queue.promised
        queue = self.ledger.queue.queues.get(0)
        if queue is not None:
            told = (queue.time.served, queue.time.serving, queue.total_weight)
            assert told == (lane["served"], lane["serving"], lane["weights"])

    @invariant()
    def levels_agree_to_the_last_bit(self):
        if not hasattr(self, "memory") or not self.ledger.queue.are_many:
            return
        levels = self.ledger.queue
        marks, meta = self.server._keys.of_lane(LANE, ("marks", "meta"))
        lane = msgpack.unpackb(self.client.hget(meta, "lane"), unicode_errors="replace")
        clocks = {f: v for f, v in self.client.hgetall(marks).items() if f.startswith(b"c")}
        assert (lane["passed"], max(lane["turn"], 0)) == (levels.passed, levels.turn + 1000)
        assert lane.get("promised", 0) == levels.promised
        for field, packed in clocks.items():
            queue, clock = levels.queues[int(field[1:]) - 1000], msgpack.unpackb(packed)
            serving = clock["serving"] if clock["rests"] == lane["rests"] else 0
            told = (queue.time.served, queue.time.serving, queue.total_weight)
            assert told == (clock["served"], serving, clock["weights"])
        standing = len(tags_of(levels, "ring")) + len(tags_of(levels, "finishes"))
        assert self.client.hlen(marks) == standing + len(clocks)

    def standing(self, kind, *, skipped):
        """Read the server's tags, by rank and account; the rest of a name is skipped."""
        (key,) = self.server._keys.of_lane(LANE, (kind,))
        members = self.client.zrange(key, 0, -1, withscores=True)
        if self.ledger.queue.are_many:
            return {
                (int(score) - 1000, name[8 + skipped :].decode()): struct.unpack(">d", name[:8])[0]
                for name, score in members
            }
        return {(0, name[skipped:].decode()): tag for name, tag in members}

    def set_aside(self):
        """Read who is set aside on the server, and until when."""
        (key,) = self.server._keys.of_lane(LANE, ("refill",))
        found = self.client.zrange(key, 0, -1, withscores=True)
        if self.ledger.queue.are_many:
            return {(int(name[:4]) - 1000, name[4:].decode()): until for name, until in found}
        return {(0, name.decode()): until for name, until in found}


def tags_of(levels, kind):
    return {
        (rank, account): at
        for rank, queue in levels.queues.items()
        for account, at in getattr(queue, kind).items()
    }


def call_number(number, **fields):
    fields = {"task": "late", "envelope": b"%d" % number} | fields
    return Call(id=f"c{number}", task_id=f"t{number % 7}", **fields)


def ticket_number(number, **fields):
    return Call(id=f"q{number}", task_id=f"t{number % 7}", task="", **fields)


def ask(store, verb, *args, **kwargs):
    """Ask one store; scripts note only once a second that a worker was heard of."""
    try:
        answer = getattr(store, verb)(LANE, *args, **kwargs)
        if verb == "dead_letters":  # those of one millisecond come in any order
            answer.sort(key=lambda letter: (-letter.died_ms, letter.call.id))
        if verb == "claim":  # those that were cancelled together come in any order, too
            answer = replace(answer, gone=tuple(sorted(answer.gone)))
        if verb == "place":
            return answer[0], answer[1] and replace(answer[1], workers=0)
        return replace(answer, workers=0) if isinstance(answer, (Snapshot, Standing)) else answer
    except (NotQueued, ValueError) as error:
        return repr(error)


@pytest.mark.parametrize("kind", ["functions", "scripts"])
def test_memory_and_scripts_agree_step_by_step(kind, monkeypatch):
    examples = EXAMPLES if kind == "functions" else EXAMPLES // 2  # the same Lua
    assert_they_agree(monkeypatch, kind, steps=30, examples=examples)


def test_they_agree_where_levels_have_a_long_history(monkeypatch):
    assert_they_agree(monkeypatch, "functions", steps=100, examples=EXAMPLES // 4, has_levels=True)


def assert_they_agree(monkeypatch, kind, *, steps, examples, has_levels=False):
    monkeypatch.setattr(by_level, "TURN_EVERY", TURN_EVERY)
    monkeypatch.setattr(survey, "LOOKED_AT", LOOKED_AT)
    program = services.redis_program() if kind == "scripts" else None
    dialect = ClockedFunctions() if kind == "functions" else ClockedScripts()
    with EmbeddedValkey(program=program) as server:
        client = redis_py.Redis.from_url(server.url())
        url = server.url()
        parts = {"client": client, "url": url, "dialect": dialect, "has_levels": has_levels}

        run_state_machine_as_test(
            type("Machine", (TwoStores,), parts),
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        client.close()
