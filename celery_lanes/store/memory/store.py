"""The lane store in plain Python, for one process: the readable specification of the verbs.

Eager mode, unit tests and ``memory://`` use it. Every verb runs under one lock, so producer and
worker threads of the process may share it.
"""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from operator import attrgetter, itemgetter
from threading import RLock
from typing import Any

from celery_lanes.errors import LaneNotConfigured, NotQueued
from celery_lanes.store.attempts import Claim, Outcome, Reaped, Reason, Release, Renewal, Turn
from celery_lanes.store.base import MAX_BATCH, Snapshot
from celery_lanes.store.calls import (
    Busy,
    Call,
    DeadLetter,
    State,
    Verdict,
)
from celery_lanes.store.checks import (
    check_asked,
    check_caller,
    check_calls,
    check_died,
    check_limit,
    check_page,
    check_rate,
    check_real_cost,
    check_releases,
    check_rules,
    check_slots,
    check_ticket_releases,
    check_wait,
    check_weight,
    chunks,
)
from celery_lanes.store.keys import checked_name, random_token
from celery_lanes.store.live import CallerStatus
from celery_lanes.store.memory.admitting import admit, foresee
from celery_lanes.store.memory.cancelling import cancel, cancel_caller, forbid
from celery_lanes.store.memory.ear import MemoryEar
from celery_lanes.store.memory.endings import establish, release
from celery_lanes.store.memory.grants import serve_tickets
from celery_lanes.store.memory.leases import (
    extend,
    reap,
    take_back_unnamed,
    trim,
)
from celery_lanes.store.memory.ledger import WAKE_AT_ONCE, Ledger
from celery_lanes.store.memory.reading import callers_of, letters_of, snapshot_of
from celery_lanes.store.memory.steering import note_overload, note_quota, set_rules, steer
from celery_lanes.store.memory.survey import survey
from celery_lanes.store.memory.turn import Wish, forget_news, take_claim, take_turn
from celery_lanes.store.quota import Quota
from celery_lanes.store.rules import Bucket, LaneRules, Limit, Policy, Scope, Unlimited
from celery_lanes.store.standing import NOWHERE, Standing


