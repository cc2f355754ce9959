"""What came by the broker for one lane and is not in the store yet.

The broker's thread enters it and the store thread takes it, so both only ever do one atomic step
to the deque at a time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from celery_lanes.store.calls import Call
from celery_lanes.worker.batch import fitting

MANY = 100
PATIENCE_S = 0.01
"""How long they wait for more to go with them, while the lane has other calls to start."""


class Arrivals:
    """Calls in the order in which they came, each with what is to be called once it is in."""

    def __init__(self) -> None:
        self._calls: deque[tuple[float, Call, Callable[[], None]]] = deque()

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: Call, taken: Callable[[], None]) -> bool:
        """Enter a call; say whether the store thread must be rung, or knows that some have come."""
        self._calls.append((time.monotonic(), call, taken))
        return len(self._calls) in {1, MANY}

    @property
    def due_at(self) -> float:
        """Say until when, by the monotonic clock, the oldest waits for more."""
        return self._calls[0][0] + PATIENCE_S

    @property
    def are_due(self) -> bool:
        """Whether they are many, or old."""
        return len(self) >= MANY or time.monotonic() >= self.due_at

    def batch(self) -> list[Call]:
        """Give the oldest, not more than ``MANY`` nor than what goes into one request."""
        oldest = [self._calls[at][1] for at in range(min(len(self), MANY))]
        return oldest[: fitting(call.envelope for call in oldest)]

    def took(self, count: int) -> None:
        """Let go of so many: the store has them."""
        for _ in range(count):
            _, _, taken = self._calls.popleft()
            taken()
