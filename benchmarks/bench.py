"""Plain Celery and lanes, side by side in one run, through ``delay()``.

    python benchmarks/bench.py [--calls 3000] [--rounds 3]

One Valkey, one producer, one prefork worker of two processes; no-op tasks. Rounds alternate, so
that a noisy minute hits all alike. Read the ratios; the absolute figures are the machine's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import redis

from celery_lanes.testing.embedded import EmbeddedValkey
from celery_lanes.testing.workers import WorkerProcess

ROOT = Path(__file__).parents[1]
CALLERS = 50
CONFIG = """
[store]
url = "{url}"
[defaults]
intake = "{intake}"
[lanes.bench]
max_concurrent = {cap}
"""
PUBLISH = """
import sys, time, json
from benchmarks.shop import app, work
from celery_lanes import call_context
n, callers = int(sys.argv[1]), int(sys.argv[2])
app.producer_pool
work.delay("bench/m", -1)
began = time.perf_counter()
for number in range(n):
    with call_context(caller=f"c{number % callers}"):
        work.delay("bench/m", number)
print(json.dumps(n / (time.perf_counter() - began)))
"""
START = """
import time
from benchmarks.shop import app, marks, stamp
for number in range(300):
    stamp.delay("bench/m", time.time())
    while marks.llen("starts") <= number:
        pass
"""


TURNS = """
import sys
from benchmarks.shop import turn
for _ in range(int(sys.argv[1])):
    turn.delay("bench/m", float(sys.argv[2]))
"""


@dataclass(frozen=True)
class Kind:
    """One way to run the same tasks; ``beside`` names the plain one that it is compared with."""

    lanes: bool = False
    results: bool = False
    intake: str = "store"
    beside: str = ""


KINDS = {
    "plain": Kind(),
    "lanes": Kind(lanes=True, beside="plain"),
    "lanes, broker intake": Kind(lanes=True, intake="broker", beside="plain"),
    "plain, results": Kind(results=True),
    "lanes, results": Kind(lanes=True, results=True, beside="plain, results"),
}


def main() -> None:
    """Run the rounds and print the tables."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--calls", type=int, default=3000)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in KINDS}
    for _ in range(given.rounds):
        for name, seen in rounds.items():
            seen.append(measure(KINDS[name], given.calls))
    sys.stdout.write(table(rounds))
    sys.stdout.write(capped(given.calls))
    sys.stdout.write(handoffs())
    sys.stdout.write(f"\nA lane of 4 slots with calls of 100 ms is {busy():.1%} busy.\n")


