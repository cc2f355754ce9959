"""What the store must know of a lane: its slots, leases, buckets and callers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

MAX_CALLERS = 5_000
"""Callers that rules may name: a server takes in what holds for all of them at once."""


class Policy(str, Enum):
    """How a lane orders its callers: fair shares, or one queue for all."""

    FAIR = "fair"
    FIFO = "fifo"


class Scope(str, Enum):
    """Whose calls a priority orders: one caller's own, or, as levels, all of the lane's."""

    CALLER = "caller"
    LANE = "lane"


@dataclass(frozen=True, slots=True)
class Bucket:
    """A wall-clock bucket (GCRA): ``count`` units every ``period_ms``, up to ``burst`` at once."""

    count: float
    period_ms: int
    burst: float


class Unlimited(Enum):
    """Stands where a bucket may: there is none, whatever the settings say."""

    UNLIMITED = "unlimited"


class Limit(str, Enum):
    """A lane's own buckets: of calls, and of cost."""

    RATE = "rate"
    TOKENS = "tokens"


@dataclass(frozen=True, slots=True)
class CallerRules:
    """A caller's weight (its share against others; 1e-3 to 1e3) and optional bucket of calls."""

    weight: float = 1.0
    rate: Bucket | None = None


@dataclass(frozen=True, slots=True)
class Preemption:
    """How running calls make room for more urgent ones.

    Attributes:
        min_runtime_ms: how long a call may run before it can be stopped; 0 = at once.
        most: how often a call is put back; after that it is left alone.
        fails: a stopped call is closed as ``Preempted``, and not put back.
    """

    min_runtime_ms: int = 30_000
    most: int = 3
    fails: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneRules:
    """What the store must know of a lane; written by each worker when it starts.

    Attributes:
        max_concurrent: slots; live leases never exceed it.
        lease_ttl_ms: how long a silent worker keeps its leases.
        max_leases: how many lost leases make a call a dead letter.
        dedupe_ttl_ms: how long a settled call is remembered, at least.
        adaptive: whether overloads of the provider lower the cap for a while; see ``adapting``.
        rate: bucket of calls for the whole lane.
        tokens: bucket of cost for the whole lane.
        callers: weights and rates by caller name; others have weight 1 and no rate.
        preemption: needs levels (``Scope.LANE``); ``None`` = running calls are left alone.
        acks_early: task name -> whether Celery acknowledges it before it runs. A lost lease of
            such a call is closed, not run again. Only the named tasks are changed.
    """

    max_concurrent: int
    lease_ttl_ms: int = 30_000
    max_leases: int = 5
    dedupe_ttl_ms: int = 120_000
    adaptive: bool = False
    rate: Bucket | None = None
    tokens: Bucket | None = None
    callers: Mapping[str, CallerRules] = field(default_factory=dict)
    preemption: Preemption | None = None
    acks_early: Mapping[str, bool] = field(default_factory=dict)
