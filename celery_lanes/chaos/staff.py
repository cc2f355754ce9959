"""The workers of the run: whoever goes, killed, stopped or by itself, is replaced by a new one."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from celery_lanes.chaos.clock import Clock
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


Maker = Callable[[Path, Clock], WorkerProcess]


class Seat:
    """One worker's place. The process in it changes; each has a name and a wrong clock of its own.

    ``offsets_s`` says how far off each process's clock is when it starts.
    """

    def __init__(self, number: int, make: Maker, logs: Path, offsets_s: Iterator[float]) -> None:
        self.number = number
        self.clock = Clock(logs / f"clock-{number + 1}")
        self.worker: WorkerProcess | None = None
        self.back_at_s = 0.0
        self._make = make
        self._logs = logs
        self._offsets_s = offsets_s
        self.started_off_s: list[float] = []
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
        self.clock.set(next(self._offsets_s))
        self.started_off_s.append(self.clock.offset_s)
        log = self._logs / f"worker-{self.number + 1}-{len(self.started_off_s)}.log"
        self.worker = self._make(log, self.clock).spawn()
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

    def __init__(self, seats: Sequence[Seat]) -> None:
        self.seats = seats
        self.gone: list[Gone] = []
        self.stuck: list[Gone] = []
        self.deserted: list[tuple[float, float]] = []
        """From when until when no worker was ready: killed, told to go, or starting."""

        self._deserted_since_s: float | None = None

    @property
    def started_off_s(self) -> list[float]:
        """How far off the clocks were with which workers started."""
        return [offset_s for seat in self.seats for offset_s in seat.started_off_s]

    def tick(self, now_s: float) -> None:
        """See to every seat: note who has gone, and put new workers in."""
        for seat in self.seats:
            self._see_to(seat, now_s)
        self._note_desertion(now_s)

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

    def _note_desertion(self, now_s: float) -> None:
        if any(seat.is_up for seat in self.seats):
            self._deserted_since_s = None
        elif self._deserted_since_s is None:
            self._deserted_since_s = now_s
            self.deserted.append((now_s, now_s))
        else:
            self.deserted[-1] = (self._deserted_since_s, now_s)

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


def worker_maker(module: str, queue: str, processes: int, env: Mapping[str, str]) -> Maker:
    """Give what makes the workers, all alike but for their names, logs and clocks."""

    def make(log: Path, clock: Clock) -> WorkerProcess:
        program = clock.running("celery")
        return WorkerProcess(
            module, [queue], concurrency=processes, env=env, log=log, program=program
        )

    return make


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
