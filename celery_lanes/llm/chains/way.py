"""Which target a call asks next, and in which lane."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from celery_lanes.llm.chains.allowance import Allowance
from celery_lanes.llm.chains.diary import Diary
from celery_lanes.llm.chains.journey import Journey, Leg
from celery_lanes.llm.chains.patience import Patience
from celery_lanes.llm.chains.plan import Plan
from celery_lanes.llm.target import Target
from celery_lanes.store.health import Benched, Pass

MOST_MOVES = 2
"""So often, for each target, a call moves without asking anybody: each may be benched twice."""

LOOK_S = 1.0
"""How long a call keeps others from probing a target of another lane, at which it only looks."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A target that is to be asked now, here."""

    target: Target
    leave: Pass


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A target that is to be asked in its own lane."""

    target: Target


class Way:
    """The targets of one call, in the order in which it asks them."""

    def __init__(
        self,
        plan: Plan,
        leg: Leg | None,
        journey: Journey,
        diary: Diary,
        allowance: Allowance,
        patience: Patience,
    ) -> None:
        self._plan, self._leg = plan, leg
        self._diary, self._allowance, self._patience = diary, allowance, patience
        self._names = {target.written: target for target in plan.targets}
        self._to_come = deque(self._known(journey.to_come) or self._unheard_of(journey))
        self._tried_by_others = self._known(journey.tried_by_others)
        self._insists = journey.insists or len(plan.targets) == 1
        self._is_astray = journey.moves > MOST_MOVES * len(plan.targets)

    def next(self) -> Ready | Elsewhere | None:
        """Say what is next; a target that is elsewhere stays the next one until ``skip``."""
        while (target := self._following()) is not None:
            found = self._enter(target)
            if isinstance(found, Pass) and self._is_elsewhere(target):
                self._give_back(found)
                return Elsewhere(target)
            self.skip()
            if isinstance(found, Pass):
                return self._ready(target, found)
            if found is not None and found.is_probed:
                self._tried_by_others.append(target)
        return None

    def skip(self) -> None:
        """Take the next target for done."""
        self._to_come.popleft()

    def state(self) -> dict[str, Any]:
        """Give what a ``Journey`` says of it, to go on with the next target."""
        return {
            "to_come": tuple(target.written for target in self._to_come),
            "tried_by_others": tuple(target.written for target in self._tried_by_others),
            "insists": self._insists,
        }

    def _known(self, names: Iterable[str]) -> list[Target]:
        """Find the targets of a journey, which may have begun before an alias was changed."""
        return [self._names[name] for name in names if name in self._names]

    def _unheard_of(self, journey: Journey) -> list[Target]:
        """Find whom else to ask, if the spec's alias is another one by now."""
        told = {attempt.target for attempt in journey.ledger}
        others = [target for target in self._plan.targets if str(target) not in told]
        return others if journey.to_come else []

    def _following(self) -> Target | None:
        """Give who is next; those that were left alone come if there is nobody else to ask."""
        if not self._to_come and not self._diary.was_asked and (last := self._last_resort()):
            self._to_come.extend(last)
            self._insists = True
        return self._to_come[0] if self._to_come else None

    def _last_resort(self) -> list[Target]:
        """Give those that others try, or else, once and if it is to be so, who is free first."""
        others, self._tried_by_others = self._tried_by_others, []
        if others or self._insists or self._plan.config.on_all_benched != "force":
            return others
        return self._patience.first_of(self._plan.targets)

    def _is_elsewhere(self, target: Target) -> bool:
        """Say whether a target is another lane's; one that nobody asks in any lane is asked here.

        So it is while workers are given other rules: each may take it for the other's.
        """
        is_at_home = self._leg is None or target.lane in {None, self._leg.lane}
        return not is_at_home and not self._is_astray

    def _enter(self, target: Target) -> Pass | Benched | None:
        if self._left_s(target) <= 0:
            self._diary.passed_by(target, "OutOfTime", "was not asked: the time was up")
            return None
        probe_s = LOOK_S if self._is_elsewhere(target) else self._attempt_s(target)
        found = self._plan.health.enter(str(target), probe_s=probe_s, is_alone=self._insists)
        if isinstance(found, Benched):
            self._pass_by(target, found)
        return found

    def _left_s(self, target: Target) -> float:
        if self._is_elsewhere(target):
            return self._allowance.left_elsewhere_s
        return self._allowance.left_at_s(target, self._diary.spent_at(target))

    def _attempt_s(self, target: Target) -> float:
        return self._allowance.attempt_s(target, self._diary.spent_at(target))

    def _give_back(self, leave: Pass) -> None:
        """Leave the probe to whoever asks first; this call will only do so in the other lane."""
        if leave.probes:
            self._plan.health.report(leave, "none")

    def _ready(self, target: Target, leave: Pass) -> Ready:
        if leave.probes:
            self._diary.tell("probe", target)
        return Ready(target, leave)

    def _pass_by(self, target: Target, benched: Benched) -> None:
        why = "is being tried by another call" if benched.is_probed else "is benched"
        self._diary.passed_by(target, "Benched", f"{why} for {benched.left_s:.3g} s")
        self._diary.tell("skip_benched", target, bench_until=time.time() + benched.left_s)
        self._patience.note(target, benched.left_s)
