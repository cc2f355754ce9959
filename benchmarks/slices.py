"""The kinds side by side: each has its turns of a burst or of half a second, and then is suspended.

So a noisy minute hits all alike, and each kind's figure is made of many moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from statistics import median, quantiles

from rig import SLOWEST, Burst, Rig, Slice

BURST, SLICE_S = 250, 0.5
STARTS, START_ROUNDS = 50, 6

Figures = dict[str, float]


def measure(rigs: Sequence[Rig], calls: int) -> list[Figures]:
    """Publish, drain and time the starts; ``calls`` is a multiple of ``BURST``."""
    parts = zip(publish(rigs, calls), drain(rigs, calls), start(rigs), strict=True)
    return [{**published, **drained, **started} for published, drained, started in parts]


def publish(rigs: Sequence[Rig], calls: int) -> list[Figures]:
    """Publish bursts in turn, while no worker runs."""
    rounds = [[rig.publish(BURST) for rig in rigs] for _ in range(calls // BURST)]
    return [publish_figures(bursts) for bursts in zip(*rounds, strict=True)]


def publish_figures(bursts: Sequence[Burst]) -> Figures:
    """Give the rate and the producer's CPU time of the median burst."""
    return {
        "publish /s": BURST / median(burst.wall_s for burst in bursts),
        "publish CPU us": median(burst.cpu_s for burst in bursts) / BURST * 1e6,
    }


def drain(rigs: Sequence[Rig], calls: int) -> list[Figures]:
    """Run slices in turn until each kind has done all its calls.

    Part of a drain would not do: with broker intake messages move to the store before they run.
    """
    slices: dict[Rig, list[Slice]] = {rig: [] for rig in rigs}
    waiting = list(rigs)
    while waiting:
        for rig in waiting:
            slices[rig].append(rig.run(SLICE_S))
        waiting = [rig for rig in waiting if not is_over(slices[rig], calls)]
    return [drain_figures(ran, calls) for ran in slices.values()]


def is_over(slices: Sequence[Slice], calls: int) -> bool:
    """Say whether all calls are done; raise if they take too long for a worker that works."""
    if len(slices) * SLICE_S > calls / SLOWEST:
        raise TimeoutError(f"expected {calls} calls done in {len(slices)} slices of {SLICE_S} s")
    return slices[-1].is_last


def drain_figures(slices: Sequence[Slice], calls: int) -> Figures:
    """Give the rate in its own time, and the CPU time of a call."""
    wall_s, workers_s, server_s, _ = map(sum, zip(*slices, strict=True))
    return {
        "drain /s": calls / wall_s,
        "drain CPU us, worker and pool": workers_s / calls * 1e6,
        "drain CPU us, server": server_s / calls * 1e6,
    }


def start(rigs: Sequence[Rig]) -> list[Figures]:
    """Start single calls in turn."""
    rounds = [[rig.start(STARTS) for rig in rigs] for _ in range(START_ROUNDS)]
    return [start_figures(list(chain(*bursts))) for bursts in zip(*rounds, strict=True)]


def start_figures(starts: Sequence[float]) -> Figures:
    """Give the median and the 95th percentile."""
    percentiles = quantiles(starts, n=100)
    return {"start p50 ms": percentiles[49] * 1000, "start p95 ms": percentiles[94] * 1000}
