"""Which running calls of the memory store must make room; as in ``redis/lua/_preemption.lua``.

A lane with preemption has levels. While its slots are full and more calls wait at higher levels
than slots are free or coming free, the running preemptible call of the lowest level, of these the
oldest, is *marked*: its worker is told to stop it, at each turn until it has ended. Only then is
its slot free, so the cap holds; and it is promised to the highest level (``levels``), so the call
that was stopped does not get it back. Nothing moves in the queue: who is next among the urgent ones
is a matter of shares as ever.

A call that has its slot by a *turn* is left alone: else the bound of the low levels would be empty.
"""

from __future__ import annotations

from celery_lanes.store.memory.ledger import Ledger
from celery_lanes.store.memory.record import Record

MARKS = 50
"""Calls that may be on their way out at once."""

LEVELS_LOOKED_AT = 20
CALLERS_LOOKED_AT = 100


def may_be_stopped(ledger: Ledger, record: Record) -> bool:
    """Say whether a call that starts now may be stopped for a more urgent one."""
    rules = ledger.rules.preemption if ledger.rules else None
    if rules is None or not (ledger.queue.are_many and record.call.preemptible):
        return False
    return not record.charge.is_turn and record.preemptions < rules.most


def preempt(ledger: Ledger) -> float | None:
    """Mark what must make room now; say when something else may have to, if that can be told."""
    if ledger.rules is None or ledger.rules.preemption is None or ledger.starts_nothing:
        return None
    if not (ledger.queue.are_many and ledger.queue.ready):
        return None
    if (at := ledger.buckets.lane_ready_at(1.0)) > ledger.now:
        return at
    while len(ledger.marks) < MARKS:
        victim, ripe_at = _victim(ledger, ledger.rules.preemption.min_runtime_ms)
        if victim is None:
            return ripe_at
        _mark(ledger, victim)
    return None


def _victim(ledger: Ledger, min_runtime_ms: int) -> tuple[Record | None, float | None]:
    """Find who must make room: the oldest of the lowest level that has run for long enough."""
    ripe_at = None
    for priority, record in sorted(_oldest_victims(ledger).items())[:LEVELS_LOOKED_AT]:
        if not _is_room_wanted(ledger, -priority):
            break
        at = record.granted_at_ms + min_runtime_ms
        if at <= ledger.now:
            return record, None
        ripe_at = at if ripe_at is None else min(ripe_at, at)
    return None, ripe_at


def _oldest_victims(ledger: Ledger) -> dict[int, Record]:
    victims = [record for call in ledger.leases if (record := ledger.records[call]).is_victim]
    victims.sort(key=lambda record: (record.granted_at_ms, record.call.id), reverse=True)
    return {record.call.priority: record for record in victims}


def _is_room_wanted(ledger: Ledger, rank: int) -> bool:
    """Say whether more calls can start above a level than slots are free or coming free."""
    coming = (ledger.cap or 0) - len(ledger.leases) + len(ledger.marks)
    if coming < 0:  # the cap was lowered: a slot that comes free would be nobody's
        return False
    above = ledger.queue.standing_above(rank)[:CALLERS_LOOKED_AT]
    can_start = sum(
        min(n, ledger.buckets.account_passing(account, ledger.now)) for account, n in above
    )
    return min(can_start, ledger.buckets.lane_passing(ledger.now)) > coming


def _mark(ledger: Ledger, record: Record) -> None:
    record.is_victim, record.is_marked = False, True
    ledger.marks.append(record)
    ledger.publish(record.worker)
