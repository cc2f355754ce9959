"""Tells Celery what chains do: as a signal, and to monitors such as Flower as a worker's event."""

from __future__ import annotations

from typing import Any

from celery_lanes.journeys.crier import Town
from celery_lanes.llm.chains.events import FailoverEvent
from celery_lanes.signals import failover

EVENT = "lanes-failover"

_TOLD = {
    "kind", "call_id", "run_id", "caller", "spec", "target", "next_target", "error_class", "status",
    "attempt", "elapsed_s", "retry_after_s", "bench_until", "possibly_billed",
}  # fmt: skip
"""Never what was said to a model: monitors keep it, and show it."""


class Herald:
    """An app's. ``sends_events``: this worker's events are switched on."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.sends_events = False
        self._town = Town()

    def __call__(self, event: FailoverEvent) -> None:
        """Tell of an event, in the name of the task that this thread runs, if any."""
        task: Any = self._app.current_worker_task
        failover.send(sender=task, event=event)
        if task is not None and self.sends_events:
            told = event.model_dump(mode="json", include=_TOLD, exclude_none=True)
            fields = {"uuid": task.request.id, "timestamp": event.ts, **told}
            self._town.crier(self._app).cry(EVENT, task.request.hostname, fields)
