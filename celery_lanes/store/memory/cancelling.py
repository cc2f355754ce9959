"""Calls of the memory store that are not wanted any more; as in ``redis/lua/cancel.lua``."""

from __future__ import annotations

from collections.abc import Iterable

from celery_lanes.errors import AlreadyStarted, NotQueued
from celery_lanes.store.attempts import Reason
from celery_lanes.store.calls import State
from celery_lanes.store.keys import account_of
from celery_lanes.store.memory.grants import serve_tickets
from celery_lanes.store.memory.ledger import Ledger
from celery_lanes.store.memory.record import Record
from celery_lanes.store.rules import Policy


def cancel(ledger: Ledger, task_id: str) -> int:
    """Move what waits of a task id to closing; a repeat counts the same."""
    of_task = [r for r in ledger.records.values() if r.call.task_id == task_id]
    _close_waiting(ledger, of_task)
    cancelled = sum(_is_cancelled(record) for record in of_task)
    ledger.wake(min(cancelled, 1))
    if not cancelled:
        raise AlreadyStarted if of_task else NotQueued
    return cancelled


def cancel_caller(ledger: Ledger, caller: str) -> int:
    """Move what waits of a caller to closing: first the delayed calls."""
    mine = [r for r in ledger.records.values() if r.call.caller == caller]
    pages = [[record for record in mine if record.state is State.DELAYED]]
    waiting = [record for record in mine if record.state is State.WAITING]
    accounts = [account_of(policy, caller) for policy in Policy]
    pages += [[r for r in waiting if r.account == account] for account in accounts]
    return sum(_close_page(ledger, page) for page in pages)


def forbid(ledger: Ledger, task_id: str, for_ms: int) -> bool:
    """Note a task id whose calls are not to run when they come; false if one is here."""
    if any(record.call.task_id == task_id for record in ledger.records.values()):
        return False
    known = {task: until for task, until in ledger.forbidden.items() if until > ledger.now}
    ledger.forbidden = {**known, task_id: ledger.now + for_ms}
    return True


def _close_page(ledger: Ledger, records: Iterable[Record]) -> int:
    cancelled = _close_waiting(ledger, records)
    ledger.wake(min(cancelled, 1))
    return cancelled


def _close_waiting(ledger: Ledger, records: Iterable[Record]) -> int:
    """Take out of the queue those of these calls that wait; count them."""
    waiting = [r for r in records if r.state in (State.WAITING, State.DELAYED)]
    for record in waiting:
        ledger.close_waiting(record, Reason.CANCELLED)
    ledger.settle_down()
    if waiting:
        serve_tickets(ledger)
    return len(waiting)


def _is_cancelled(record: Record) -> bool:
    return record.state is State.CLOSING and record.reason is Reason.CANCELLED