def measure(kind: Kind, calls: int) -> dict[str, float]:
    """Publish, drain and time the starts, on a server of its own."""
    with EmbeddedValkey() as server, TemporaryDirectory() as folder:
        env = environment(kind, server, Path(folder), cap=2)
        marks = redis.Redis.from_url(server.url(3))
        published = float(run(PUBLISH, env, str(calls), str(CALLERS)))
        with quiet_worker(env, "lanes.bench" if kind.lanes else "plain"):
            drained = drain(marks, calls)
            run(START, env)
            starts = sorted(float(value) for value in marks.lrange("starts", 0, -1))
    return {
        "publish /s": published,
        "drain /s": drained,
        "start p50 ms": starts[len(starts) // 2] * 1000,
        "start p95 ms": starts[int(len(starts) * 0.95)] * 1000,
    }


def capped(calls: int) -> str:
    """Drain a lane of two slots with two workers of two processes each."""
    with EmbeddedValkey() as server, TemporaryDirectory() as folder, ExitStack() as exits:
        env = environment(KINDS["lanes"], server, Path(folder), cap=2)
        run(PUBLISH, env, str(calls), str(CALLERS))
        for _ in range(2):
            exits.enter_context(quiet_worker(env, "lanes.bench"))
        drained = drain(redis.Redis.from_url(server.url(3)), calls)
    return f"\nTwo workers on a lane of 2 slots: {drained:,.0f} calls/s.\n\n"


def busy(turns: int = 400, slots: int = 4) -> float:
    """Give the share of its slots that a lane with a backlog keeps busy with bodies of 100 ms."""
    with EmbeddedValkey() as server, TemporaryDirectory() as folder:
        env = environment(KINDS["lanes"], server, Path(folder), cap=slots)
        with quiet_worker(env, "lanes.bench", processes=2 * slots):
            times = turned(server, env, turns, "0.1")
    began, last = times[0][0], times[-slots][0]
    worked = sum(max(0.0, min(end, last) - start) for start, end in times)
    return worked / (slots * (last - began))


def handoffs(turns: int = 500) -> str:
    """Time the hand-off in a lane of one slot: from the end of a body to the next one's start."""
    lines = ["| hand-off of the only slot | p50 ms | p99 ms |", "|---|---|---|"]
    for name, workers in (("one worker, two processes", 1), ("two workers, one process each", 2)):
        gaps = handoff(workers, 3 - workers, turns)
        p50, p99 = gaps[len(gaps) // 2] * 1000, gaps[int(len(gaps) * 0.99)] * 1000
        lines.append(f"| {name} | {p50:.1f} | {p99:.1f} |")
    return "\n".join(["", *lines, ""])


def handoff(workers: int, processes: int, turns: int) -> list[float]:
    """Give the gaps in seconds, shortest first."""
    with EmbeddedValkey() as server, TemporaryDirectory() as folder, ExitStack() as exits:
        env = environment(KINDS["lanes"], server, Path(folder), cap=1)
        for _ in range(workers):
            exits.enter_context(quiet_worker(env, "lanes.bench", processes))
        times = turned(server, env, turns, "0.01")
    return sorted(after[0] - before[1] for before, after in pairwise(times))[: turns - 1]


def turned(
    server: EmbeddedValkey, env: dict[str, str], turns: int, seconds: str
) -> list[tuple[float, ...]]:
    """Run turns of so many seconds; give when each began and ended, in order."""
    marks = redis.Redis.from_url(server.url(3))
    run(TURNS, env, str(turns), seconds)
    while marks.llen("turns") < turns:
        time.sleep(0.01)
    return sorted(tuple(map(float, t.split())) for t in marks.lrange("turns", 0, -1))


@contextmanager
def quiet_worker(env: dict[str, str], queue: str, processes: int = 2) -> Iterator[None]:
    """Run a worker that logs warnings only; nothing says when it is ready."""
    worker = WorkerProcess("benchmarks.shop:app", [queue], concurrency=processes, env=env, cwd=ROOT)
    worker.command[worker.command.index("INFO")] = "WARNING"
    worker.spawn()
    yield
    worker.stop()


def environment(kind: Kind, server: EmbeddedValkey, folder: Path, *, cap: int) -> dict[str, str]:
    """Give what the producer and the worker read."""
    config = folder / "lanes.toml"
    config.write_text(CONFIG.format(url=server.url(2), cap=cap, intake=kind.intake))
    return {
        **os.environ,
        "BENCH_SERVER": server.url(0).rsplit("/", 1)[0],
        "BENCH_LANES": "1" if kind.lanes else "0",
        "BENCH_RESULTS": "1" if kind.results else "0",
        "CELERY_LANES_CONFIG": str(config),
        "PYTHONPATH": str(ROOT),
    }


def run(code: str, env: dict[str, str], *arguments: str) -> str:
    """Run a producer in a process of its own."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout


def drain(marks: redis.Redis, calls: int) -> float:
    """Time from the first call done to the last."""
    while not int(marks.get("done") or 0):
        time.sleep(0.001)
    began, first = time.perf_counter(), int(marks.get("done"))
    while (done := int(marks.get("done"))) < calls + 1:
        time.sleep(0.002)
    return (done - first) / (time.perf_counter() - began)


def table(rounds: dict[str, list[dict[str, float]]]) -> str:
    """Lay out the medians, and their ratios to plain Celery's."""
    lines = ["| | " + " | ".join(rounds) + " |", "|---" * (len(rounds) + 1) + "|"]
    medians = {
        name: {key: statistics.median(one[key] for one in seen) for key in seen[0]}
        for name, seen in rounds.items()
    }
    for figure in medians["plain"]:
        cells = (cell(medians, name, figure) for name in rounds)
        lines.append(f"| {figure} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n" + json.dumps(rounds) + "\n"


def cell(medians: dict[str, dict[str, float]], name: str, figure: str) -> str:
    """Give one figure, with its ratio to the plain one."""
    value, beside = medians[name][figure], KINDS[name].beside
    return f"{value:,.2f}" + (f" ({value / medians[beside][figure]:.2f} x)" if beside else "")


if __name__ == "__main__":
    main()
