"""The demo's figures, from what each call's own result says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Served:
    """One call that has been answered; ``published_at`` in seconds since the epoch."""

    caller: str
    published_at: float
    wait_s: float

    @property
    def started_at(self) -> float:
        """When it started to run."""
        return self.published_at + self.wait_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One run of the load under one policy.

    Attributes:
        served: every answered call.
        failed: calls that ended with an error, or not at all.
        highest: most calls at once that the HTTP server saw.
        requests: how many requests it got.
        elapsed_s: from the first publish to the last result.
    """

    policy: str
    served: tuple[Served, ...]
    failed: int
    highest: int
    requests: int
    elapsed_s: float

    def waits_s(self, caller: str) -> list[float]:
        """Give a caller's waits, shortest first."""
        return sorted(call.wait_s for call in self.served if call.caller == caller)

    @property
    def jain(self) -> float:
        """Jain's index of what the callers got while all of them had calls waiting."""
        return jain(service_while_all_wait(self.served).values())


def percentile(values: Sequence[float], percent: float) -> float:
    """Give the nearest-rank percentile of sorted values; nan of none."""
    if not values:
        return math.nan
    return values[max(0, math.ceil(len(values) * percent / 100) - 1)]


def jain(shares: Iterable[float]) -> float:
    """Give Jain's fairness index: 1 if all got the same, 1/n if one got everything."""
    got = list(shares)
    squares = len(got) * sum(share * share for share in got)
    return sum(got) ** 2 / squares if squares else math.nan


def service_while_all_wait(served: Sequence[Served]) -> dict[str, float]:
    """Count each caller's starts between the last publish and the first caller's last start.

    In that time every caller had calls waiting; all have weight 1 and each call costs 1.
    """
    callers = {call.caller for call in served}
    begin = max((call.published_at for call in served), default=0.0)
    last_starts = (max(c.started_at for c in served if c.caller == caller) for caller in callers)
    end = min(last_starts, default=0.0)
    started = Counter(call.caller for call in served if begin < call.started_at < end)
    return {caller: float(started[caller]) for caller in callers}
