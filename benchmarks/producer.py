"""The process that calls ``delay()``: told what on stdin, a line of JSON each, and answers so."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable

from benchmarks.shop import app, marks, stamp, turn, work
from celery_lanes import call_context

MODEL, CALLERS, START_DEADLINE_S = "bench/m", 50, 30


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
    for _ in range(calls):
        turn.delay(MODEL, seconds * lengths.uniform(1 - spread, 1 + spread))


ORDERS: dict[str, Callable[..., object]] = {"publish": publish, "start": start, "hold": hold}

if __name__ == "__main__":
    app.producer_pool  # noqa: B018 # made before anything is timed
    for line in sys.stdin:
        name, *numbers = json.loads(line)
        print(json.dumps(ORDERS[name](*numbers)), flush=True)
