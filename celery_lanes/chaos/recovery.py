"""How soon the calls of a killed worker went on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from celery_lanes.chaos.evidence import Evidence
from celery_lanes.chaos.faults import Struck
from celery_lanes.chaos.observer import Run
from celery_lanes.chaos.outages import broker_away, spent_s, store_away
from celery_lanes.chaos.plan import Kind

SEEN_WITHIN_S = 1.0
"""How late after a kill the observer may see the client go."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """A call that a kill interrupted, and when it ran again, or was closed as lost.

    Attributes:
        after_s: since the kill.
        net_s: less the time in which nobody could reach the store, workers had no broker, or none
            was there.
    """

    task_id: str
    after_s: float
    net_s: float


def recoveries(seen: Evidence) -> list[Recovery]:
    """Find what each kill interrupted and when that went on."""
    ended_at = {end.task_id: end.at_s for end in sorted(seen.ends, key=lambda end: -end.at_s)}
    by_call: dict[str, list[Run]] = defaultdict(list)
    for run in seen.runs:
        by_call[run.call].append(run)
    away = [*store_away(seen.journal), *broker_away(seen.journal), *seen.deserted]
    kills = [struck for struck in seen.journal if struck.kind is Kind.KILL]
    return [
        Recovery(
            run.task_id,
            at_s - kill.from_s,
            at_s - kill.from_s - spent_s(away, kill.from_s, at_s),
        )
        for kill in kills
        for run in _interrupted(kill, seen.runs)
        if (at_s := _went_on(run, kill, by_call[run.call], ended_at)) is not None
    ]


def _interrupted(kill: Struck, runs: Iterable[Run]) -> Iterator[Run]:
    for run in runs:
        is_there = run.start_s <= kill.from_s <= run.end_s < kill.from_s + SEEN_WITHIN_S
        if run.worker == kill.worker and is_there and not run.is_answered:
            yield run


def _went_on(
    run: Run, kill: Struck, mine: Iterable[Run], ended_at: dict[str, float]
) -> float | None:
    starts = [other.start_s for other in mine if other.start_s > kill.from_s]
    if starts:
        return min(starts)
    return ended_at.get(run.task_id)
