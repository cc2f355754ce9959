"""The process that calls ``delay()``: told what on stdin, a line of JSON each, and answers so."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from benchmarks.shop import app, marks, stamp, turn, work
from celery_lanes import call_context
from celery_lanes.errors import NotQueued

MODEL, CALLERS, START_DEADLINE_S = "bench/m", 50, 30
LONG = 10


def publish(calls: int) -> tuple[float, float]:
    """Publish no-ops of callers in turn; give the time that took and this process's CPU time."""
    began, cpu_began = time.perf_counter(), time.process_time()
    for number in range(calls):
        with call_context(caller=f"c{number % CALLERS}"):
            work.delay(MODEL, number)
    return time.perf_counter() - began, time.process_time() - cpu_began


def start(calls: int) -> list[float]:
    """Publish one call after the other has started; give the seconds from publish to start."""
    return [start_one() for _ in range(calls)]


def start_one() -> float:
    """Publish one call and wait for its start."""
    stamp.delay(MODEL, time.time())
    started = marks.blpop(["starts"], timeout=START_DEADLINE_S)
    if started is None:
        raise TimeoutError(f"expected a call to start within {START_DEADLINE_S} s")
    return float(started[1])


def hold(calls: int, seconds: float, spread: float) -> None:
    """Publish calls that hold a slot for so long, give or take a share of it."""
    lengths = random.Random(calls)
    for number in range(calls):
        turn.delay(MODEL, seconds * lengths.uniform(1 - spread, 1 + spread), number)


def queue(
    backlogs: dict[str, int], seed: int, seconds: float, spread: float, long_share: float
) -> list[str]:
    """Publish each caller's calls as ``hold`` does, a share of them 10 times as long; give ids."""
    chance, ids = random.Random(seed), []
    for caller, calls in backlogs.items():
        for _ in range(calls):
            length = seconds * chance.uniform(1 - spread, 1 + spread)
            length *= LONG if chance.random() < long_share else 1
            published = turn.apply_async((MODEL, length, len(ids)), caller=caller)
            ids.append(published.id)
    return ids


def foretell(ids: list[str]) -> list[tuple[int, float, tuple[float, float]]]:
    """Ask when each call starts that still waits: its number, when it was asked for, the range."""
    foretold = []
    for number, task_id in enumerate(ids):
        asked_at = time.time()
        with suppress(NotQueued):
            position = app.lanes.position(task_id, lane="bench")
            if position.eta_s is not None:
                foretold.append((number, asked_at, position.eta_s))
    return foretold


ORDERS: dict[str, Callable[..., object]] = {
    "publish": publish,
    "start": start,
    "hold": hold,
    "queue": queue,
    "foretell": foretell,
}

if __name__ == "__main__":
    app.producer_pool  # noqa: B018 # made before anything is timed
    for line in sys.stdin:
        name, *numbers = json.loads(line)
        print(json.dumps(ORDERS[name](*numbers)), flush=True)
