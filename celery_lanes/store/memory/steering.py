"""What is set or reported while a lane works; as in ``redis/lua/_steering.lua``."""

from __future__ import annotations

from typing import Any

from celery_lanes.store.adapting import Learned
from celery_lanes.store.keys import quoted
from celery_lanes.store.memory.ledger import Ledger
from celery_lanes.store.memory.record import Record
from celery_lanes.store.quota import Quota
from celery_lanes.store.rules import LaneRules


def set_rules(ledger: Ledger, rules: LaneRules) -> None:
    """Take new rules, with effect on what waits; what was set at run time stays in force."""
    old = ledger.rules
    dropped = [name for name in old.callers if name not in rules.callers] if old else []
    ledger.rules = rules
    if not rules.adaptive:
        ledger.learned = Learned(wait_ms=ledger.learned.wait_ms)
    for name in (*rules.callers, *dropped):
        _apply(ledger, name)
    ledger.buckets.set_rules(rules, ledger.live, ledger.now)
    for _, rank, account in ledger.queue.aside:
        ledger.queue.come_back(account, rank)  # its bucket may be another now


def steer(ledger: Ledger, caller: str, **change: Any) -> None:
    """Set something of a caller, with effect on what waits."""
    ledger.live.set_caller(caller, **change)
    _apply(ledger, caller)
    ledger.buckets.set_rules(ledger.rules, ledger.live, ledger.now)
    ledger.queue.stand_anew(quoted(caller))


def note_overload(ledger: Ledger, record: Record, wait_ms: int) -> None:
    """Note that a running call's provider was overloaded, once for each attempt."""
    is_adaptive = ledger.rules is not None and ledger.rules.adaptive
    if record.is_reported or not (is_adaptive or wait_ms):
        return
    record.is_reported = True
    if is_adaptive:
        ledger.learned.note_overload(record.granted_at_ms, ledger.now, ledger.ceiling)
    ledger.learned.note_wait(wait_ms, ledger.now)


def note_quota(ledger: Ledger, quota: Quota, wait_ms: int) -> None:
    """Note what a provider that answered said of its limits, where the lane goes by it."""
    if ledger.rules is not None and ledger.rules.adaptive:
        ledger.quota = (ledger.now, quota)
        ledger.learned.note_wait(wait_ms, ledger.now)


def _apply(ledger: Ledger, caller: str) -> None:
    account = quoted(caller)
    ledger.queue.reweigh(account, ledger.live.caller(caller, ledger.rules).weight)
    ledger.queue.set_paused(account, is_paused=ledger.live.is_paused(caller))
