"""What the demo runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

HEAVY = "heavy"
LIGHT = ("alice", "bob")
LIGHT_CALLS = 15
SPARE_PROCESSES = 2
"""Pool processes beyond the cap: without the lane, the cap would be exceeded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """The load and what serves it; ``service_ms`` is how long the stub takes for a call."""

    calls: int = 300
    cap: int = 4
    service_ms: int = 100
    workers: int = 2

    @property
    def load(self) -> Mapping[str, int]:
        """Calls by caller, in the order in which they are queued: the heavy one first."""
        return {HEAVY: self.calls, **dict.fromkeys(LIGHT, LIGHT_CALLS)}

    @property
    def total(self) -> int:
        """Calls of one run."""
        return sum(self.load.values())

    @property
    def processes(self) -> int:
        """Pool processes of each worker; more in total than the cap has slots."""
        return -(-(self.cap + SPARE_PROCESSES) // self.workers)

    @property
    def ideal_s(self) -> float:
        """How long one run takes if no slot is ever idle."""
        return self.total * self.service_ms / 1000 / self.cap

    @property
    def deadline_s(self) -> float:
        """When a run is given up."""
        return 4 * self.ideal_s + 20
