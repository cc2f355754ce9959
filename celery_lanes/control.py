"""Celery's own ways to take a task back, made to reach a call that waits in a lane.

Celery tells the workers, who remember it for a while; a waiting call is in none of them, and there
may be no worker now. So the store is told as well, and that is for good.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from celery.app.control import Control
from celery.result import AsyncResult
from celery.utils.functional import maybe_list
from celery.utils.log import get_logger

from celery_lanes.cancellation import Cancellation
from celery_lanes.errors import ConfigError, LanesError, NotQueued

logger = get_logger(__name__)

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

        A store that is away or was never set up is logged: the workers know of it then.
        """
        answer = super().broadcast(command, arguments, destination, *args, **options)
        cancel = _CANCELS.get(command)
        if cancel and not destination and not options.get("pattern"):
            self._tell_the_store(cancel, {**(arguments or {}), **options})
        return answer

    def _tell_the_store(self, cancel: Any, arguments: Mapping[str, Any]) -> None:
        lanes = getattr(self.app, "lanes", None)  # an app that was pickled has none
        try:
            if lanes is not None and lanes.settings.enabled:
                cancel(lanes, arguments)
        except ConfigError as error:
            logger.debug("celery_lanes: there is no lane store to tell of a revoke: %s", error)
        except LanesError as error:
            logger.error(  # noqa: TRY400 # its traceback says no more
                "celery_lanes: only the workers know of this revoke: %s", error
            )


def _cancel_tasks(lanes: Any, arguments: Mapping[str, Any]) -> None:
    cancellation = Cancellation.of(lanes.parts)
    for task_id in _listed(arguments.get("task_id")):
        with suppress(NotQueued):
            cancellation.cancel(task_id)


def _cancel_callers(lanes: Any, arguments: Mapping[str, Any]) -> None:
    """Cancel by the one stamp that the store knows of every call; workers know the others.

    A name that is empty is rather a mistake than all calls without one.
    """
    for caller in filter(None, _callers(arguments.get("headers") or {})):
        lanes.cancel_caller(caller)


_CANCELS = {
    "revoke": _cancel_tasks,
    "terminate": _cancel_tasks,
    "revoke_by_stamped_headers": _cancel_callers,
}


def _callers(headers: Mapping[str, Any] | Iterable[str]) -> Iterator[str]:
    """Read stamps as Celery's workers do: a mapping, or a list of ``name=value``."""
    if isinstance(headers, Mapping):
        yield from _listed(headers.get(CALLER_STAMP))
    else:
        pairs = (str(header).partition("=") for header in headers)
        yield from (value for name, _, value in pairs if name == CALLER_STAMP)


def _listed(given: Any) -> Iterator[str]:
    yield from map(str, maybe_list(given) or ())


class CancellableResult(AsyncResult):  # type: ignore[misc] # celery is not typed
    """A result whose call can be taken back while it waits; what is mixed into the app's own."""

    def cancel(self) -> dict[str, int]:
        """Cancel the call if it waits; see ``Lanes.cancel``."""
        cancelled: dict[str, int] = self.app.lanes.cancel(self.id)
        return cancelled


def lane_control(base: type) -> type:
    """Give the app's own control class our behaviour."""
    if issubclass(base, LaneControl):
        return base
    return LaneControl if base is Control else type("LaneControl", (LaneControl, base), {})


def cancellable(base: type) -> type:
    """Give the app's own result class our behaviour."""
    if issubclass(base, CancellableResult):
        return base
    return type(base.__name__, (base, CancellableResult), {"__module__": base.__module__})
