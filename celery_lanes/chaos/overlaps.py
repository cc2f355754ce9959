"""How many bodies were at work at once, and which call was at work twice.

A process that chaos has stopped (SIGSTOP) does nothing, though its request is still open: that
part of a run does not count. A worker that has been woken up finds its leases gone and must stop
such bodies within ``GRACE_S``; from then on they count like any other. What they did until then
is reported apart (``Stale``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

from celery_lanes.chaos.faults import Struck
from celery_lanes.chaos.observer import Run
from celery_lanes.chaos.outages import spent_s, store_away
from celery_lanes.chaos.plan import Kind

GRACE_S = 1.5
BLUR_S = 0.02
"""How late the observer may see that a client has died."""


@dataclass(frozen=True, slots=True)
class Span:
    """A time in which a run counts."""

    run: Run
    from_s: float
    until_s: float


@dataclass(frozen=True, slots=True)
class Twice:
    """Two runs of one call at work at the same time."""

    call: str
    first: Run
    second: Run
    for_s: float


@dataclass(frozen=True, slots=True)
class Stale:
    """A body that went on after a pause though its call had been given to another worker."""

    run: Run
    for_s: float


def spans(runs: Iterable[Run], journal: Iterable[Struck]) -> list[Span]:
    """Cut the runs down to the times that count."""
    pauses = pauses_by_worker(journal)
    return [span for run in runs for span in _spans(run, pauses.get(run.worker, ()))]


def pauses_by_worker(journal: Iterable[Struck]) -> dict[str, list[Struck]]:
    """Sort the pauses of whole workers by the worker's name."""
    found: dict[str, list[Struck]] = defaultdict(list)
    for struck in journal:
        if struck.kind is Kind.PAUSE:
            found[struck.worker].append(struck)
    return found


def highest(counted: Sequence[Span]) -> int:
    """Give the most at once."""
    return max((inside for _, inside in _levels(counted)), default=0)


def over_s(counted: Sequence[Span], cap: int) -> float:
    """Say for how long more than the cap were at work."""
    levels = list(_levels(counted))
    steps = pairwise(levels)
    return sum(after - at for (at, inside), (after, _) in steps if inside > cap)


def twice_at_once(counted: Iterable[Span]) -> list[Twice]:
    """Find the calls that were at work twice at the same time."""
    by_call: dict[str, list[Span]] = defaultdict(list)
    for span in counted:
        by_call[span.run.call].append(span)
    return [twice for call, mine in by_call.items() for twice in _twice(call, mine)]


def stale(runs: Sequence[Run], journal: Sequence[Struck]) -> list[Stale]:
    """Find the bodies that went on after a pause beside or after a later attempt of their call.

    A worker that cannot reach the store cannot know: such times do not count.
    """
    away = store_away(journal)
    by_worker: dict[str, list[Run]] = defaultdict(list)
    latest: dict[str, Run] = {}
    for run in runs:
        by_worker[run.worker].append(run)
        latest[run.call] = max(run, latest.get(run.call, run), key=lambda run: run.attempt)
    return [
        Stale(run, run.end_s - pause.until_s - spent_s(away, pause.until_s, run.end_s))
        for pause in chain.from_iterable(pauses_by_worker(journal).values())
        for run in by_worker[pause.worker]
        if run.start_s < pause.until_s + GRACE_S < run.end_s + GRACE_S
        and latest[run.call].attempt > run.attempt
        and latest[run.call].start_s < run.end_s
    ]


def _spans(run: Run, pauses: Sequence[Struck]) -> Iterator[Span]:
    from_s, until_s = run.start_s, run.end_s - (0 if run.is_answered else BLUR_S)
    for pause in pauses:
        excused_until_s = pause.until_s + GRACE_S
        if from_s >= excused_until_s or until_s <= pause.from_s:
            continue
        if from_s < pause.from_s:
            yield Span(run, from_s, pause.from_s)
        from_s = max(from_s, excused_until_s)
    if from_s < until_s:
        yield Span(run, from_s, until_s)


def _levels(counted: Sequence[Span]) -> Iterator[tuple[float, int]]:
    """Count after each change, ends before begins at the same moment."""
    changes = [(span.from_s, 1) for span in counted] + [(span.until_s, -1) for span in counted]
    inside = 0
    for at_s, change in sorted(changes):
        inside += change
        yield at_s, inside


def _twice(call: str, mine: list[Span]) -> Iterator[Twice]:
    mine.sort(key=lambda span: span.from_s)
    for first, second in pairwise(mine):
        for_s = min(first.until_s, second.until_s) - second.from_s
        if for_s > 0 and first.run.body != second.run.body:
            yield Twice(call, first.run, second.run, for_s)
