"""What there is to read of a lane of the memory store, beside where a call stands (``survey``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from celery_lanes.store.attempts import HEAD_BYTES, READ_BYTES, Lease
from celery_lanes.store.base import MAX_BATCH_BYTES, Snapshot
from celery_lanes.store.calls import DeadLetter, State, onward_of
from celery_lanes.store.keys import EVERYBODY, quoted
from celery_lanes.store.live import NOTHING, CallerStatus
from celery_lanes.store.memory.endings import MINUTE_S
from celery_lanes.store.memory.ledger import Ledger
from celery_lanes.store.memory.record import Record
from celery_lanes.store.quota import KEPT_MS
from celery_lanes.store.rules import Limit


def snapshot_of(lane: str, ledger: Ledger) -> Snapshot:
    """Count what is in a lane."""
    firsts = [ledger.records[call].since_ms for _, _, call in ledger.queue.firsts]
    second = ledger.now // 1000
    told_ms, quota = ledger.quota or (0, None)
    quota_age_ms = ledger.now - told_ms
    if quota is None or not 0 <= quota_age_ms <= KEPT_MS:
        quota, quota_age_ms = None, 0
    return Snapshot(
        lane=lane,
        max_concurrent=ledger.ceiling,
        effective=ledger.cap,
        provider_wait_ms=ledger.learned.left_ms(ledger.now),
        paused=ledger.is_paused,
        running=len(ledger.leases),
        waiting=len(ledger.queue),
        delayed=len(ledger.delayed),
        established=ledger.established,
        closing=len(ledger.closing) - ledger.established,
        dead=len(ledger.dead),
        callers_waiting=len(firsts),
        oldest_wait_ms=max(0, ledger.now - min(firsts, default=ledger.now)),
        done_last_minute=_last_minute(second, ledger.done),
        moved_last_minute=_last_minute(second, ledger.moved),
        workers=sum(ledger.now - at <= ledger.lease_ttl_ms for at in ledger.workers.values()),
        rate=ledger.live.limit(Limit.RATE, ledger.rules),
        tokens=ledger.live.limit(Limit.TOKENS, ledger.rules),
        quota=quota,
        quota_age_ms=quota_age_ms,
    )


def _last_minute(now: int, seconds: Mapping[int, int]) -> int:
    return sum(count for second, count in seconds.items() if now - MINUTE_S < second <= now)


def callers_of(ledger: Ledger) -> list[CallerStatus]:
    """Say what holds for callers that are named or steered, or that wait."""
    firsts = (ledger.records[call] for _, _, call in ledger.queue.firsts)
    waiting = {record.call.caller for record in firsts if record.account != EVERYBODY}
    names = sorted({*ledger.live.names(ledger.rules), *waiting})
    return [_status_of(ledger, caller) for caller in names]


def _status_of(ledger: Ledger, caller: str) -> CallerStatus:
    holds, live = ledger.live.caller(caller, ledger.rules), ledger.live.callers.get(caller, NOTHING)
    return CallerStatus(
        caller=caller,
        weight=holds.weight,
        rate=holds.rate,
        paused=live.paused,
        live=live.names,
        waiting=ledger.queue.count(quoted(caller)),
    )


def leases_of(ledger: Ledger, limit: int) -> list[Lease]:
    """Say who has the calls whose leases end first, with a slot and without."""
    closing = {call: expires for call, expires in ledger.closing.items() if expires}
    ids = [*_first_to_end(ledger.leases, limit), *_first_to_end(closing, limit)]
    records = (ledger.records[call] for call in ids)
    return [_lease_of(ledger, record) for record in records if record.state is State.RUNNING]


def _first_to_end(held: Mapping[str, int], limit: int) -> list[str]:
    return sorted(held, key=lambda call: (held[call], call))[:limit]


def _lease_of(ledger: Ledger, record: Record) -> Lease:
    call = record.call
    return Lease(
        call=call.id,
        task_id=call.task_id,
        task=call.task,
        caller=call.caller,
        priority=call.priority,
        worker=record.worker,
        attempt=record.attempts,
        ran_ms=max(0, ledger.now - record.granted_at_ms),
        is_established=record.is_established,
        head=_head_of(call.envelope),
    )


def _head_of(envelope: bytes) -> bytes:
    if len(envelope) > READ_BYTES:
        return b""
    head = envelope.partition(b"\n")[0]
    return head if len(head) <= HEAD_BYTES else b""


def letters_of(ledger: Ledger, limit: int, before_ms: int | None) -> list[DeadLetter]:
    """List dead letters, the youngest first, and all that died in the millisecond of the last."""
    page: list[DeadLetter] = []
    room = MAX_BATCH_BYTES
    for died_ms, record in reversed(ledger.dead):
        if before_ms is not None and died_ms >= before_ms:
            continue
        room -= len(record.call.envelope)
        if page and died_ms != page[-1].died_ms and (len(page) >= limit or room < 0):
            break
        page.append(_letter_of(died_ms, record))
    return page


def _letter_of(died_ms: int, record: Record) -> DeadLetter:
    """Give a dead letter, to be admitted anew."""
    call = replace(onward_of(record.call), has_waited=False, redelivery_ms=0)
    return DeadLetter(call, record.attempts, record.last_end, died_ms)
