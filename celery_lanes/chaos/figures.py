"""What a run has shown, in numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from celery_lanes.chaos.faults import Struck
from celery_lanes.chaos.load import Published, Shape, accepted_ids
from celery_lanes.chaos.observer import End, Run
from celery_lanes.chaos.options import SPARE_S, ChaosOptions
from celery_lanes.chaos.overlaps import highest, over_s, spans, stale, twice_at_once
from celery_lanes.chaos.recovery import recoveries
from celery_lanes.chaos.repeats import Losses, changed, ended_again, published_twice, reruns
from celery_lanes.chaos.shares import shares
from celery_lanes.chaos.staff import Gone
from celery_lanes.demo.figures import jain, percentile

ENOUGH = 200
"""Runs that must have begun while all callers waited before the index says anything."""

LOST_WORKER = "WorkerLostError"
DEAD_LETTER = "dead letter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that was written down.

    Attributes:
        stored: final states that the result backend had at the end, by task id.
        left: what the store still held of the run at the end, which should be nothing.
        stuck: workers that did not stop when told to, and had to be killed.
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
    dropped: frozenset[str] = frozenset()
    left: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    drained_s: float = 0.0
    elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Percentiles:
    """How many times there were, and how long they were."""

    count: int
    p50_s: float
    p95_s: float
    max_s: float

    @classmethod
    def of(cls, times_s: Iterable[float]) -> Percentiles:
        """Sum up; nan of none."""
        ordered = sorted(times_s)
        return cls(len(ordered), *(percentile(ordered, percent) for percent in (50, 95, 100)))

    def __str__(self) -> str:
        """Write them in one line."""
        if not self.count:
            return "none"
        p50, p95, most = self.p50_s, self.p95_s, self.max_s
        return f"{self.count}: p50 {p50:.1f} s, p95 {p95:.1f} s, max {most:.1f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The report's figures; counts of calls unless the name says otherwise.

    Attributes:
        calls: task messages that the producer was told are accepted, chain steps included.
        runs: bodies that the observer saw.
        faults: how often each fault happened.
        lost: accepted, and without a final state at the end.
        failed: ended with an error that nothing explains.
        highest: most bodies at work at once.
        over_cap_s: seconds with more than the cap.
        twice_at_once: calls that were at work twice at the same time.
        stale: bodies that went on, for a moment, after a pause that had cost them their lease.
        stale_max_s: the longest such moment.
        ran_again: calls that ran again because their worker was lost.
        duplicates: calls that ran again though nothing explains it, early ones in any case.
        changed: tasks whose final state was written again as something else.
        ended_again: early tasks whose final state was written again.
        changed_by_paused: the same of tasks that a paused process ended after its lease was gone.
        lost_early: early calls that ended as ``WorkerLostError``, as they must.
        recovery: from a worker's SIGKILL until its calls ran again, or were closed as lost.
        net_recovery: the same less the outages of the store and the broker.
        late_recoveries: that took longer than a lease and some seconds, or two leases if another
            worker was lost, too.
        jain: of the callers' shares while all had calls waiting; nan if that was too rare.
    """

    calls: int
    runs: int
    faults: Mapping[str, int]
    lost: int
    failed: int
    highest: int
    over_cap_s: float
    twice_at_once: int
    stale: int
    stale_max_s: float
    ran_again: int
    duplicates: int
    changed: int
    ended_again: int
    changed_by_paused: int
    lost_early: int
    dead_letters: int
    dropped: int
    refused: int
    recovery: Percentiles
    net_recovery: Percentiles
    late_recoveries: int
    jain: float
    shares: Mapping[str, int]
    per_second: float
    gone: int
    gone_kombus: int
    stuck: int
    left: tuple[str, ...]
    pending: tuple[str, ...]
    drained_s: float


def figures(seen: Evidence, options: ChaosOptions) -> Figures:
    """Work out the figures."""
    due = must_end(seen.published, seen.stored) - seen.dropped
    counted = spans(seen.runs, seen.journal)
    stale_bodies = stale(seen.runs, seen.journal)
    again = list(reruns(seen.runs))
    losses = Losses(seen.journal, (*seen.gone, *seen.stuck))
    healed = recoveries(seen.runs, seen.ends, seen.journal, options.lease_ttl_s)
    served = shares(seen.published, seen.runs)
    odd, paused = _odd_ends(seen, losses)
    early = early_ids(seen.published)
    failures = [end for end in seen.stored.values() if end.state != "SUCCESS"]
    return Figures(
        calls=len(accepted_ids(seen.published)),
        runs=len(seen.runs),
        faults=dict(Counter(struck.kind.value for struck in seen.journal)),
        lost=len(due - set(seen.stored)),
        failed=sum(not is_rightful(end, early) for end in failures),
        highest=highest(counted),
        over_cap_s=over_s(counted, options.cap),
        twice_at_once=len(twice_at_once(counted)),
        stale=len(stale_bodies),
        stale_max_s=max((body.for_s for body in stale_bodies), default=0.0),
        ran_again=len(again),
        duplicates=sum(is_duplicate(pair, losses) for pair in again)
        + len(published_twice(seen.runs)),
        changed=len(odd & changed(seen.ends)),
        ended_again=len(odd - changed(seen.ends)),
        changed_by_paused=len(paused),
        lost_early=sum(end.task_id in early for end in failures),
        dead_letters=sum(DEAD_LETTER in end.what for end in failures),
        dropped=len(seen.dropped),
        refused=sum(bool(told.error) for told in seen.published),
        recovery=Percentiles.of(each.after_s for each in healed),
        net_recovery=Percentiles.of(each.net_s for each in healed),
        late_recoveries=sum(each.is_late(options.lease_ttl_s, SPARE_S) for each in healed),
        jain=jain(served.values()) if sum(served.values()) >= ENOUGH else math.nan,
        shares=served,
        per_second=len(seen.stored) / seen.elapsed_s if seen.elapsed_s else 0.0,
        gone=len(seen.gone),
        gone_kombus=sum(each.is_kombus for each in seen.gone),
        stuck=len(seen.stuck),
        left=seen.left,
        pending=seen.pending,
        drained_s=seen.drained_s,
    )


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


def _odd_ends(seen: Evidence, losses: Losses) -> tuple[set[str], set[str]]:
    """Name the tasks that ended again; apart, those that a paused process may have ended."""
    odd = changed(seen.ends) | ended_again(seen.ends, early_ids(seen.published))
    paused = {run.task_id for run in seen.runs if losses.was_paused(run)}
    return odd - paused, odd & paused
