"""Which LLM targets are fit to be asked: what is said of it, and the numbers that decide.

A target is *benched* after so many failures in a row, each time for longer. When that time is
over, one call tries it for all others, the *probe*: its success forgets everything, its failure
benches the target again. Nothing but a success makes a bench shorter, and failures of attempts
that began before it was over are part of what it was for.

An entry is kept by target (``provider/model``) and one by provider, for what all its models share:
the account, and the way to the server.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from celery_lanes.errors import ConfigError
from celery_lanes.store.calls import fitting

Health = Literal["none", "count", "bench", "count_provider", "bench_provider"]
"""What a failure says of the target: nothing; one more; unfit at once; or so of its provider."""

State = Literal["failing", "benched", "tried", "due"]

MAX_RETRY_AFTER_S = 600.0
"""How long a provider may have itself left alone."""

MAX_PROBE_S = 24 * 3600.0
"""How long a call may be the only one that tries a target."""

MAX_ENTRIES = 10_000
"""How many failing targets and providers are remembered; those go first that fade first."""

MEMORY_MS = 24 * 3600 * 1000
"""An entry fades so long after it was last written, or its bench was over."""

DROP_AT_ONCE = 10
"""So many faded entries are dropped when one is written."""

MAX_READ = 1000
"""How many entries one reading gives."""

NEVER = -math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthConfig:
    """When a model is left alone, and for how long.

    Attributes:
        failure_threshold: after so many failures in a row.
        base_cooldown_s: at first.
        multiplier: by which it grows each time.
        max_cooldown_s: up to this.
        quota_cooldown_s: at first, for a provider whose quota is used up.
        max_quota_cooldown_s: up to this.
    """

    failure_threshold: int = 2
    base_cooldown_s: float = 5.0
    multiplier: float = 2.0
    max_cooldown_s: float = 300.0
    quota_cooldown_s: float = 5 * 3600.0
    max_quota_cooldown_s: float = 24 * 3600.0

    def __post_init__(self) -> None:
        """Refuse what never benches, or shrinks."""
        is_sound = (
            self.failure_threshold >= 1
            and 0 < self.base_cooldown_s <= self.max_cooldown_s < math.inf
            and 0 < self.quota_cooldown_s <= self.max_quota_cooldown_s < math.inf
            and 1 <= self.multiplier < math.inf
        )
        if not is_sound:
            raise ConfigError(
                "expected failure_threshold and multiplier to be at least 1, and "
                f"0 < base_cooldown_s <= max_cooldown_s, likewise those of quotas, got {self}"
            )

    def cooldowns_ms(self, health: Health) -> tuple[float, float]:
        """Give how long the first bench is, and the longest."""
        if health == "bench_provider":
            return self.quota_cooldown_s * 1000, self.max_quota_cooldown_s * 1000
        return self.base_cooldown_s * 1000, self.max_cooldown_s * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """Leave to ask a target; to be given back by ``report`` or ``recover``.

    Attributes:
        target: ``provider/model``.
        token: names it.
        entered_at: by the store's clock, in seconds; 0 if nobody could be asked for leave.
        probes: the entries that this call tries for all others.
    """

    target: str
    token: str
    entered_at: float = 0.0
    probes: tuple[str, ...] = ()

    @property
    def entered_ms(self) -> int:
        """By the store's clock."""
        return round(self.entered_at * 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Benched:
    """The target is not to be asked.

    Attributes:
        left_s: for so many seconds.
        is_probed: its bench is over, and another call is trying it.
    """

    left_s: float
    is_probed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """How a target or a provider is that has failed of late.

    Attributes:
        name: ``provider/model``, or ``provider`` for all its models.
        failures: in a row, since its last bench.
        cooldown_s: how long its last bench was at first; 0 if it has not been benched.
        left_s: its bench goes on for so many seconds; 0 if it is over.
        is_tried: its bench is over, and a call is trying it.
    """

    name: str
    failures: int
    cooldown_s: float
    left_s: float
    is_tried: bool

    @property
    def state(self) -> State:
        """Say it in one word; ``due`` is for the next call to try."""
        if self.left_s > 0:
            return "benched"
        if self.is_tried:
            return "tried"
        return "due" if self.cooldown_s else "failing"


class HealthStore(Protocol):
    """Keeps the health of targets; shared by all who have the same store."""

    def enter(self, target: str, *, probe_s: float, is_alone: bool = False) -> Pass | Benched:
        """Ask for leave to ask a target.

        A probe that says nothing for ``probe_s`` seconds is given up. ``is_alone`` is for a call
        that has nobody else to ask: it is never kept out, for its lane holds calls back.
        """

    def report(
        self, given: Pass, health: Health, *, retry_after_s: float | None = None
    ) -> Benched | None:
        """Tell of a failure; gives the bench that the target is on then.

        May be told again under the same leave, for a retry. ``none`` just gives the leave back.
        """

    def recover(self, given: Pass) -> bool:
        """Tell of a success; says whether it ended a bench."""


def names_of(target: str) -> tuple[str, str]:
    """Name the entries of a provider and its target: any text, shortened to 256 bytes."""
    return fitting(target.partition("/")[0]), fitting(target)


def name_for(target: str, health: Health) -> str:
    """Name the entry that a failure is entered in."""
    provider, own = names_of(target)
    return provider if health in {"bench_provider", "count_provider"} else own


def asked_ms(retry_after_s: float | None) -> float:
    """Trust what a provider asked for within bounds; 0 = nothing."""
    if retry_after_s is None or not 0 < retry_after_s < math.inf:
        return 0.0
    return min(retry_after_s, MAX_RETRY_AFTER_S) * 1000


def probe_ms(probe_s: float) -> float:
    """Bound the time of a probe."""
    return min(max(probe_s, 0.001), MAX_PROBE_S) * 1000
