"""How much time a call has left."""

from __future__ import annotations

import math
import time

from celery_lanes.llm.chains.plan import Terms
from celery_lanes.llm.target import Target

_SHORTEST_S = 0.001


class Allowance:
    """One call's: of the whole, which its time in other lanes has used up, too, and of this leg."""

    def __init__(self, terms: Terms, spent_s: float) -> None:
        self._terms = terms
        self._spent_s = spent_s
        self._began_at = time.monotonic()
        self._leg_s = terms.leg.left_s if terms.leg else math.inf

    @property
    def spent_s(self) -> float:
        """How long the call has run, in all lanes."""
        return self._spent_s + self._here_s

    @property
    def left_s(self) -> float:
        """How long it may go on here."""
        return min(self.left_elsewhere_s, self._leg_s - self._here_s)

    @property
    def left_elsewhere_s(self) -> float:
        """How long it may go on in another lane."""
        return self._terms.whole_s - self.spent_s

    def left_at_s(self, target: Target, spent_there_s: float) -> float:
        """Give how long attempts at a target may go on here that have taken so long by now."""
        return min(self.left_s, self._terms.target_s(target) - spent_there_s)

    def attempt_s(self, target: Target, spent_there_s: float) -> float:
        """Give how long the next of them may take, never quite 0."""
        left_s = self.left_at_s(target, spent_there_s)
        return max(_SHORTEST_S, min(left_s, self._terms.attempt_s))

    @property
    def _here_s(self) -> float:
        return time.monotonic() - self._began_at
