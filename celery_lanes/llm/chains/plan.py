"""What a call of a chain has to go by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from celery_lanes.callinfo import CallInfo
from celery_lanes.llm.chains.effects import ChainConfig
from celery_lanes.llm.chains.events import Observer
from celery_lanes.llm.chains.journey import Journey, Leg
from celery_lanes.llm.target import Target
from celery_lanes.store.health import HealthStore, Pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What all calls of a chain have in common."""

    spec: str
    targets: tuple[Target, ...]
    health: HealthStore
    config: ChainConfig
    observers: Sequence[Observer]

    @property
    def written(self) -> tuple[str, ...]:
        """The names of the targets, as a ``Journey`` has them."""
        return tuple(target.written for target in self.targets)

    def after(self, target: Target) -> Target | None:
        """Give who comes after a target."""
        following = self.targets[self.targets.index(target) + 1 :]
        return following[0] if following else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is said of one call.

    Attributes:
        call_id: its name, the same for all attempts.
        info: whose it is.
        timeout_s: for all of it; ``None`` gives each target, with all attempts, the time that its
            provider has.
        attempt_timeout_s: for one attempt; ``None`` for what is left.
        observer: is told of this call, beside those who are told of all.
        leg: the part of it that is done here; ``None`` if that is all of it.
    """

    call_id: str
    info: CallInfo
    timeout_s: float | None = None
    attempt_timeout_s: float | None = None
    observer: Observer | None = None
    leg: Leg | None = None

    @property
    def journey(self) -> Journey | None:
        """How far it had come before; ``None`` at its beginning."""
        return self.leg.journey if self.leg else None

    @property
    def whole_s(self) -> float:
        """How long all of it may take."""
        return math.inf if self.timeout_s is None else self.timeout_s

    @property
    def attempt_s(self) -> float:
        """How long one attempt may take, whatever is left."""
        return math.inf if self.attempt_timeout_s is None else self.attempt_timeout_s

    def target_s(self, target: Target) -> float:
        """Give how long all attempts at a target together may take, whatever is left.

        Where nothing else bounds the call one that hangs must not use up the time of the next.
        """
        if self._is_bounded:
            return math.inf
        return max(target.timeout_s, self.attempt_timeout_s or 0.0)

    @property
    def _is_bounded(self) -> bool:
        """Whether somebody has said how long the call, or its part here, may take."""
        return self.timeout_s is not None or (self.leg is not None and self.leg.left_s < math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One attempt at a target: the first, or after a pause the next.

    Its time begins with its slot: ``queued_s`` is how long it waited for one that was its own.
    """

    target: Target
    leave: Pass
    began_at: float
    number: int = 1
    waited_s: float = 0.0
    queued_s: float = 0.0

    def after(self, queued_s: float) -> Trial:
        """Give the same, which had to wait for its slot."""
        return replace(self, queued_s=queued_s, began_at=self.began_at + queued_s)
