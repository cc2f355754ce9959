"""What those who publish ask of the lanes."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from celery_lanes.errors import NotQueued
from celery_lanes.store.calls import (
    Busy,
    Call,
    Verdict,
)
from celery_lanes.store.checks import (
    check_calls,
    check_wait,
)
from celery_lanes.store.memory.admitting import admit, foresee
from celery_lanes.store.memory.cancelling import cancel, forbid
from celery_lanes.store.memory.ledgers import Ledgers
from celery_lanes.store.memory.survey import survey
from celery_lanes.store.rules import Policy, Scope
from celery_lanes.store.standing import NOWHERE, Standing


class Producers(Ledgers):
    """A publisher's verbs."""

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

    def cancel(self, lane: str, task_id: str) -> int:
        """Move the waiting and delayed calls of a task id to closing."""
        with self._open(lane) as ledger:
            return cancel(ledger, task_id)

    def forbid(self, lane: str, task_id: str, for_ms: int) -> bool:
        """Close as cancelled what a broker brings of a task id within a time."""
        with self._open(lane) as ledger:
            return forbid(ledger, task_id, for_ms)

    def position(self, lane: str, task_id: str) -> Standing:
        """Read where a task id's youngest call stands."""
        with self._open(lane) as ledger:
            of_task = (r for r in ledger.records.values() if r.call.task_id == task_id)
            record = max(of_task, key=attrgetter("seq"), default=None)
            if record is None:
                raise NotQueued(NOWHERE)
            return survey(lane, ledger, record)
