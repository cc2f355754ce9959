"""The thread that sends a process's events to monitors: a broker that is away holds up no call."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from queue import Full, Queue
from threading import Thread
from typing import Any

logger = logging.getLogger(__name__)

MOST = 1000
"""How many events wait for a broker; what is said beyond that is lost to monitors."""


class Crier:
    """One process's.

    Celery's own ``send_event`` connects for as long as it takes, in the thread of the call.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._news: Queue[tuple[str, str, Mapping[str, Any]]] = Queue(MOST)
        self._dropped = 0
        Thread(target=self._work, name="lanes-crier", daemon=True).start()

    def cry(self, kind: str, hostname: str, fields: Mapping[str, Any]) -> None:
        """Have an event sent, in its turn; never waits."""
        try:
            self._news.put_nowait((kind, hostname, fields))
        except Full:
            self._drop()

    def _drop(self) -> None:
        if not self._dropped:
            logger.warning(
                "celery_lanes: the broker takes no events; monitors miss what chains do"
                " until it is back"
            )
        self._dropped += 1

    def _work(self) -> None:
        while True:
            kind, hostname, fields = self._news.get()
            try:
                with self._app.events.default_dispatcher(hostname=hostname) as dispatcher:
                    dispatcher.send(kind, **fields)
            except Exception:  # a thread that ends here would end all events
                logger.exception("celery_lanes: monitors miss an event")
            else:
                self._come_back()

    def _come_back(self) -> None:
        dropped, self._dropped = self._dropped, 0
        if dropped:
            logger.warning("celery_lanes: monitors are told again, and missed %d events", dropped)


class Town:
    """Gives this process's crier; a forked child makes its own."""

    def __init__(self) -> None:
        self._criers: dict[int, Crier] = {}

    def crier(self, app: Any) -> Crier:
        """Find it, or make it; a lock might be inherited by a child."""
        pid = os.getpid()
        return self._criers.get(pid) or self._criers.setdefault(pid, Crier(app))
