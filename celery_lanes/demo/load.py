"""One run of the load: publish, watch, collect."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from celery_lanes.demo.figures import Served
from celery_lanes.demo.shop import model

TASK = "celery_lanes.generate"
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Published:
    """One call that is on its way."""

    caller: str
    at: float


class Run:
    """The calls of one run under one policy."""

    def __init__(self, app: Any, policy: str, load: Mapping[str, int]) -> None:
        self._app = app
        self.policy = policy
        self._load = load
        self._published: dict[str, Published] = {}
        self._pending: set[str] = set()
        self.served: list[Served] = []
        self.failed = 0

    def publish(self) -> None:
        """Queue every caller's calls, one caller after the other."""
        task = self._app.tasks[TASK]
        for caller, calls in self._load.items():
            for number in range(1, calls + 1):
                at = time.time()
                result = task.apply_async(
                    (model(self.policy), f"{caller} {number}"),
                    caller=caller,
                    run_id=f"demo-{self.policy}",
                )
                self._published[result.id] = Published(caller, at)
        self._pending = set(self._published)

    def watch(self, deadline_s: float) -> Iterator[None]:
        """Collect results, and give way after each look, until all are here or it is too late."""
        deadline = time.monotonic() + deadline_s
        while self._pending and time.monotonic() < deadline:
            self._collect()
            yield
            time.sleep(POLL_S)
        self.failed += len(self._pending)

    def done(self) -> Counter[str]:
        """Count ended calls by caller."""
        pending = Counter(self._published[task_id].caller for task_id in self._pending)
        return Counter(self._load) - pending

    def _collect(self) -> None:
        """Ask for all pending results in one round trip."""
        pending = list(self._pending)
        for task_id, meta in self._app.backend.get_many(pending, interval=0, max_iterations=1):
            self._pending.discard(task_id)
            self._take(self._published[task_id], meta)

    def _take(self, published: Published, meta: Mapping[str, Any]) -> None:
        if meta["status"] != "SUCCESS":
            self.failed += 1
            return
        wait_s = float(meta["result"]["wait_s"])
        self.served.append(Served(published.caller, published.at, wait_s))
