"""How calls come into a lane of the memory store; as in ``redis/lua/admit.lua``."""

from __future__ import annotations

from collections.abc import Sequence

from celery_lanes.store.attempts import Reason
from celery_lanes.store.calls import (
    Busy,
    Call,
    Cancelled,
    Delayed,
    Duplicate,
    Parked,
    Verdict,
)
from celery_lanes.store.keys import account_of
from celery_lanes.store.memory.grants import serve_tickets, will_pass
from celery_lanes.store.memory.ledger import Ledger
from celery_lanes.store.memory.preemption import preempt
from celery_lanes.store.memory.record import Record
from celery_lanes.store.memory.survey import buckets_pass_in_ms, survey
from celery_lanes.store.rules import Policy


def admit(
    ledger: Ledger, lane: str, calls: Sequence[Call], policy: Policy, max_wait_ms: int | None
) -> list[Verdict]:
    """Park calls, once each; let tickets have their slots, make room, wake one idle worker."""
    first_due = min(ledger.delayed.values(), default=None)
    verdicts = [_admit_one(lane, ledger, call, policy, max_wait_ms) for call in calls]
    is_sooner = min(ledger.delayed.values(), default=None) != first_due
    parked = [c for c, v in zip(calls, verdicts, strict=True) if isinstance(v, Parked)]
    has_tickets = any(call.holder for call in parked)
    is_news = is_sooner or any(not call.holder for call in parked)
    if has_tickets:
        serve_tickets(ledger)
    if is_news or has_tickets:
        preempt(ledger)
    is_closing = any(isinstance(verdict, Cancelled) for verdict in verdicts)
    if is_closing or (is_news and ledger.free_slots):
        ledger.wake()
    return verdicts


def foresee(lane: str, ledger: Ledger, call: Call, policy: Policy) -> Busy | None:
    """Say how long a call would wait if it were admitted now; ``None`` if nobody can tell."""
    record = Record(call, account_of(policy, call.caller), ledger.seq + 1, ledger.now)
    standing = survey(lane, ledger, record)
    return None if standing.wait_ms is None else Busy(standing.ahead, standing.wait_ms)


def _admit_one(
    lane: str, ledger: Ledger, call: Call, policy: Policy, max_wait_ms: int | None
) -> Verdict:
    if call.id in ledger.records:
        return Duplicate(ledger.records[call.id].state.value)
    if ledger.remembers(call.arrival) or (call.remember and ledger.remembers(call.id)):
        return Duplicate("settled")
    ledger.seq += 1
    record = Record(call, account_of(policy, call.caller), ledger.seq, ledger.now)
    is_forbidden = _is_forbidden(ledger, call)
    if not is_forbidden and (busy := _refusal(lane, ledger, record, max_wait_ms)):
        return busy
    ledger.records[call.id] = record
    if is_forbidden:
        ledger.to_closing(record, Reason.CANCELLED)
        return Cancelled()
    if call.due_ms > ledger.now:
        ledger.delay(record, call.due_ms)
        return Delayed(call.due_ms)
    ahead = len(ledger.queue)
    ledger.park(record)
    if call.holder:
        ledger.tick()
        ledger.tickets.heard_ms[call.holder] = ledger.lease_now
    return Parked(ahead)


def _is_forbidden(ledger: Ledger, call: Call) -> bool:
    return call.redelivery_ms > 0 and ledger.forbidden.get(call.task_id, 0) > ledger.now


def _refusal(lane: str, ledger: Ledger, record: Record, max_wait_ms: int | None) -> Busy | None:
    if max_wait_ms is None or record.call.due_ms > ledger.now:
        return None
    standing = survey(lane, ledger, record)
    ahead, wait_ms = standing.ahead, standing.wait_ms
    if wait_ms is not None and will_pass(ledger, record):
        ahead, wait_ms = 0, buckets_pass_in_ms(ledger, record)
    return None if wait_ms is None or wait_ms <= max_wait_ms else Busy(ahead, wait_ms)
