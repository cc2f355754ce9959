"""Results that nobody will write: Celery listens for them, and then their publish has failed."""

from __future__ import annotations

from collections import deque
from typing import Any

MAX_KEPT = 100_000
AT_ONCE = 100


class Unheard:
    """The results of one app; on Redis, Celery subscribes to each before its publish.

    Not unsubscribed from while the store is away: the results are often on the same server, and
    Celery would try for 20 s to reach it. The next publishes that get through see to it.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._later: deque[str] = deque(maxlen=MAX_KEPT)

    def forget(self, task_id: str) -> None:
        """Stop listening for a result."""
        self._app.backend.remove_pending_result(self._app.AsyncResult(task_id))

    def forget_later(self, task_id: str) -> None:
        """Stop listening for a result when a publish has got through."""
        self._later.append(task_id)

    def catch_up(self) -> None:
        """Stop listening for some results of which that is overdue."""
        for _ in range(min(AT_ONCE, len(self._later))):
            self.forget(self._later.popleft())
