"""Whether a call waits for targets that are only busy, and how long."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from celery_lanes.llm.chains.diary import Diary
from celery_lanes.llm.chains.journey import MAX_WAIT_S, MAX_WAITS, Journey, Leg
from celery_lanes.llm.chains.plan import Plan
from celery_lanes.llm.target import Target
from celery_lanes.store.health import Benched

FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 60.0
"""How long a lone target is left alone that does not say for how long, and at most."""


@dataclass(frozen=True, slots=True)
class Wait:
    """All are busy; the first is free after so many seconds.

    Attributes:
        seconds: how many.
        most_s: how many it may be in any case.
        is_lanes: this lane's provider has just asked for them, so that nobody in it need try.
    """

    seconds: float
    most_s: float
    is_lanes: bool


class Patience:
    """One call's. ``free_at``: when its targets may be asked again, in seconds since the epoch."""

    def __init__(self, plan: Plan, leg: Leg | None, journey: Journey, diary: Diary) -> None:
        self._plan, self._leg, self._journey, self._diary = plan, leg, journey, diary
        self.free_at = dict(journey.free_at)

    def note(self, target: Target, seconds: float) -> None:
        """Keep that a target may be asked again after so many seconds."""
        self.free_at[str(target)] = time.time() + seconds

    def note_refusal(self, target: Target, asked_s: float | None, benched: Benched | None) -> None:
        """Keep so of one that was only busy: as it asked, or as long as it is benched.

        A lone one is asked even while it is benched: after a time of the call's own, if need be.
        """
        if len(self._plan.targets) == 1:
            usual_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._journey.waits, 10))
            self.note(target, usual_s if asked_s is None else asked_s)
        else:
            self.note(target, max(asked_s or 0.0, benched.left_s if benched else 0.0))

    @property
    def free_in_s(self) -> float | None:
        """In how many seconds the first of the busy ones may be asked; ``None`` if none is."""
        free_at = min(self.free_at.values(), default=None)
        return None if free_at is None else max(0.0, free_at - time.time())

    def first_of(self, targets: Sequence[Target]) -> list[Target]:
        """Give the one of them that is free first, if any of them is busy."""
        busy = [target for target in targets if str(target) in self.free_at]
        return sorted(busy, key=lambda target: self.free_at[str(target)])[:1]

    def wait(self) -> Wait | None:
        """Say what to wait for; ``None`` if that would not help, or has been done long enough."""
        if self._plan.config.on_all_benched != "wait":
            return None
        seconds = self.free_in_s
        if self._leg is None or seconds is None or self._journey.waits >= MAX_WAITS:
            return None
        if seconds > self._longest_s or not all(map(self._is_busy, self._plan.targets)):
            return None
        return Wait(seconds, self._longest_s, is_lanes=self._has_refused(self._first, self._leg))

    @property
    def _longest_s(self) -> float:
        most_s = self._journey.max_wait_s
        return MAX_WAIT_S if most_s is None else min(MAX_WAIT_S, most_s)

    @property
    def _first(self) -> str:
        return min(self.free_at, key=self.free_at.__getitem__)

    def _is_busy(self, target: Target) -> bool:
        last = self._diary.last_of(str(target))
        return last is not None and last.is_busy

    def _has_refused(self, target: str, leg: Leg) -> bool:
        """Say whether a target has asked for this time, and in this lane."""
        last = self._diary.last_of(target)
        return last is not None and last.retry_after_s is not None and last.lane == leg.lane
