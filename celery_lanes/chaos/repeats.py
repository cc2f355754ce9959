"""Calls that ran again, tasks that ended again, and whether a fault explains it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from celery_lanes.chaos.faults import Struck
from celery_lanes.chaos.observer import End, Run
from celery_lanes.chaos.plan import Kind
from celery_lanes.chaos.staff import Gone

WORKER_LOST = {Kind.KILL, Kind.QUIT, Kind.PAUSE}
"""Only the loss of its own worker may make a call run again; no outage may."""


class Losses:
    """When each worker was lost, by whatever cause."""

    def __init__(self, journal: Iterable[Struck], gone: Iterable[Gone]) -> None:
        self._at: dict[str, list[float]] = defaultdict(list)
        self._paused: set[str] = set()
        for struck in journal:
            if struck.kind in WORKER_LOST:
                self._at[struck.worker].append(struck.from_s)
            if struck.kind is Kind.PAUSE:
                self._paused.add(struck.worker)
        for each in gone:
            self._at[each.worker].append(each.at_s)

    def explain(self, first: Run, second: Run) -> bool:
        """Whether the worker of a run was lost between its begin and the next run's."""
        return any(first.start_s <= at <= second.start_s for at in self._at.get(first.worker, ()))

    def was_paused(self, run: Run) -> bool:
        """Whether a run's worker was ever stopped and woken up."""
        return run.worker in self._paused


def reruns(runs: Iterable[Run]) -> Iterator[tuple[Run, Run]]:
    """Give each run that was followed by another of the same call, and that one."""
    by_call: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.start_s):
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
