"""What a run has shown, in numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from celery_lanes.chaos.evidence import (
    DEAD_LETTER,
    Evidence,
    early_ids,
    is_duplicate,
    is_rightful,
    must_end,
)
from celery_lanes.chaos.load import accepted_ids
from celery_lanes.chaos.observer import End, Run
from celery_lanes.chaos.options import ChaosOptions
from celery_lanes.chaos.overlaps import Span, Stale, highest, over_s, spans, stale, twice_at_once
from celery_lanes.chaos.recovery import Recovery, recoveries
from celery_lanes.chaos.repeats import Losses, changed, ended_again, published_twice, reruns
from celery_lanes.chaos.shares import shares
from celery_lanes.demo.figures import jain, percentile

ENOUGH = 200
"""Runs that must have begun while all callers waited before the index says anything."""


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


class Figures:
    """The report's figures, each worked out when it is asked for; counts of calls if not said.

    ``figures.calls`` and so on; ``to_dict`` gives all of them.
    """

    def __init__(self, seen: Evidence, options: ChaosOptions) -> None:
        self._seen = seen
        self._options = options

    def to_dict(self) -> dict[str, Any]:
        """Give every figure by its name."""
        names = (
            name for name, value in vars(Figures).items() if isinstance(value, cached_property)
        )
        return {name: getattr(self, name) for name in names if not name.startswith("_")}

    # -- what happened -----------------------------------------------------------------------

    @cached_property
    def calls(self) -> int:
        """Task messages that the producer was told are accepted, the steps of chains included."""
        return len(accepted_ids(self._seen.published))

    @cached_property
    def runs(self) -> int:
        """Bodies that the observer saw."""
        return len(self._seen.runs)

    @cached_property
    def faults(self) -> dict[str, int]:
        """How often each fault happened."""
        return dict(Counter(struck.kind.value for struck in self._seen.journal))

    @cached_property
    def shifted(self) -> int:
        """Workers that started with a wrong clock."""
        return sum(offset_s != 0 for offset_s in self._seen.started_off_s)

    @cached_property
    def shift_max_s(self) -> float:
        """How far off at most, ahead or behind."""
        return max(map(abs, self._seen.started_off_s), default=0.0)

    @cached_property
    def jump_max_s(self) -> float:
        """How far a worker's clock jumped at most, on or back."""
        return max((abs(struck.by_s) for struck in self._seen.journal), default=0.0)

    @cached_property
    def refused(self) -> int:
        """Publishes that raised an error."""
        return sum(bool(told.error) for told in self._seen.published)

    @cached_property
    def ran_again(self) -> int:
        """Calls that ran again, whatever the cause."""
        return len(self._again)

    @cached_property
    def lost_early(self) -> int:
        """Early calls that ended as ``WorkerLostError``, as they must."""
        return sum(end.task_id in self._early for end in self._failures)

    @cached_property
    def dead_letters(self) -> int:
        """Calls that lost too many workers."""
        return sum(DEAD_LETTER in end.what for end in self._failures)

    @cached_property
    def dropped(self) -> int:
        """Bodies of chords that Celery did not publish."""
        return len(self._seen.dropped)

    @cached_property
    def changed_by_paused(self) -> int:
        """Tasks that ended again, perhaps by a process that had been paused beyond its lease."""
        return len(self._odd & self._by_paused)

    @cached_property
    def per_second(self) -> float:
        """Calls that ended, by the whole run's time."""
        elapsed_s = self._seen.elapsed_s
        return len(self._seen.stored) / elapsed_s if elapsed_s else 0.0

    @cached_property
    def stuck(self) -> int:
        """Workers that did not stop when told to."""
        return len(self._seen.stuck)

    @cached_property
    def deserted_s(self) -> float:
        """For how long no worker was there, in sum, the start included."""
        return sum(to_s - from_s for from_s, to_s in self._seen.deserted)

    # -- what was promised -------------------------------------------------------------------

    @cached_property
    def lost(self) -> int:
        """Accepted, and without a final state at the end."""
        due = must_end(self._seen.published, self._seen.stored) - self._seen.dropped
        return len(due - set(self._seen.stored))

    @cached_property
    def failed(self) -> int:
        """Ended with an error that nothing explains."""
        return sum(not is_rightful(end, self._early) for end in self._failures)

    @cached_property
    def highest(self) -> int:
        """Most bodies at work at once."""
        return highest(self._spans)

    @cached_property
    def over_cap_s(self) -> float:
        """Seconds with more of them than the cap."""
        return over_s(self._spans, self._options.cap)

    @cached_property
    def twice_at_once(self) -> int:
        """Calls that were at work twice at the same time."""
        return len(twice_at_once(self._spans))

    @cached_property
    def stale(self) -> int:
        """Bodies that went on after a pause that had cost them their lease."""
        return len(self._stale)

    @cached_property
    def stale_max_s(self) -> float:
        """For how long at most."""
        return max((body.for_s for body in self._stale), default=0.0)

    @cached_property
    def duplicates(self) -> int:
        """Calls that ran again, or were published again, though nothing explains it."""
        again = sum(is_duplicate(pair, self._losses) for pair in self._again)
        return again + len(published_twice(self._seen.runs))

    @cached_property
    def changed(self) -> int:
        """Tasks whose final state was written again as something else."""
        return len((self._odd - self._by_paused) & changed(self._seen.ends))

    @cached_property
    def ended_again(self) -> int:
        """Early tasks whose final state was written again, the same."""
        return len(self._odd - self._by_paused - changed(self._seen.ends))

    @cached_property
    def recovery(self) -> Percentiles:
        """From a worker's SIGKILL until its calls ran again, or were closed as lost."""
        return Percentiles.of(each.after_s for each in self._recoveries)

    @cached_property
    def net_recovery(self) -> Percentiles:
        """The same less the outages of the store and the broker."""
        return Percentiles.of(each.net_s for each in self._recoveries)

    @cached_property
    def late_recoveries(self) -> int:
        """How many of these took longer than a lease and some seconds."""
        return sum(each.net_s > self._options.recovery_s for each in self._recoveries)

    @cached_property
    def shares(self) -> dict[str, int]:
        """Runs by caller that began while all callers had calls waiting."""
        return shares(self._seen.published, self._seen.runs)

    @cached_property
    def jain(self) -> float:
        """Jain's index of these; nan if there were too few."""
        served = self.shares.values()
        return jain(served) if sum(served) >= ENOUGH else math.nan

    @cached_property
    def gone(self) -> int:
        """Workers that ended by themselves."""
        return len(self._seen.gone)

    @cached_property
    def gone_kombus(self) -> int:
        """Of these, by an error of kombu's or of a client library under it."""
        return sum(each.is_kombus for each in self._seen.gone)

    @cached_property
    def left(self) -> tuple[str, ...]:
        """What the store still held at the end."""
        return self._seen.left

    @cached_property
    def pending(self) -> tuple[str, ...]:
        """What had not ended in time after the last fault."""
        return self._seen.pending

    @cached_property
    def drained_s(self) -> float:
        """How long it took until all had ended."""
        return self._seen.drained_s

    # -- what these are made of --------------------------------------------------------------

    @cached_property
    def _spans(self) -> list[Span]:
        return spans(self._seen.runs, self._seen.journal)

    @cached_property
    def _stale(self) -> list[Stale]:
        return stale(self._seen.runs, self._seen.journal)

    @cached_property
    def _again(self) -> list[tuple[Run, Run]]:
        return list(reruns(self._seen.runs))

    @cached_property
    def _losses(self) -> Losses:
        return Losses(self._seen.journal, (*self._seen.gone, *self._seen.stuck))

    @cached_property
    def _recoveries(self) -> list[Recovery]:
        seen = self._seen
        return recoveries(seen)

    @cached_property
    def _early(self) -> set[str]:
        return early_ids(self._seen.published)

    @cached_property
    def _failures(self) -> list[End]:
        return [end for end in self._seen.stored.values() if end.state != "SUCCESS"]

    @cached_property
    def _odd(self) -> set[str]:
        return changed(self._seen.ends) | ended_again(self._seen.ends, self._early)

    @cached_property
    def _by_paused(self) -> set[str]:
        return {run.task_id for run in self._seen.runs if self._losses.was_paused(run)}
