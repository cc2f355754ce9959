"""What a chaos run does, and how often."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from celery_lanes.errors import ConfigError

RABBITMQ = "rabbitmq"
"""In place of a broker's URL: a RabbitMQ of the run's own."""

CALLERS = ("heavy", "alice", "bob", "carol", "dave")
HEAVY_SHARE = 0.4
"""The part of all calls that the first caller publishes; the others share the rest."""

LONG_SHARE = 0.004
"""The part of the calls that last longer than a lease does unrenewed."""

SPARE_S = 5.0
"""How long after its lease has lapsed a call may have to wait for its turn."""

USE = 0.5
"""The part of the lane's time that the load takes if nothing goes wrong."""


@dataclass(frozen=True, kw_only=True)
class ChaosOptions:
    """The load, what serves it, and what befalls it.

    Attributes:
        broker: an outside broker's URL, which is cut but never restarted; ``rabbitmq`` = an
            embedded RabbitMQ; ``None`` = an embedded Valkey.
        store: an outside store's URL; ``None`` = an embedded Valkey.
        minutes: how long faults happen; starting and draining come on top.
        seed: reproduces the load and the plan of faults.
        calls: task messages; ``None`` = as many as keep the lane half busy.
        least_ms: how long the quickest call takes.
        most_ms: how long the slowest call takes, but for the few long ones.
        cap: slots of the lane.
        processes: pool processes of each worker.
        intake: the lane's way in.
        lease_ttl_s: how long a silent worker keeps its slots.
        kills: how often a worker is killed; ``None`` = by the minutes. So are the other faults.
        stops: how often a worker is told to stop, warmly or coldly.
        pauses: how often a worker, or one of its processes, is stopped for longer than a lease.
        cuts: how often all connections to the store or the broker are cut.
        losses: how often all answers on the way are lost.
        skew_s: how far a worker's clock may be off, either way; 0 = not at all.
        jumps: how often a worker's clock jumps.
        json: where the report is written to, besides the screen.
        logs: a folder that keeps the workers' logs.
    """

    broker: str | None = None
    store: str | None = None
    minutes: float = 2.0
    seed: int = 1
    calls: int | None = None
    least_ms: int = 20
    most_ms: int = 200
    cap: int = 6
    workers: int = 3
    processes: int = 4
    intake: str = "store"
    lease_ttl_s: float = 5.0
    kills: int | None = None
    stops: int | None = None
    pauses: int | None = None
    store_restarts: int | None = None
    broker_restarts: int | None = None
    cuts: int | None = None
    losses: int | None = None
    producer_kills: int | None = None
    skew_s: float = 30.0
    jumps: int | None = None
    json: Path | None = None
    logs: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.least_ms > self.most_ms:
            raise ConfigError(
                f"expected least_ms to be at most {self.most_ms}, got {self.least_ms}"
            )
        for name in self.outside:
            if getattr(self, f"{name}_restarts"):
                raise ConfigError(f"expected no {name} restarts: your own {name} is only cut off")
        if self.jumps and not self.skew_s:
            raise ConfigError(f"expected no jumps of true clocks (skew 0), got {self.jumps}")

    @property
    def outside(self) -> dict[str, str]:
        """Give the URLs of the user's own servers, which are never restarted, by what they are."""
        urls = {"store": self.store, "broker": None if self.broker == RABBITMQ else self.broker}
        return {name: url for name, url in urls.items() if url}

    @property
    def duration_s(self) -> float:
        """How long faults happen."""
        return self.minutes * 60

    @property
    def mean_s(self) -> float:
        """How long a call takes on average."""
        return (self.least_ms + self.most_ms) / 2000 + LONG_SHARE * self.long_s

    @property
    def long_s(self) -> float:
        """How long a long call takes."""
        return 1.5 * self.lease_ttl_s

    @cached_property
    def total(self) -> int:
        """Task messages to publish."""
        if self.calls is not None:
            return self.calls
        return round(USE * self.duration_s * self.cap / self.mean_s)

    @property
    def drain_s(self) -> float:
        """How long the calls may take to end once all faults are over.

        All of them one lease after another's loss, and the whole load at half the lane's speed.
        """
        return 60 + 6 * self.lease_ttl_s + 2 * self.total * self.mean_s / self.cap

    @property
    def recovery_s(self) -> float:
        """How soon a dead worker's calls run again."""
        return self.lease_ttl_s + SPARE_S
