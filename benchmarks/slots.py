"""What becomes of a lane's slots: how fast they change hands, and how busy they are kept."""

from __future__ import annotations

from itertools import pairwise
from statistics import quantiles

from kinds import KINDS, Kind
from rig import open_rig

LANES = KINDS["lanes"]


def shared_rate(calls: int) -> float:
    """Give the no-ops a second of two workers of two processes on a lane of two slots."""
    with open_rig(LANES, slots=2, workers=2) as rig:
        rig.publish(calls)
        return calls / rig.finish(calls).wall_s


def handoffs(*, workers: int, processes: int, turns: int = 500) -> tuple[float, float]:
    """Give p50 and p99, in ms, from the end of a body to the next one's start on the only slot."""
    with open_rig(LANES, slots=1, workers=workers, processes=processes) as rig:
        held = rig.hold(turns, 0.01)
    gaps = quantiles((after.began - before.ended for before, after in pairwise(held)), n=100)
    return gaps[49] * 1000, gaps[98] * 1000


def busy_share(kind: Kind, *, slots: int, spread: float) -> float:
    """Give the share of its slots that a backlog keeps busy with bodies of 100 ms, more or less.

    A lane's slots have twice as many processes; plain Celery's slots are its processes.
    """
    with open_rig(kind, slots=slots, processes=slots * (1 + kind.lanes)) as rig:
        held = rig.hold(400, 0.1, spread=spread)
    began, last = held[0].began, held[-slots].began
    worked = sum(max(0.0, min(turn.ended, last) - turn.began) for turn in held)
    return worked / (slots * (last - began))
