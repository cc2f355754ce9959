"""The ledgers of one process, under one lock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock

from celery_lanes.store.keys import checked_name, random_token
from celery_lanes.store.memory.ear import MemoryEar
from celery_lanes.store.memory.ledger import WAKE_AT_ONCE, Ledger


def epoch_ms() -> int:
    """Read this process's clock, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class Ledgers:
    """A ledger for each lane, and who listens."""

    def __init__(
        self, clock: Callable[[], int] = epoch_ms, token: Callable[[], str] = random_token
    ) -> None:
        self.clock = clock
        self._token = token
        self._lock = RLock()
        self._lanes: dict[str, Ledger] = {}
        self._ears: dict[str, MemoryEar] = {}

    @contextmanager
    def _open(self, lane: str) -> Iterator[Ledger]:
        checked_name(lane, "the lane's name")
        with self._lock:
            if lane not in self._lanes:
                self._lanes[lane] = Ledger(publish=lambda worker: self._publish(worker, lane))
            ledger = self._lanes[lane]
            ledger.now = self.clock()
            yield ledger

    def _publish(self, worker: str, lane: str) -> bool:
        ear = self._ears.get(worker)
        if ear is not None:
            ear.hear(lane)
        return ear is not None


def takers(ledger: Ledger) -> int:
    """Say how many workers may find something to do now."""
    return min(ledger.free_slots, len(ledger.queue), WAKE_AT_ONCE)
