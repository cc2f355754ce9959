"""Celery's own ways to take a task back, made to reach a call that waits in a lane.

Celery tells the workers, who remember it for a while; a waiting call is in none of them, and there
may be no worker now. So the store is told as well, and that is for good.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from celery.app.control import Control
from celery.result import AsyncResult

from celery_lanes.errors import NotQueued

CALLER_STAMP = "caller"


class LaneControl(Control):  # type: ignore[misc] # celery is not typed
    """The app's ``control``; all its ways to revoke come to ``broadcast``, and the CLI's too."""

    def broadcast(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        destination: Any = None,
        *args: Any,
        **options: Any,
    ) -> Any:
        """Tell the workers, then the store, unless it is meant for some workers only.

        Raises ``StoreUnavailable`` if the store is away; the workers know it then.
        """
        answer = super().broadcast(command, arguments, destination, *args, **options)
        is_for_all = destination is None and not options.get("pattern")
        if is_for_all and self.app.lanes.settings.enabled:
            self._cancel(command, arguments or {})
        return answer

    def _cancel(self, command: str, arguments: Mapping[str, Any]) -> None:
        if command in {"revoke", "terminate"}:
            self._cancel_tasks(_listed(arguments.get("task_id")))
        elif command == "revoke_by_stamped_headers":
            self._cancel_callers(arguments.get("headers") or {})

    def _cancel_tasks(self, task_ids: Iterable[str]) -> None:
        for task_id in task_ids:
            with suppress(NotQueued):
                self.app.lanes.cancel(task_id)

    def _cancel_callers(self, stamps: Mapping[str, Any]) -> None:
        """Cancel by the one stamp that the store knows of every call; workers know the others."""
        for caller in _listed(stamps.get(CALLER_STAMP)):
            self.app.lanes.cancel_caller(caller)


class CancellableResult(AsyncResult):  # type: ignore[misc] # celery is not typed
    """A result whose call can be taken back while it waits; what is mixed into the app's own."""

    def cancel(self) -> dict[str, int]:
        """Cancel the call if it waits; see ``Lanes.cancel``."""
        cancelled: dict[str, int] = self.app.lanes.cancel(self.id)
        return cancelled


def lane_control(base: type) -> type:
    """Give the app's own control class our behaviour."""
    return LaneControl if base is Control else type("LaneControl", (LaneControl, base), {})


def cancellable(base: type) -> type:
    """Give the app's own result class our behaviour."""
    return type(base.__name__, (base, CancellableResult), {"__module__": base.__module__})


def _listed(given: Any) -> Iterable[str]:
    return [given] if isinstance(given, str) else given or ()
