"""What those who publish ask of the lanes."""

from __future__ import annotations

from collections.abc import Sequence

from celery_lanes.errors import AlreadyStarted, NotQueued
from celery_lanes.store.calls import Busy, Call, Verdict
from celery_lanes.store.checks import (
    check_calls,
    check_wait,
    chunks,
)
from celery_lanes.store.keys import account_of, checked_name, quoted
from celery_lanes.store.redis import codec
from celery_lanes.store.redis.line import Argument
from celery_lanes.store.redis.prefix import Prefix
from celery_lanes.store.rules import Policy, Scope
from celery_lanes.store.standing import NOWHERE, Standing


class Producers(Prefix):
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
        how = _how(scope, max_wait_ms, tells=False)
        self._note_lane(lane)
        verdicts: list[Verdict] = []
        for batch in chunks(calls):
            fields = [field for call in batch for field in codec.call_fields(call, policy)]
            verdicts += codec.verdicts(self._wire.admit(lane, [*how, *fields]))
        return verdicts

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
        check_calls([call])
        how = _how(scope, max_wait_ms, tells=True)
        self._note_lane(lane)
        told, (facts,) = self._wire.admit(lane, [*how, *codec.call_fields(call, policy)])
        return codec.verdicts(told)[0], codec.standing(lane, *facts) if facts else None

    def foresee(self, lane: str, call: Call, *, policy: Policy) -> Busy | None:
        """Say how long a call would wait if it were admitted now."""
        check_calls([call])
        fields = (account_of(policy, call.caller), call.priority, codec.number_field(call.cost))
        found = self._wire.run("foresee", lane, *fields, int(call.has_waited))
        return Busy(*map(int, found)) if found else None

    def cancel(self, lane: str, task_id: str) -> int:
        """Move the waiting and delayed calls of a task id to closing."""
        checked_name(lane, "the lane's name")
        cancelled = int(self._wire.run("cancel", lane, quoted(task_id)))
        if cancelled < 0:
            raise AlreadyStarted
        if not cancelled:
            raise NotQueued
        return cancelled

    def forbid(self, lane: str, task_id: str, for_ms: int) -> bool:
        """Close as cancelled what a broker brings of a task id within a time."""
        checked_name(lane, "the lane's name")
        return bool(self._wire.run("forbid", lane, quoted(task_id), for_ms))

    def position(self, lane: str, task_id: str) -> Standing:
        """Read where a task id's youngest call stands."""
        checked_name(lane, "the lane's name")
        answer = self._wire.run("position", lane, quoted(task_id))
        if not answer:
            raise NotQueued(NOWHERE)
        return codec.standing(lane, *answer)


def _how(scope: Scope, max_wait_ms: int | None, *, tells: bool) -> tuple[Argument, ...]:
    """Write what holds for all calls of an admit."""
    check_wait(max_wait_ms)
    return (scope.value, "" if max_wait_ms is None else max_wait_ms, int(tells))
