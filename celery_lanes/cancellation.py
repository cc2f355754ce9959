"""Taking calls back that wait, in whichever lanes they are."""

from __future__ import annotations

from functools import cached_property

from celery.worker.state import REVOKE_EXPIRES

from celery_lanes.config.settings import Settings
from celery_lanes.errors import AlreadyStarted, NotQueued
from celery_lanes.position import LOOKS
from celery_lanes.store.base import Store


class Cancellation:
    """What one request to cancel does; it reads once which lanes are in use."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store

    def cancel(self, task_id: str) -> dict[str, int]:
        """Cancel what waits of a task; count the calls by lane.

        Raises ``AlreadyStarted`` or ``NotQueued``. In the latter case a message that the broker
        still has is cancelled as it comes, for as long as a worker remembers a revoked id.
        """
        for _ in range(LOOKS):
            found = {lane: self._cancel(lane, task_id) for lane in self._lanes}
            if cancelled := {lane: count for lane, count in found.items() if count}:
                return cancelled
            if None in found.values():
                raise AlreadyStarted(
                    f"{task_id} does not wait any more: it runs, has just ended, or moves on"
                )
        self._forbid(task_id)
        raise NotQueued(
            f"{task_id} waits in no lane: it has ended, was never published, or is in the broker"
            " (and will be cancelled when it comes)"
        )

    def cancel_caller(self, caller: str) -> dict[str, int]:
        """Cancel all that waits of a caller; count the calls by lane."""
        found = {lane: self._store.cancel_caller(lane, caller) for lane in self._lanes}
        return {lane: count for lane, count in found.items() if count}

    @cached_property
    def _lanes(self) -> list[str]:
        return sorted({*self._settings.lanes, *self._store.lanes()})

    def _cancel(self, lane: str, task_id: str) -> int | None:
        """Give ``None`` where the task does not wait any more."""
        try:
            return self._store.cancel(lane, task_id)
        except AlreadyStarted:
            return None
        except NotQueued:
            return 0

    def _forbid(self, task_id: str) -> None:
        for lane in self._lanes:
            if self._settings.lane(lane).intake == "broker":
                self._store.forbid(lane, task_id, round(REVOKE_EXPIRES * 1000))
