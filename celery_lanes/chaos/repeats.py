"""Calls that ran again, tasks that ended again, and whether a fault explains it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from celery_lanes.chaos.faults import Struck
from celery_lanes.chaos.observer import End, Run
from celery_lanes.chaos.overlaps import GRACE_S, pauses_by_worker
from celery_lanes.chaos.plan import Kind
from celery_lanes.chaos.staff import Gone

WORKER_LOST = {Kind.KILL, Kind.QUIT}
"""Only the loss of its own worker may make a call run again; no outage may."""


class Losses:
    """When each worker was lost, by whatever cause, or paused for longer than its leases."""

    def __init__(self, journal: Sequence[Struck], gone: Iterable[Gone]) -> None:
        self._lost_at = {
            struck.worker: struck.from_s for struck in journal if struck.kind in WORKER_LOST
        } | {each.worker: each.at_s for each in gone}
        self._pauses = pauses_by_worker(journal)

    def explain(self, first: Run, second: Run) -> bool:
        """Whether the loss of its worker explains that a run was followed by another attempt."""
        lost_at_s = self._lost_at.get(first.worker, math.inf)
        return lost_at_s <= second.start_s or any(
            pause.from_s <= second.start_s and first.start_s <= pause.until_s + GRACE_S
            for pause in self._pauses.get(first.worker, ())
        )

    def was_paused(self, run: Run) -> bool:
        """Whether a run's worker was ever stopped and woken up."""
        return run.worker in self._pauses


def reruns(runs: Iterable[Run]) -> Iterator[tuple[Run, Run]]:
    """Give each run that was followed by another attempt of the same call, and that one."""
    by_call: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: (run.attempt, run.start_s)):
        by_call[run.call].append(run)
    for mine in by_call.values():
        yield from pairwise(mine)


def published_twice(runs: Sequence[Run]) -> list[str]:
    """Name the tasks with several calls though no call of their canvas ran again."""
    again = {first.root_id for first, _ in reruns(runs)}
    calls: dict[str, set[str]] = defaultdict(set)
    roots: dict[str, str] = {}
    for run in runs:
        calls[run.task_id].add(run.call)
        roots[run.task_id] = run.root_id
    return [task for task, mine in calls.items() if len(mine) > 1 and roots[task] not in again]


def changed(ends: Iterable[End]) -> set[str]:
    """Name the tasks whose final state was written again as something else."""
    written: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for end in ends:
        written[end.task_id].add((end.state, end.what))
    return {task for task, mine in written.items() if len(mine) > 1}


def ended_again(ends: Iterable[End], tasks: Iterable[str]) -> set[str]:
    """Name those of the tasks whose final state was written more than once, even if the same."""
    times: dict[str, int] = defaultdict(int)
    for end in ends:
        times[end.task_id] += 1
    return {task for task in tasks if times[task] > 1}
