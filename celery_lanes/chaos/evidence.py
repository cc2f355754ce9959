"""What was written down of a run, and which ends and repeats of it are as they should be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from celery_lanes.chaos.faults import Struck
from celery_lanes.chaos.load import Published, Shape
from celery_lanes.chaos.observer import End, Run
from celery_lanes.chaos.repeats import Losses
from celery_lanes.chaos.staff import Gone

LOST_WORKER = "WorkerLostError"
DEAD_LETTER = "dead letter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that was written down.

    Attributes:
        stored: final states that the result backend had at the end, by task id.
        left: what the store still held of the run at the end, which should be nothing.
        stuck: workers that did not stop when told to, and had to be killed.
        started_off_s: how far off the clocks were with which workers started.
        deserted: from when until when no worker was there.
        dropped: bodies of chords that Celery did not publish, a worker having been lost.
        pending: what had not ended in time after the last fault.
        drained_s: how long that took.
    """

    published: tuple[Published, ...]
    runs: tuple[Run, ...]
    ends: tuple[End, ...]
    stored: Mapping[str, End]
    journal: tuple[Struck, ...]
    gone: tuple[Gone, ...] = ()
    stuck: tuple[Gone, ...] = ()
    started_off_s: tuple[float, ...] = ()
    deserted: tuple[tuple[float, float], ...] = ()
    dropped: frozenset[str] = frozenset()
    left: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    drained_s: float = 0.0
    elapsed_s: float = 0.0


def must_end(published: Iterable[Published], stored: Mapping[str, End]) -> set[str]:
    """Name the accepted tasks that have to have an end: a chain stops at a step that failed."""
    due: set[str] = set()
    for told in published:
        if told.error:
            continue
        due.update(_until_failure(told, stored) if told.shape is Shape.CHAIN else told.ids)
    return due


def _until_failure(told: Published, stored: Mapping[str, End]) -> Iterator[str]:
    for task_id in told.ids:
        yield task_id
        end = stored.get(task_id)
        if end is not None and end.state != "SUCCESS":
            return


def early_ids(published: Iterable[Published]) -> set[str]:
    """Name the tasks that are acknowledged early."""
    return {task for told in published if told.shape is Shape.EARLY for task in told.ids}


def is_rightful(end: End, early: set[str]) -> bool:
    """Whether an error is one that the lanes promise: an early call lost, a dead letter."""
    is_lost = LOST_WORKER in end.what and end.task_id in early
    return is_lost or DEAD_LETTER in end.what


def is_duplicate(pair: tuple[Run, Run], losses: Losses) -> bool:
    """Whether nothing explains that a call ran again."""
    first, second = pair
    return first.task == "early" or not losses.explain(first, second)
