"""The lane store in plain Python, for one process: the readable specification of the verbs.

Eager mode, unit tests and ``memory://`` use it. Every verb runs under one lock, so producer and
worker threads of the process may share it.
"""

from __future__ import annotations

from celery_lanes.store.memory.operators import Operators
from celery_lanes.store.memory.producers import Producers
from celery_lanes.store.memory.workers import Workers


class MemoryStore(Producers, Workers, Operators):
    """The verbs over dicts.

    Args:
        clock: milliseconds since the epoch; tests pass their own.
        token: makes lease tokens; tests pass their own.
    """

    def warnings(self) -> list[str]:
        """Say what endangers the promises."""
        return ["the store is this process's memory: what waits is lost when it ends"]

    def prove_durability(self) -> None:
        """Do nothing: ``warnings`` says how durable it is."""

    def disconnect(self) -> None:
        """Do nothing: there is no connection."""

    def rouse(self) -> None:
        """Have every worker look at every lane, as when a test has moved the clock."""
        with self._lock:
            for ear in self._ears.values():
                for lane in self._lanes:
                    ear.hear(lane)

    def clear(self) -> None:
        """Forget every lane."""
        with self._lock:
            self._lanes.clear()
