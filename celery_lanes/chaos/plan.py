"""The plan of faults: what befalls whom, when, for how long. A seed gives the same plan again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from random import Random

from celery_lanes.chaos.options import ChaosOptions

FIRST = 0.03
LAST = 0.97
"""The part of the run in which faults begin."""


class Kind(str, Enum):
    """What can happen."""

    KILL = "worker killed"
    TERM = "worker stopped warmly"
    QUIT = "worker stopped coldly"
    PAUSE = "worker paused"
    PAUSE_CHILD = "pool process paused"
    CLOCK_JUMP = "worker's clock jumped"
    PRODUCER_KILL = "producer killed"
    STORE_RESTART = "store restarted"
    STORE_CUT = "store cut off"
    STORE_LOSS = "store's answers lost"
    BROKER_RESTART = "broker restarted"
    BROKER_CUT = "broker cut off"
    BROKER_LOSS = "broker's answers lost"

    @property
    def target(self) -> str:
        """Say what it happens to: a worker, the producer, the store or the broker."""
        return "worker" if self is Kind.PAUSE_CHILD else self.value.split()[0].removesuffix("'s")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: when it begins, what it is, which worker it hits, and how long it lasts.

    A server is killed (``is_hard``) or told to stop. A clock jumps to
    ``offset_s`` off the true time.
    """

    at_s: float
    kind: Kind
    worker: int = 0
    for_s: float = 0.0
    is_hard: bool = False
    offset_s: float = 0.0

    def __str__(self) -> str:
        """Write it as a line of the plan."""
        whom = f" {self.worker + 1}" if self.kind.target == "worker" else ""
        if self.kind is Kind.CLOCK_JUMP:
            return f"{self.at_s:7.1f} s  {self.kind.value}{whom}, to {self.offset_s:+.1f} s"
        how = ", hard" if self.is_hard else ""
        return f"{self.at_s:7.1f} s  {self.kind.value}{whom}, {self.for_s:.1f} s{how}"


def planned(options: ChaosOptions) -> tuple[Fault, ...]:
    """Draw the plan."""
    dice = Random(f"plan {options.seed}")  # noqa: S311 # to be reproduced, not a secret
    faults = [
        _drawn(kind, (number + dice.random()) / count, options, dice)
        for kind, count in counts(options).items()
        for number in range(count)
    ]
    return tuple(sorted(faults, key=lambda fault: fault.at_s))


def offsets_s(options: ChaosOptions, worker: int) -> Iterator[float]:
    """Draw how far the clock is off with which each worker in this place starts, without end."""
    dice = Random(f"clock {options.seed} {worker}")  # noqa: S311 # to be reproduced, not a secret
    while True:
        yield _offset_s(options, dice)


def counts(options: ChaosOptions) -> dict[Kind, int]:
    """Say how often each fault happens: as the options say, else by the length of the run."""
    return {kind: count for kind, count in _counts(options) if count}


def _counts(options: ChaosOptions) -> Iterator[tuple[Kind, int]]:
    often = _Often(options.minutes)
    store, broker = (0 if name in options.outside else 0.5 for name in ("store", "broker"))
    yield Kind.KILL, often(options.kills, 4)
    yield from _halves(often(options.stops, 2), Kind.TERM, Kind.QUIT)
    yield from _halves(often(options.pauses, 2), Kind.PAUSE, Kind.PAUSE_CHILD)
    yield Kind.PRODUCER_KILL, often(options.producer_kills, 1)
    yield Kind.STORE_RESTART, often(options.store_restarts, store)
    yield Kind.BROKER_RESTART, often(options.broker_restarts, broker)
    yield from _halves(often(options.cuts, 2), Kind.STORE_CUT, Kind.BROKER_CUT)
    yield from _halves(often(options.losses, 12), Kind.STORE_LOSS, Kind.BROKER_LOSS)
    yield Kind.CLOCK_JUMP, often(options.jumps, 2 if options.skew_s else 0)


@dataclass(frozen=True, slots=True)
class _Often:
    minutes: float

    def __call__(self, given: int | None, per_minute: float) -> int:
        if given is not None:
            return given
        return max(1, round(self.minutes * per_minute)) if per_minute else 0


def _halves(count: int, first: Kind, second: Kind) -> Iterator[tuple[Kind, int]]:
    yield first, -(-count // 2)
    yield second, count // 2


def _drawn(kind: Kind, place: float, options: ChaosOptions, dice: Random) -> Fault:
    return Fault(
        at_s=round(options.duration_s * (FIRST + place * (LAST - FIRST)), 2),
        kind=kind,
        worker=dice.randrange(options.workers) if kind.target == "worker" else 0,
        for_s=round(_length(kind, options.lease_ttl_s, dice), 2),
        is_hard=kind in {Kind.STORE_RESTART, Kind.BROKER_RESTART} and dice.random() < 0.5,  # noqa: PLR2004 # one in two
        offset_s=_offset_s(options, dice) if kind is Kind.CLOCK_JUMP else 0.0,
    )


def _offset_s(options: ChaosOptions, dice: Random) -> float:
    return round(dice.uniform(-options.skew_s, options.skew_s), 3)


def _length(kind: Kind, lease_s: float, dice: Random) -> float:
    """Draw how long it lasts: an outage is short or outlives a lease; a pause always does."""
    if kind in {Kind.PAUSE, Kind.PAUSE_CHILD}:
        return dice.uniform(1.2, 1.8) * lease_s
    if kind in {Kind.STORE_LOSS, Kind.BROKER_LOSS, Kind.CLOCK_JUMP}:
        return 0.0
    if kind.target in {"store", "broker"}:
        return dice.choice([dice.uniform(0.1, 2.0), dice.uniform(1.1, 1.5) * lease_s])
    return dice.uniform(0.0, 2.0)
