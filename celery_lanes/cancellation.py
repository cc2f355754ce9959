"""Taking calls back that wait, in whichever lanes they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property, partial

from celery.worker.state import REVOKE_EXPIRES

from celery_lanes.config.settings import Settings
from celery_lanes.errors import AlreadyStarted, NotQueued
from celery_lanes.parts import Parts
from celery_lanes.position import LOOKS
from celery_lanes.results import write_revoked
from celery_lanes.store.base import Store


class Cancellation:
    """What one request to cancel does; it reads once which lanes are in use.

    ``write``: writes at once that a task is revoked, where there is no worker to do it.
    """

    def __init__(
        self, settings: Settings, store: Store, write: Callable[[str], None] | None = None
    ) -> None:
        self._settings = settings
        self._store = store
        self._write = write

    @classmethod
    def of(cls, parts: Parts) -> Cancellation:
        """Begin to cancel in an app's lanes, by which results are written, too."""
        return cls(parts.settings, parts.store, partial(write_revoked, parts.app))

    def cancel(self, task_id: str) -> dict[str, int]:
        """Cancel what waits of a task; count the calls by lane.

        Raises ``AlreadyStarted`` or ``NotQueued``. In the latter case a message that the broker
        still has is cancelled as it comes, for as long as a worker remembers a revoked id.
        """
        for _ in range(LOOKS):
            found = {lane: self._cancel(lane, task_id) for lane in self._lanes}
            if cancelled := {lane: count for lane, count in found.items() if count}:
                if None not in found.values():  # else it runs, too, or moves on
                    self._tell(task_id, cancelled)
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

    def _tell(self, task_id: str, lanes: Iterable[str]) -> None:
        """Let who waits for the result know, if no worker does that at once.

        One that comes later finds what was written here to be a closing's, and does the rest of it.
        """
        if self._write is not None and not any(self._store.snapshot(n).workers for n in lanes):
            self._write(task_id)

    def _forbid(self, task_id: str) -> None:
        for lane in self._lanes:
            if self._settings.lane(lane).intake == "broker":
                self._store.forbid(lane, task_id, round(REVOKE_EXPIRES * 1000))
