"""How fairly the callers were served while all of them had calls waiting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from celery_lanes.chaos.load import Published, Shape
from celery_lanes.chaos.observer import Run

SHORTEST_S = 1.0
"""A shorter time in which all callers wait says nothing."""

AT_ONCE = {Shape.LATE, Shape.EARLY, Shape.STEPS, Shape.LONG}
"""What waits from its publish on: the steps of a chain and an ETA do not."""


def shares(published: Iterable[Published], runs: Sequence[Run]) -> dict[str, int]:
    """Count each caller's answered runs that began while every caller had calls waiting."""
    times = [time for time in all_wait(published, runs) if time[1] - time[0] >= SHORTEST_S]
    served: Counter[str] = Counter()
    starts = sorted((run.start_s, run.caller) for run in runs if run.is_answered)
    for start_s, caller in starts:
        served[caller] += any(from_s < start_s < until_s for from_s, until_s in times)
    return dict(served)


def all_wait(published: Iterable[Published], runs: Iterable[Run]) -> Iterator[tuple[float, float]]:
    """Find the times in which every caller had accepted calls that had not started."""
    told = [each for each in published if not each.error and each.shape in AT_ONCE]
    accepted = {task_id: each for each in told for task_id in each.ids}
    started: dict[str, float] = {}
    for run in runs:
        started.setdefault(run.task_id, run.start_s)
    changes = [(each.accepted_s, 1, each.caller) for each in told]
    changes += [(at, -1, accepted[task].caller) for task, at in started.items() if task in accepted]
    yield from _times(sorted(changes), {each.caller for each in told})


def _times(
    changes: Iterable[tuple[float, int, str]], callers: set[str]
) -> Iterator[tuple[float, float]]:
    waiting: Counter[str] = Counter()
    since_s: float | None = None
    for at_s, change, caller in changes:
        waiting[caller] += change
        do_all = all(waiting[each] > 0 for each in callers)
        if do_all and since_s is None:
            since_s = at_s
        elif not do_all and since_s is not None:
            yield since_s, at_s
            since_s = None
