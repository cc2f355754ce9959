"""The workers of the run: whoever goes, killed, stopped or by itself, is replaced by a new one."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from celery_lanes.testing.workers import READY, WorkerProcess

STOP_S = 40.0
"""How long a worker may take to stop; a long call may be running."""

START_S = 60.0
KOMBUS = re.compile(r"/site-packages/(kombu|amqp|redis)/")


@dataclass(frozen=True, slots=True)
class Gone:
    """A worker that ended by itself, or did not stop; ``is_kombus``: by an error of kombu's."""

    worker: str
    at_s: float
    exit_code: int | None
    is_kombus: bool
    trace: str


class Seat:
    """One worker's place. The process in it changes; each has a name of its own."""

    def __init__(self, number: int, make: Callable[[Path], WorkerProcess], logs: Path) -> None:
        self.number = number
        self.worker: WorkerProcess | None = None
        self.back_at_s = 0.0
        self._make = make
        self._logs = logs
        self._starts = 0
        self._is_ready = False
        self.leaving_since_s: float | None = None

    @property
    def is_up(self) -> bool:
        """Whether its worker is there, ready, and has not been told to go."""
        if self.worker is None or self.leaving_since_s is not None:
            return False
        if self.worker.exit_code is not None:
            return False
        self._is_ready = self._is_ready or READY in self.worker.log()
        return self._is_ready

    def start(self) -> None:
        """Put a new worker in."""
        self._starts += 1
        self.worker = self._make(
            self._logs / f"worker-{self.number + 1}-{self._starts}.log"
        ).spawn()
        self._is_ready, self.leaving_since_s = False, None

    def kill(self) -> None:
        """End the worker and its processes as a power cut would."""
        if self.worker is not None:
            with suppress(ProcessLookupError):
                self.worker.signal_all(signal.SIGKILL)
            self.worker.wait()
            self.worker = None

    def ask_to_go(self, number: int, now_s: float) -> None:
        """Tell the worker to stop."""
        if self.worker is not None:
            self.worker.signal(number)
            self.leaving_since_s = now_s


class Staff:
    """All seats."""

    def __init__(self, count: int, make: Callable[[Path], WorkerProcess], logs: Path) -> None:
        self.seats = [Seat(number, make, logs) for number in range(count)]
        self.gone: list[Gone] = []
        self.stuck: list[Gone] = []

    def tick(self, now_s: float) -> None:
        """See to every seat: note who has gone, and put new workers in."""
        for seat in self.seats:
            self._see_to(seat, now_s)

    def dismiss(self) -> None:
        """End all of them."""
        for seat in self.seats:
            if seat.worker is not None and seat.worker.exit_code is None:
                with suppress(ProcessLookupError):
                    seat.worker.signal_all(signal.SIGCONT)
                    seat.worker.signal(signal.SIGTERM)
        for seat in self.seats:
            if seat.worker is not None:
                seat.worker.stop()
                seat.worker = None

    def _see_to(self, seat: Seat, now_s: float) -> None:
        if seat.worker is None:
            if now_s >= seat.back_at_s:
                seat.start()
        elif seat.worker.exit_code is not None:
            if seat.leaving_since_s is None:
                self.gone.append(_gone(seat.worker, now_s))
            with suppress(ProcessLookupError):  # what it may have left behind
                seat.worker.signal_all(signal.SIGKILL)
            seat.worker = None
        elif seat.leaving_since_s is not None and now_s > seat.leaving_since_s + STOP_S:
            self.stuck.append(_gone(seat.worker, now_s))
            seat.kill()


def worker_maker(
    module: str, queue: str, processes: int, env: Mapping[str, str]
) -> Callable[[Path], WorkerProcess]:
    """Give what makes the workers, all alike but for their names and logs."""
    return lambda log: WorkerProcess(module, [queue], concurrency=processes, env=env, log=log)


def _gone(worker: WorkerProcess, now_s: float) -> Gone:
    trace = last_trace(worker.log())
    return Gone(worker.name, now_s, worker.exit_code, is_kombus(trace), trace)


def last_trace(log: str) -> str:
    """Find the last traceback that was logged."""
    _, found, rest = log.rpartition("Traceback (most recent call last):")
    return found + rest[:4000] if found else log[-2000:]


def is_kombus(trace: str) -> bool:
    """Whether the innermost frame of a traceback is kombu's or of a client library under it."""
    files = re.findall(r'^ *File "([^"]+)"', trace, re.MULTILINE)
    return bool(files) and KOMBUS.search(files[-1]) is not None
