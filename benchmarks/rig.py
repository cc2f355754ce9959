"""A rig: a server, a producer and the workers of one kind, who are suspended but for their turn."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import psutil
import redis
from kinds import ROOT, Kind

from celery_lanes.testing.embedded import EmbeddedValkey
from celery_lanes.testing.workers import READY, WorkerProcess

WARM_UP_CALLS, SETTLING_STARTS = 300, 3
SETTLING_S = 0.2  # for a last call's slot to go back: suspended for a lease, it would run again
SLOWEST = 5  # calls a second; what is slower than that is stuck
TURNS_DEADLINE_S, POLL_S = 120.0, 0.05
ORDERS = [sys.executable, "-m", "benchmarks.producer"]


class Burst(NamedTuple):
    """What publishing a number of calls took of the producer's time."""

    wall_s: float
    cpu_s: float


class Slice(NamedTuple):
    """What running for a while took; the last slice ends with the last call."""

    wall_s: float
    workers_cpu_s: float
    server_cpu_s: float
    is_last: bool


class Turn(NamedTuple):
    """When a body began and ended, by the clock, and the number of its call."""

    began: float
    ended: float
    number: float


class Foretold(NamedTuple):
    """The range in which a call was said to start, from when that was asked; and when it did."""

    low_s: float
    high_s: float
    wait_s: float


@contextmanager
def open_rig(kind: Kind, *, slots: int = 2, workers: int = 1, processes: int = 2) -> Iterator[Rig]:
    """Set a kind up, warm and suspended; whatever happens, no process of it is left."""
    with EmbeddedValkey() as server, TemporaryDirectory() as folder, ExitStack() as exits:
        url = f"redis://127.0.0.1:{server.port}"
        env = kind.environment(url, Path(folder), slots=slots)
        producer = exits.enter_context(start_producer(env))
        crew = [
            exits.enter_context(start_worker(kind.queue, processes, env)) for _ in range(workers)
        ]
        rig = Rig(server, producer, crew, turns=Path(env["BENCH_TURNS"]))
        rig.warm_up()
        yield rig


@contextmanager
def start_producer(env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run ``producer.py``, and kill it."""
    pipe = subprocess.PIPE
    with subprocess.Popen(ORDERS, env=env, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def start_worker(queue: str, processes: int, env: dict[str, str]) -> Iterator[WorkerProcess]:
    """Run a worker that logs warnings only, and kill it with its pool, suspended or not."""
    worker = WorkerProcess(
        "benchmarks.shop:app", [queue], concurrency=processes, options=["-l", "WARNING"],
        env=env, cwd=ROOT, log=Path(env["TMPDIR"], f"{time.time_ns()}.log"),
    )  # fmt: skip
    worker.spawn()
    try:
        worker.wait_for_log(READY)
        yield worker
    finally:
        with suppress(ProcessLookupError):
            worker.signal_all(signal.SIGKILL)
        worker.wait()


class Rig:
    """What a kind can be told to do; between two orders its workers are suspended."""

    def __init__(
        self,
        server: EmbeddedValkey,
        producer: subprocess.Popen[str],
        workers: Sequence[WorkerProcess],
        *,
        turns: Path,
    ) -> None:
        self._producer, self._workers, self._turns = producer, workers, turns
        self._marks = redis.Redis.from_url(server.url(3), socket_timeout=None)
        self._server_processes = [psutil.Process(server.pid)]
        self._worker_processes = [one for worker in workers for one in family(worker.pid)]

    def warm_up(self) -> None:
        """Let every part do its work for a while, then suspend the workers."""
        self.publish(WARM_UP_CALLS)
        self.finish(WARM_UP_CALLS)

    def publish(self, calls: int) -> Burst:
        """Publish calls that do nothing."""
        self._marks.incrby("left", calls)
        return Burst(*self._order("publish", calls))

    def finish(self, calls: int) -> Slice:
        """Run until all calls are done, which are so many."""
        deadline_s = calls / SLOWEST
        ran = self.run(deadline_s)
        if not ran.is_last:
            raise TimeoutError(f"expected all calls done in {deadline_s} s, {self.left()} are left")
        return ran

    def run(self, seconds: float) -> Slice:
        """Run for so long, or until all calls are done."""
        workers, server = cpu_s(self._worker_processes), cpu_s(self._server_processes)
        began = time.perf_counter()
        with self._resumed():
            drained = self._marks.blpop(["drained"], timeout=seconds)
            wall_s = time.perf_counter() - began
            time.sleep(SETTLING_S if drained else 0)
        return Slice(
            wall_s=wall_s,
            workers_cpu_s=cpu_s(self._worker_processes) - workers,
            server_cpu_s=cpu_s(self._server_processes) - server,
            is_last=drained is not None,
        )

    def left(self) -> int:
        """Count the calls that have been published and not done."""
        return int(self._marks.get("left") or 0)

    def start(self, calls: int) -> list[float]:
        """Publish and start one call after the other; give the seconds from one to the other."""
        with self._resumed():
            starts: list[float] = self._order("start", SETTLING_STARTS + calls)
        return starts[SETTLING_STARTS:]

    def hold(self, calls: int, seconds: float, *, spread: float = 0.0) -> list[Turn]:
        """Publish calls that hold a slot for so long, then run them; give their turns in order.

        ``spread``: the share of it by which they may be shorter or longer.
        """
        self._order("hold", calls, seconds, spread)
        with self._resumed():
            self._wait_for_turns(calls)
        return self._turns_taken()

    def foretell(
        self, backlogs: dict[str, int], seed: int, seconds: float, spread: float, long_share: float
    ) -> list[Foretold]:
        """Publish callers' calls, run half, ask when each of the rest starts, and run those."""
        ids = self._order("queue", backlogs, seed, seconds, spread, long_share)
        with self._resumed():
            self._wait_for_turns(len(ids) // 2)
            told = self._order("foretell", ids)
            self._wait_for_turns(len(ids))
        began = {turn.number: turn.began for turn in self._turns_taken()}
        return [Foretold(*eta_s, began[number] - asked_at) for number, asked_at, eta_s in told]

    def _order(self, *order: object) -> Any:
        """Tell the producer; give its answer, which is what the order's function returns."""
        print(json.dumps(order), file=self._producer.stdin, flush=True)
        for answer in self._producer.stdout or ():
            return json.loads(answer)
        raise RuntimeError(f"the producer has ended at {order}: its error is above")

    @contextmanager
    def _resumed(self) -> Iterator[None]:
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        for worker in self._workers:
            worker.signal_all(number)

    def _wait_for_turns(self, calls: int) -> None:
        deadline = time.monotonic() + TURNS_DEADLINE_S
        while len(self._turn_lines()) < calls:
            if time.monotonic() > deadline:
                raise TimeoutError(f"expected {calls} turns in {TURNS_DEADLINE_S} s")
            time.sleep(POLL_S)

    def _turns_taken(self) -> list[Turn]:
        return sorted(Turn(*map(float, line.split())) for line in self._turn_lines())

    def _turn_lines(self) -> list[str]:
        return self._turns.read_text().splitlines()


def family(pid: int) -> list[psutil.Process]:
    """Give a worker's main process and its pool's."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    """Add up the CPU time that they have used."""
    spent = [process.cpu_times() for process in processes]
    return sum(times.user + times.system for times in spent)
