"""The observer outside: who asked the HTTP server when, and which results were written when.

It believes nobody: not the store, not the workers, not Celery's events. Times are monotonic, the
same for all processes of a machine.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from celery import states
from redis import Redis
from typing_extensions import Self

from celery_lanes.testing.llm_stub import LLMStub, Record

RESULT_KEY = "celery-task-meta-"
GROUP_KEY = "celery-taskset-meta-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a body, from its first request to the end of its last.

    Attributes:
        body: a name that the body gave itself; the same for all its requests.
        call: the nonce of the call.
        task: ``late`` or ``early``.
        attempt: the grant's number, as the worker says.
        worker: the worker process start, by its unique node name.
        is_answered: whether the last request was answered; else the client had gone.
    """

    body: str
    call: str
    task_id: str
    root_id: str
    task: str
    attempt: int
    caller: str
    worker: str
    pid: int
    start_s: float
    end_s: float
    is_answered: bool = True


@dataclass(frozen=True, slots=True)
class End:
    """A final state that was written for a task id; ``what`` is its result or error."""

    task_id: str
    at_s: float
    state: str
    what: str


class Witness:
    """The HTTP server that every body asks; it waits as long as the request says."""

    def __init__(self) -> None:
        self.stub = LLMStub(self._serve)
        self._latest: dict[str, int] = {}

    def child_of(self, worker: str) -> int | None:
        """Name the process of a worker that asked last."""
        return self._latest.get(worker)

    def runs(self) -> list[Run]:
        """Give all runs that have ended."""
        return merged(_run(record) for record in self.stub.log)

    def _serve(self, asked: dict[str, Any]) -> float:
        said = json.loads(asked["messages"][-1]["content"])
        self._latest[said["worker"]] = said["pid"]
        return float(asked["takes_ms"]) / 1000


class Clerk:
    """Notes every final state as it is written: Celery's Redis backend publishes them."""

    def __init__(self, url: str) -> None:
        self.ends: list[End] = []
        self._redis: Any = Redis.from_url(url)
        self._pubsub = self._redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call] # redis-py
        self._pubsub.psubscribe(f"{RESULT_KEY}*")
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._is_done = False

    def __enter__(self) -> Self:
        """Begin to listen."""
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop."""
        self._is_done = True
        self._thread.join(timeout=5)
        self._pubsub.close()
        self._redis.close()

    def ended(self) -> set[str]:
        """Name the tasks that have ended."""
        return {end.task_id for end in list(self.ends)}

    def stored(self, ids: Iterable[str]) -> dict[str, End]:
        """Ask which of these have a final state now."""
        names = list(ids)
        values = self._redis.mget([RESULT_KEY + name for name in names]) if names else []
        metas = (json.loads(value) for value in values if value is not None)
        ends = (_end(meta, time.monotonic()) for meta in metas)
        return {end.task_id: end for end in ends if end.state in states.READY_STATES}

    def has_dropped(self, group: str) -> bool:
        """Whether Celery has not published a chord's body, though nothing of it runs any more.

        A worker claims the publishing for a while (the group's key ".c") and drops the chord's
        size (".s") when it is done. If it is killed in between, and the header's last part runs
        again before the claim has expired, nobody publishes the body.
        """
        return bool(self._redis.exists(f"{GROUP_KEY}{group}.s"))

    def _listen(self) -> None:
        while not self._is_done:
            message = self._pubsub.get_message(timeout=0.2)
            if message is None:
                continue
            end = _end(json.loads(message["data"]), time.monotonic())
            if end.state in states.READY_STATES:
                self.ends.append(end)


def merged(runs: Iterable[Run]) -> list[Run]:
    """Make one run of all requests of a body, in the order of their begins."""
    bodies: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: run.start_s):
        first = bodies.get(run.body, run)
        bodies[run.body] = replace(run, start_s=first.start_s)
    return sorted(bodies.values(), key=lambda run: run.start_s)


def _run(record: Record) -> Run:
    said = json.loads(record.prompt)
    return Run(
        **said,
        start_s=record.start_s,
        end_s=record.end_s,
        is_answered=record.status is not None,
    )


def _end(meta: dict[str, Any], at_s: float) -> End:
    return End(meta["task_id"], at_s, meta["status"], json.dumps(meta["result"]))
