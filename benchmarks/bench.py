"""Plain Celery and lanes, side by side in one run, through ``delay()``.

    python benchmarks/bench.py [--calls 5000]

Each kind has a Valkey, a producer and a prefork worker of two processes of its own; no-op tasks.
Only one kind runs at any time, half a second or a burst of calls, then the next one: a noisy
minute hits all alike. Read the ratios; the absolute figures are the machine's.
"""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import ExitStack
from statistics import median
from timeit import timeit

import redis
from chains import table as chain_table
from etas import skewed, steady
from kinds import KINDS
from rig import open_rig
from slices import BURST, Figures, measure
from slots import busy_share, handoffs, shared_rate
from streams import table as stream_table

from celery_lanes.testing.embedded import EmbeddedValkey


def main() -> None:
    """Measure, and print each part when it is done."""
    leave_by_the_door()
    calls = BURST * max(1, arguments().calls // BURST)
    print(f"{calls} calls\n\n{table(side_by_side(calls))}\n")
    print(f"Two workers on a lane of 2 slots: {shared_rate(calls):,.0f} calls/s.\n")
    print(handoff_table())
    print(
        f"\n{busy_table()}\n\n{eta_table()}\n\n{chain_table()}\n\n{stream_table()}\n\n"
        f"A PING takes {ping_us():,.0f} us here, p50, with nothing else running."
    )


def leave_by_the_door() -> None:
    """Have the signals that would end this process raise: the rigs' suspended workers end first."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda *_: sys.exit("ended by a signal"))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--calls", type=int, default=5000, help=f"a multiple of {BURST}")
    return options.parse_args()


def side_by_side(calls: int) -> dict[str, Figures]:
    """Set all kinds up at the same time, and measure them in turn."""
    with ExitStack() as exits:
        rigs = [exits.enter_context(open_rig(kind)) for kind in KINDS.values()]
        return dict(zip(KINDS, measure(rigs, calls), strict=True))


def table(seen: dict[str, Figures]) -> str:
    """Lay out the figures, and their ratios to plain Celery's."""
    lines = ["| | " + " | ".join(seen) + " |", "|---" * (len(seen) + 1) + "|"]
    for figure in seen["plain"]:
        cells = (cell(seen, name, figure) for name in seen)
        lines.append(f"| {figure} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(seen: dict[str, Figures], name: str, figure: str) -> str:
    """Give one figure, with its ratio to the plain one."""
    value, beside = seen[name][figure], KINDS[name].beside
    ratio = f" ({value / seen[beside][figure]:.2f} x)" if beside else ""
    return (f"{value:.2f}" if figure.endswith("ms") else f"{value:,.0f}") + ratio


def handoff_table() -> str:
    """Time the hand-off within a worker, and between two."""
    lines = ["| hand-off of the only slot | p50 ms | p99 ms |", "|---|---|---|"]
    for name, workers in (("one worker, two processes", 1), ("two workers, one process each", 2)):
        p50, p99 = handoffs(workers=workers, processes=3 - workers)
        lines.append(f"| {name} | {p50:.1f} | {p99:.1f} |")
    return "\n".join(lines)


def ping_us(pings: int = 1000) -> float:
    """Time a round trip that does nothing: most of it, on a virtual machine, is waking up twice."""
    with EmbeddedValkey() as server, redis.Redis.from_url(server.url(0)) as client:
        taken = [timeit(client.ping, number=1) for _ in range(pings)]
    return median(taken) * 1e6


def busy_table() -> str:
    """Measure how busy four slots are kept."""
    lines = ["| four slots are busy | plain | lanes |", "|---|---|---|"]
    for name, spread in (("calls of 100 ms, which end together", 0.0), ("of 80 to 120 ms", 0.2)):
        plain, lanes = (
            busy_share(KINDS[kind], slots=4, spread=spread) for kind in ("plain", "lanes")
        )
        lines.append(f"| {name} | {plain:.1%} | {lanes:.1%} |")
    return "\n".join(lines)


def eta_table() -> str:
    """Measure how far off the predicted starts are."""
    lines = ["| the predicted start is off by | p50 | of each round | within its range |"]
    lines.append("|---|---|---|---|")
    loads = {
        "calls of 160 to 240 ms, three equal callers": steady,
        "one call in ten ten times as long, four unequal callers": skewed,
    }
    for name, load in loads.items():
        seen = load()
        rounds = f"{seen.best_round:.0%} to {seen.worst_round:.0%}"
        lines.append(f"| {name} | {seen.error:.0%} | {rounds} | {seen.within_range:.0%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
