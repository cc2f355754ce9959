"""What is known of the calls behind a breach, for whoever looks for the cause."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from celery_lanes.chaos.evidence import Evidence, early_ids, is_duplicate, is_rightful, must_end
from celery_lanes.chaos.faults import Struck
from celery_lanes.chaos.observer import End, Run
from celery_lanes.chaos.options import ChaosOptions
from celery_lanes.chaos.overlaps import GRACE_S, spans, stale, twice_at_once
from celery_lanes.chaos.plan import Kind
from celery_lanes.chaos.recovery import recoveries
from celery_lanes.chaos.repeats import Losses, changed, published_twice, reruns

AT_MOST = 5
"""Calls of each kind."""

AROUND_S = 5.0
"""What happened so long before and after belongs to the story."""


def details(seen: Evidence, options: ChaosOptions) -> Iterator[str]:
    """Tell the story of some calls of each kind; times are since the first run."""
    first_s = min((run.start_s for run in seen.runs), default=0.0)
    for kind, task_ids in _kinds(seen, options):
        for task_id in islice(task_ids, AT_MOST):
            yield f"{kind}: {_origin(seen, task_id)}"
            yield from _story(seen, task_id, first_s)


def _kinds(seen: Evidence, options: ChaosOptions) -> Iterator[tuple[str, Iterable[str]]]:
    losses = Losses(seen.journal, (*seen.gone, *seen.stuck))
    early = early_ids(seen.published)
    failures = (end for end in seen.stored.values() if end.state != "SUCCESS")
    due = must_end(seen.published, seen.stored) - seen.dropped
    yield "lost", sorted(due - set(seen.stored))
    yield "failed", (end.task_id for end in failures if not is_rightful(end, early))
    counted = spans(seen.runs, seen.journal)
    yield "twice at once", (twice.first.task_id for twice in twice_at_once(counted))
    again = reruns(seen.runs)
    yield "duplicate", (pair[0].task_id for pair in again if is_duplicate(pair, losses))
    yield "published twice", published_twice(seen.runs)
    bodies = stale(seen.runs, seen.journal)
    yield "went on", (body.run.task_id for body in bodies if body.for_s > GRACE_S)
    healed = recoveries(seen)
    yield "late", (each.task_id for each in healed if each.net_s > options.recovery_s)
    yield "changed", sorted(changed(seen.ends))


def _origin(seen: Evidence, task_id: str) -> str:
    for told in seen.published:
        if task_id in told.ids:
            place = told.ids.index(task_id) + 1
            return f"{task_id}, {told.shape.value} {told.number}, {place} of {', '.join(told.ids)}"
    return task_id


def _story(seen: Evidence, task_id: str, first_s: float) -> Iterator[str]:
    """List its family's runs and ends, and what befell their workers and the servers meanwhile."""
    family = _family(seen, task_id)
    mine = [run for run in seen.runs if run.task_id in family]
    told = [(run.start_s, _run(run)) for run in mine]
    told += [(end.at_s, _end(end)) for end in seen.ends if end.task_id in family]
    if not told:
        return
    begin_s, end_s = min(told)[0] - AROUND_S, max(told)[0] + AROUND_S
    whose = {"", *(run.worker for run in mine)}
    told += [(each.from_s, _fault(each)) for each in seen.journal if each.worker in whose]
    told += [(from_s, f"no worker for {to_s - from_s:.2f} s") for from_s, to_s in seen.deserted]
    for at_s, what in sorted(told):
        if begin_s <= at_s <= end_s:
            yield f"  {at_s - first_s:9.3f} s  {what}"


def _family(seen: Evidence, task_id: str) -> set[str]:
    for told in seen.published:
        if task_id in told.ids:
            return set(told.ids)
    return {task_id}


def _run(run: Run) -> str:
    answered = "answered" if run.is_answered else "client gone"
    return (
        f"run {run.task_id[:8]} call {run.call[:8]} attempt {run.attempt} by {run.worker}, "
        f"{run.end_s - run.start_s:.3f} s, {answered}"
    )


def _end(end: End) -> str:
    return f"ended {end.task_id[:8]} {end.state}"


def _fault(struck: Struck) -> str:
    if struck.kind is Kind.CLOCK_JUMP:
        return f"{struck.kind.value} {struck.worker} by {struck.by_s:+.1f} s"
    return f"{struck.kind.value} {struck.worker} for {struck.until_s - struck.from_s:.2f} s"
