"""What was set of callers and of a lane's own buckets at run time: it goes before the settings."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from celery_lanes.errors import StoreError
from celery_lanes.store.rules import Bucket, CallerRules, LaneRules, Limit, Unlimited

MAX_LIVE_CALLERS = 1_000
"""Callers of a lane that something may be set of: they are kept until it is taken back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerStatus:
    """What holds for one caller in a lane, and how many of its calls wait.

    ``live`` names what was set at run time: of "weight", "rate" and "paused". The rest is as
    configured.
    """

    caller: str
    weight: float
    rate: Bucket | None
    paused: bool
    live: tuple[str, ...]
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCaller:
    """What was set of one caller; ``None`` = as configured."""

    weight: float | None = None
    rate: Bucket | Unlimited | None = None
    paused: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Name what was set."""
        told = {"weight": self.weight is not None, "rate": self.rate is not None}
        return tuple(name for name, is_set in (told | {"paused": self.paused}).items() if is_set)


NOTHING = LiveCaller()


@dataclass(slots=True)
class Live:
    """All that was set in one lane of the memory store."""

    callers: dict[str, LiveCaller] = field(default_factory=dict)
    limits: dict[Limit, Bucket | Unlimited] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.callers or self.limits)

    def set_caller(self, caller: str, **change: Any) -> None:
        """Set something of a caller; nothing is kept of one that is as configured again."""
        own = replace(self.callers.get(caller, NOTHING), **change)
        if own == NOTHING:
            self.callers.pop(caller, None)
            return
        if caller not in self.callers and len(self.callers) >= MAX_LIVE_CALLERS:
            raise StoreError(too_many())
        self.callers[caller] = own

    def set_limit(self, limit: Limit, bucket: Bucket | Unlimited | None) -> None:
        """Set one of the lane's own buckets; ``None`` = as configured."""
        self.limits.pop(limit, None)
        if bucket is not None:
            self.limits[limit] = bucket

    def caller(self, caller: str, rules: LaneRules | None) -> CallerRules:
        """Give the weight and the bucket that hold for a caller."""
        own = self.callers.get(caller, NOTHING)
        given = (rules.callers if rules else {}).get(caller, CallerRules())
        weight = given.weight if own.weight is None else own.weight
        return CallerRules(weight, _held(own.rate, given.rate))

    def is_paused(self, caller: str) -> bool:
        """Say whether a caller's calls wait for its resumption."""
        return self.callers.get(caller, NOTHING).paused

    def limit(self, limit: Limit, rules: LaneRules | None) -> Bucket | None:
        """Give the bucket of the lane that holds."""
        given = getattr(rules, limit.value) if rules else None
        return _held(self.limits.get(limit), given)

    def names(self, rules: LaneRules | None) -> list[str]:
        """Name the callers that the settings name, or that something was set of."""
        return sorted({*(rules.callers if rules else ()), *self.callers})


def too_many() -> str:
    """Say that no more callers can be steered."""
    return (
        f"expected at most {MAX_LIVE_CALLERS} callers of a lane to be steered at a time; give back"
        " what was set of others, or write it into the settings"
    )


def _held(own: Bucket | Unlimited | None, given: Bucket | None) -> Bucket | None:
    return given if own is None else None if isinstance(own, Unlimited) else own