def epoch_ms() -> int:
    """Read this process's clock, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class MemoryStore:
    """The verbs over dicts.

    Args:
        clock: milliseconds since the epoch; tests pass their own.
        token: makes lease tokens; tests pass their own.
    """

    def __init__(
        self, clock: Callable[[], int] = epoch_ms, token: Callable[[], str] = random_token
    ) -> None:
        self.clock = clock
        self._token = token
        self._lock = RLock()
        self._lanes: dict[str, Ledger] = {}
        self._ears: dict[str, MemoryEar] = {}

    def admit(
        self,
        lane: str,
        calls: Sequence[Call],
        *,
        policy: Policy,
        scope: Scope = Scope.CALLER,
        max_wait_ms: int | None = None,
    ) -> list[Verdict]:
        """Park calls, once each, and wake one idle worker."""
        check_calls(calls)
        check_wait(max_wait_ms)
        with self._open(lane) as ledger:
            ledger.set_scope(scope)
            return admit(ledger, lane, calls, policy, max_wait_ms)

    def foresee(self, lane: str, call: Call, *, policy: Policy) -> Busy | None:
        """Say how long a call would wait if it were admitted now."""
        check_calls([call])
        with self._open(lane) as ledger:
            return foresee(lane, ledger, call, policy)

    def place(
        self,
        lane: str,
        call: Call,
        *,
        policy: Policy,
        scope: Scope = Scope.CALLER,
        max_wait_ms: int | None = None,
    ) -> tuple[Verdict, Standing | None]:
        """Admit one call, and read where it stands."""
        how: Any = {"policy": policy, "scope": scope, "max_wait_ms": max_wait_ms}
        with self._lock:
            (verdict,) = self.admit(lane, [call], **how)
            ledger = self._lanes[lane]
            record = ledger.records.get(call.id)
            return verdict, None if record is None else survey(lane, ledger, record)

    def next(
        self,
        lane: str,
        *,
        worker: str,
        request: int,
        want: int,
        releases: Sequence[Release] = (),
        closings: int = 0,
    ) -> Turn:
        """Release, then grant; a repeated request gets the same grants again."""
        check_releases(releases)
        *_, last = list(chunks(releases)) or [()]
        wish = Wish(
            worker=worker,
            request=request,
            want=min(want, MAX_BATCH),
            closings=min(closings, MAX_BATCH),
            token=self._token(),
            ends=len(last),
            moved=tuple(r.call for r in last if r.outcome is Outcome.MOVED),
        )
        with self._open(lane) as ledger:
            ledger.tick()
            ledger.workers[worker] = ledger.now
            for end in releases:
                release(ledger, end)
            ledger.settle_down()
            if ledger.rules is None:
                raise LaneNotConfigured
            return take_turn(ledger, wish)

    def claim(
        self,
        lane: str,
        *,
        holder: str,
        known: Sequence[tuple[str, str]] = (),
        releases: Sequence[Release] = (),
    ) -> Claim:
        """Release, grant the tickets whose turn it is, and tell a holder of its own."""
        check_ticket_releases(releases)
        with self._open(lane) as ledger:
            ledger.tick()
            ledger.tickets.heard_ms[holder] = ledger.lease_now
            forget_news(ledger, holder, known)
            for end in releases:
                release(ledger, end)
            ledger.settle_down()
            if ledger.rules is None:
                raise LaneNotConfigured
            return take_claim(ledger, holder, len(releases))

    def withdraw(self, lane: str, *, holder: str, call: str) -> str | None:
        """Take back a ticket that waits; if it has been granted, give its token."""
        with self._open(lane) as ledger:
            record = ledger.records.get(call)
            if record is None or record.call.holder != holder:
                return None
            if record.state is State.RUNNING:
                return record.token
            ledger.stop_waiting(record)
            del ledger.records[call]
            ledger.settle_down()
            serve_tickets(ledger)
            ledger.wake(min(1, _takers(ledger)))
            return None

    def renew(self, lane: str, *, worker: str, held: Sequence[tuple[str, str]]) -> Renewal:
        """Extend exactly the named leases; put back what the worker has not named for 5 s."""
        with self._open(lane) as ledger:
            ledger.tick()
            if worker in ledger.tickets.heard_ms:
                ledger.tickets.heard_ms[worker] = ledger.lease_now
            else:
                ledger.workers[worker] = ledger.now
            lost = tuple(call for call, token in held if not extend(ledger, worker, call, token))
            put_back = take_back_unnamed(ledger, worker)
            ledger.settle_down()
            if put_back:
                serve_tickets(ledger)
            ledger.wake(min(put_back, WAKE_AT_ONCE))
            return Renewal(lost, put_back)

    def reap(self, lane: str) -> Reaped:
        """Deal with expired leases, unless the clock has stood still."""
        with self._open(lane) as ledger:
            if extended := ledger.tick():
                return Reaped(extended_ms=extended)
            trim(ledger)
            waits, unheld = reap(ledger)
            ledger.settle_down()
            serve_tickets(ledger)
            ledger.wake(min(len(waits) + unheld, WAKE_AT_ONCE))
            return Reaped(put_back=sum(waits), closing=len(waits) - sum(waits))

    def cancel(self, lane: str, task_id: str) -> int:
        """Move the waiting and delayed calls of a task id to closing."""
        with self._open(lane) as ledger:
            return cancel(ledger, task_id)

    def forbid(self, lane: str, task_id: str, for_ms: int) -> bool:
        """Close as cancelled what a broker brings of a task id within a time."""
        with self._open(lane) as ledger:
            return forbid(ledger, task_id, for_ms)

    def cancel_caller(self, lane: str, caller: str) -> int:
        """Move a caller's waiting and delayed calls to closing: first the delayed ones."""
        with self._open(lane) as ledger:
            return cancel_caller(ledger, caller)

    def close(self, lane: str, *, call: str, token: str) -> bool:
        """Settle a closing call, its result being written."""
        with self._open(lane) as ledger:
            record = ledger.records.get(call)
            if record is None or record.state is not State.CLOSING or record.token != token:
                return False
            if record.reason is Reason.DEAD:
                insort(ledger.dead, (ledger.now, record), key=itemgetter(0))
            del ledger.closing[call]
            ledger.settle(record)
            return True

    def confirm(self, lane: str, call: str) -> None:
        """Say that a call has left the lane that it came from."""
        with self._open(lane) as ledger:
            if (record := ledger.records.get(call)) is not None:
                record.call = replace(record.call, redelivery_ms=0)
            elif call in ledger.settled:
                usual_ms = ledger.now + ledger.dedupe_ttl_ms
                ledger.settled[call] = min(ledger.settled[call], usual_ms)

    def dead_letters(self, lane: str, limit: int, before_ms: int | None = None) -> list[DeadLetter]:
        """Read a page of dead letters, the youngest first."""
        check_page(limit, before_ms)
        with self._open(lane) as ledger:
            return letters_of(ledger, limit, before_ms)

    def bury(self, lane: str, call: str, died_ms: int) -> bool:
        """Forget a dead letter."""
        check_died(died_ms)
        with self._open(lane) as ledger:
            kept = [(at, r) for at, r in ledger.dead if (at, r.call.id) != (died_ms, call)]
            is_found = len(kept) < len(ledger.dead)
            ledger.dead = kept
            return is_found

    def settle(self, lane: str, *, call: str, token: str, cost: float) -> bool:
        """Charge the caller what a running call really cost; the last word wins."""
        check_real_cost(cost, call)
        with self._open(lane) as ledger:
            record = ledger.records.get(call)
            if record is None or record.state is not State.RUNNING or record.token != token:
                return False
            ledger.recharge(record, max(1.0, cost))
            return True

    def report(
        self, lane: str, *, call: str, token: str, wait_ms: int = 0, quota: Quota | None = None
    ) -> bool:
        """Note that a running call's provider was overloaded, or what it said of its limits."""
        check_asked(wait_ms, quota)
        with self._open(lane) as ledger:
            record = ledger.records.get(call)
            if record is None or record.state is not State.RUNNING or record.token != token:
                return False
            if quota is None:
                note_overload(ledger, record, wait_ms)
            else:
                note_quota(ledger, quota, wait_ms)
            return True

    def establish(self, lane: str, *, call: str, token: str) -> bool:
        """Take a running call's slot, and leave it its lease."""
        with self._open(lane) as ledger:
            record = ledger.records.get(call)
            if record is None or record.state is not State.RUNNING or record.token != token:
                return False
            if record.is_ticket:
                return False
            if not record.is_established:
                establish(ledger, record)
                serve_tickets(ledger)
                ledger.wake(min(1, _takers(ledger)))
            return True

    def configure(self, lane: str, rules: LaneRules) -> None:
        """Write a lane's rules."""
        check_rules(rules)
        with self._open(lane) as ledger:
            ledger.acks_early.update(rules.acks_early)
            rules = replace(rules, acks_early={})
            if rules == ledger.rules:
                return
            set_rules(ledger, rules)
            serve_tickets(ledger)
            ledger.wake(_takers(ledger))

    def set_max_concurrent(self, lane: str, slots: int | None) -> None:
        """Change the cap for the whole cluster at once."""
        if slots is not None:
            check_slots(slots, least=0)
        with self._open(lane) as ledger:
            ledger.override = slots
            serve_tickets(ledger)
            ledger.wake(_takers(ledger))

    def set_paused(self, lane: str, *, paused: bool) -> None:
        """Stop or resume grants."""
        with self._open(lane) as ledger:
            ledger.is_paused = paused
            if not paused:
                ledger.learned.wait_ms = 0
            serve_tickets(ledger)
            ledger.wake(_takers(ledger))

    def set_weight(self, lane: str, caller: str, weight: float | None) -> None:
        """Change a caller's share."""
        check_weight(caller, weight)
        self._steer(lane, caller, weight=weight)

    def set_rate(self, lane: str, caller: str, rate: Bucket | Unlimited | None) -> None:
        """Change a caller's bucket of calls."""
        check_rate(caller, rate)
        self._steer(lane, caller, rate=rate)

    def set_caller_paused(self, lane: str, caller: str, *, paused: bool) -> None:
        """Stop or resume grants of a caller's calls."""
        check_caller(caller)
        self._steer(lane, caller, paused=paused)

    def _steer(self, lane: str, caller: str, **change: Any) -> None:
        with self._open(lane) as ledger:
            steer(ledger, caller, **change)
            serve_tickets(ledger)
            ledger.wake(_takers(ledger))

    def set_limit(self, lane: str, limit: Limit, bucket: Bucket | Unlimited | None) -> None:
        """Change one of the lane's own buckets."""
        check_limit(limit, bucket)
        with self._open(lane) as ledger:
            ledger.live.set_limit(limit, bucket)
            ledger.buckets.set_rules(ledger.rules, ledger.live, ledger.now)
            serve_tickets(ledger)
            ledger.wake(_takers(ledger))

    def callers(self, lane: str) -> list[CallerStatus]:
        """Read what holds for callers that are named or steered, or that wait."""
        with self._open(lane) as ledger:
            return callers_of(ledger)

    def snapshot(self, lane: str) -> Snapshot:
        """Read a lane."""
        with self._open(lane) as ledger:
            return snapshot_of(lane, ledger)

    def position(self, lane: str, task_id: str) -> Standing:
        """Read where a task id's youngest call stands."""
        with self._open(lane) as ledger:
            of_task = (r for r in ledger.records.values() if r.call.task_id == task_id)
            record = max(of_task, key=attrgetter("seq"), default=None)
            if record is None:
                raise NotQueued(NOWHERE)
            return survey(lane, ledger, record)

    def lanes(self) -> list[str]:
        """Name every lane that has been used."""
        with self._lock:
            return sorted(name for name, ledger in self._lanes.items() if ledger.is_used)

    def listen(self, worker: str) -> MemoryEar:
        """Open this worker's ear."""
        with self._lock:
            ear = self._ears[worker] = MemoryEar(forget=lambda: self._ears.pop(worker, None))
            return ear

    def warnings(self) -> list[str]:
        """Say what endangers the promises."""
        return ["the store is this process's memory: what waits is lost when it ends"]

    def prove_durability(self) -> None:
        """Do nothing: ``warnings`` says how durable it is."""

    def disconnect(self) -> None:
        """Do nothing: there is no connection."""

    def rouse(self) -> None:
        """Have every worker look at every lane, as when a test has moved the clock."""
        with self._lock:
            for ear in self._ears.values():
                for lane in self._lanes:
                    ear.hear(lane)

    def clear(self) -> None:
        """Forget every lane."""
        with self._lock:
            self._lanes.clear()

    @contextmanager
    def _open(self, lane: str) -> Iterator[Ledger]:
        checked_name(lane, "the lane's name")
        with self._lock:
            if lane not in self._lanes:
                self._lanes[lane] = Ledger(publish=lambda worker: self._publish(worker, lane))
            ledger = self._lanes[lane]
            ledger.now = self.clock()
            yield ledger

    def _publish(self, worker: str, lane: str) -> bool:
        ear = self._ears.get(worker)
        if ear is not None:
            ear.hear(lane)
        return ear is not None


def _takers(ledger: Ledger) -> int:
    return min(ledger.free_slots, len(ledger.queue), WAKE_AT_ONCE)
