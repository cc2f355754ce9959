"""What those who run the lanes ask of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from celery_lanes.store.attempts import Lease
from celery_lanes.store.base import Snapshot
from celery_lanes.store.calls import (
    DeadLetter,
)
from celery_lanes.store.checks import (
    check_caller,
    check_died,
    check_leases,
    check_limit,
    check_page,
    check_rate,
    check_rules,
    check_slots,
    check_weight,
)
from celery_lanes.store.live import CallerStatus
from celery_lanes.store.memory.cancelling import cancel_caller
from celery_lanes.store.memory.grants import serve_tickets
from celery_lanes.store.memory.ledgers import Ledgers, takers
from celery_lanes.store.memory.reading import callers_of, leases_of, letters_of, snapshot_of
from celery_lanes.store.memory.steering import set_rules, steer
from celery_lanes.store.rules import Bucket, LaneRules, Limit, Unlimited


class Operators(Ledgers):
    """An operator's verbs."""

    def cancel_caller(self, lane: str, caller: str) -> int:
        """Move a caller's waiting and delayed calls to closing: first the delayed ones."""
        with self._open(lane) as ledger:
            return cancel_caller(ledger, caller)

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
            ledger.wake(takers(ledger))

    def set_max_concurrent(self, lane: str, slots: int | None) -> None:
        """Change the cap for the whole cluster at once."""
        if slots is not None:
            check_slots(slots, least=0)
        with self._open(lane) as ledger:
            ledger.override = slots
            serve_tickets(ledger)
            ledger.wake(takers(ledger))

    def set_paused(self, lane: str, *, paused: bool) -> None:
        """Stop or resume grants."""
        with self._open(lane) as ledger:
            ledger.is_paused = paused
            if not paused:
                ledger.learned.wait_ms = 0
            serve_tickets(ledger)
            ledger.wake(takers(ledger))

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

    def set_limit(self, lane: str, limit: Limit, bucket: Bucket | Unlimited | None) -> None:
        """Change one of the lane's own buckets."""
        check_limit(limit, bucket)
        with self._open(lane) as ledger:
            ledger.live.set_limit(limit, bucket)
            ledger.buckets.set_rules(ledger.rules, ledger.live, ledger.now)
            serve_tickets(ledger)
            ledger.wake(takers(ledger))

    def callers(self, lane: str) -> list[CallerStatus]:
        """Read what holds for callers that are named or steered, or that wait."""
        with self._open(lane) as ledger:
            return callers_of(ledger)

    def leases(self, lane: str, limit: int) -> list[Lease]:
        """Read who has the running calls."""
        check_leases(limit)
        with self._open(lane) as ledger:
            return leases_of(ledger, limit)

    def snapshot(self, lane: str) -> Snapshot:
        """Read a lane."""
        with self._open(lane) as ledger:
            return snapshot_of(lane, ledger)

    def lanes(self) -> list[str]:
        """Name every lane that has been used."""
        with self._lock:
            return sorted(name for name, ledger in self._lanes.items() if ledger.is_used)

    def _steer(self, lane: str, caller: str, **change: Any) -> None:
        with self._open(lane) as ledger:
            steer(ledger, caller, **change)
            serve_tickets(ledger)
            ledger.wake(takers(ledger))
