"""What workers, and holders of slots, ask of the lanes."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter

from celery_lanes.errors import LaneNotConfigured
from celery_lanes.store.attempts import Claim, Outcome, Reaped, Reason, Release, Renewal, Turn
from celery_lanes.store.base import MAX_BATCH
from celery_lanes.store.calls import (
    State,
)
from celery_lanes.store.checks import (
    check_asked,
    check_real_cost,
    check_releases,
    check_ticket_releases,
    chunks,
)
from celery_lanes.store.memory.ear import MemoryEar
from celery_lanes.store.memory.endings import establish, release
from celery_lanes.store.memory.grants import serve_tickets
from celery_lanes.store.memory.leases import (
    extend,
    reap,
    take_back_unnamed,
    trim,
)
from celery_lanes.store.memory.ledger import WAKE_AT_ONCE
from celery_lanes.store.memory.ledgers import Ledgers, takers
from celery_lanes.store.memory.steering import note_overload, note_quota
from celery_lanes.store.memory.turn import Wish, forget_news, take_claim, take_turn
from celery_lanes.store.quota import Quota


class Workers(Ledgers):
    """A worker's verbs, and a holder's."""

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
            ledger.wake(min(1, takers(ledger)))
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
                ledger.wake(min(1, takers(ledger)))
            return True

    def listen(self, worker: str) -> MemoryEar:
        """Open this worker's ear."""
        with self._lock:
            ear = self._ears[worker] = MemoryEar(forget=lambda: self._ears.pop(worker, None))
            return ear
