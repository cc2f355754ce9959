"""An LLM that is not one: an HTTP server that speaks a provider's API and counts who is inside.

It is the outside observer of a cap. A request counts from when it has been read until just before
its answer is written, or until its client has gone; so it never counts more than its clients do.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, final

from celery_lanes.testing.llm_dialects import DIALECTS, Dialect, OpenAI
from celery_lanes.testing.llm_server import Answer, Server

Service = float | Callable[[dict[str, Any]], float]
"""Seconds that a request takes, or what gives them for a request's body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One request that has ended; times are monotonic, ``status`` is ``None`` if unanswered."""

    start_s: float
    end_s: float
    model: str
    prompt: str
    idempotency_key: str | None
    status: int | None


class Observer:
    """Counts who is inside, and for how long how many were; safe between threads.

    ``bears``: so many at once; who comes while they are inside is refused. ``None`` = any number.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._spent_s: dict[int, float] = {}
        self._since_s = time.monotonic()
        self._log: list[Record] = []
        self._inside = 0
        self._highest = 0
        self.bears: int | None = None

    @property
    def inside(self) -> int:
        """Requests that are being served."""
        return self._inside

    @property
    def highest(self) -> int:
        """Most requests at once so far."""
        return self._highest

    @property
    def served(self) -> int:
        """Requests that were answered, with whatever status."""
        return sum(record.status is not None for record in self.log)

    @property
    def log(self) -> tuple[Record, ...]:
        """Requests that have ended, in the order of their ends."""
        with self._changed:
            return tuple(self._log)

    def share_at(self, count: int) -> float:
        """Give the share of the busy time with exactly so many inside; 0 if never busy."""
        with self._changed:
            self._count(0)
            busy_s = sum(spent_s for inside, spent_s in self._spent_s.items() if inside)
            return self._spent_s.get(count, 0.0) / busy_s if busy_s and count else 0.0

    def wait_until(self, is_so: Callable[[], object], *, timeout_s: float = 10.0) -> None:
        """Wait until something about the counts is so. Raises ``TimeoutError``."""
        with self._changed:
            if not self._changed.wait_for(is_so, timeout_s):
                raise TimeoutError(f"not so within {timeout_s} s; {self._inside} inside")

    def enter(self) -> float | None:
        """Count a request; gives when it began, or ``None`` if it is refused."""
        with self._changed:
            is_full = self.bears is not None and self._inside >= self.bears
            return None if is_full else self._count(1)

    def refuse(self, **seen: Any) -> None:
        """Log a request that never was inside."""
        with self._changed:
            now_s = time.monotonic()
            self._log.append(Record(start_s=now_s, end_s=now_s, **seen))
            self._changed.notify_all()

    def leave(self, start_s: float, **seen: Any) -> None:
        """Log a request that has ended."""
        with self._changed:
            self._log.append(Record(start_s=start_s, end_s=self._count(-1), **seen))

    def _count(self, change: int) -> float:
        now_s = time.monotonic()
        spent_s = now_s - self._since_s
        self._spent_s[self._inside] = self._spent_s.get(self._inside, 0.0) + spent_s
        self._since_s = now_s
        self._inside += change
        self._highest = max(self._highest, self._inside)
        self._changed.notify_all()
        return now_s


@final
class LLMStub(Observer):
    """The server; a context manager that listens on a free port.

    ``service_ms`` in a request's body goes before ``service``, which may be set at any time.
    """

    def __init__(
        self,
        service: Service = 0.0,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        dialect: Dialect | None = None,
    ) -> None:
        super().__init__()
        self.service = service
        self.dialect = dialect or OpenAI()
        self._answers: deque[Answer] = deque()
        self._server = Server((host, port), self)

    def __enter__(self) -> LLMStub:
        """Start."""
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop; who is inside is cut off."""
        self._server.shutdown()
        self._server.server_close()
        self._server.cut_off()

    @property
    def url(self) -> str:
        """The base URL: http://127.0.0.1:PORT/v1, or as its dialect has it."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}{self.dialect.base_path}"

    @property
    def dsn(self) -> str:
        """The value for ``LLM_<NAME>``."""
        return self.url.replace("http://", f"{self.dialect.scheme}+http://key@")

    def script(self, *answers: Answer) -> None:
        """Answer the next requests so, one each; then as usual again."""
        self._answers.extend(answers)

    def next_answer(self) -> Answer:
        """Take the next scripted answer, or the usual one."""
        try:
            return self._answers.popleft()
        except IndexError:
            return Answer()

    def service_s(self, asked: dict[str, Any]) -> float:
        """Give how long a request takes."""
        if "service_ms" in asked:
            return float(asked["service_ms"]) / 1000
        return self.service(asked) if callable(self.service) else self.service


def main() -> None:
    """Serve until interrupted; then say what was seen."""
    options = argparse.ArgumentParser(prog="python -m celery_lanes.testing.llm_stub")
    options.add_argument("--port", type=int, default=0, help="0 takes a free one")
    options.add_argument("--service-ms", type=float, default=50, help="how long a request takes")
    dialects = {dialect.scheme: dialect for dialect in DIALECTS}
    options.add_argument("--api", choices=dialects, default="openai", help="what it speaks")
    given = options.parse_args()
    dialect = dialects[given.api]
    with LLMStub(given.service_ms / 1000, port=given.port, dialect=dialect) as stub:
        sys.stdout.write(f"LLM_STUB={stub.dsn}\n")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
        sys.stdout.write(f"served {stub.served}, highest {stub.highest}\n")


if __name__ == "__main__":
    main()
