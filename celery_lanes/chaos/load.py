"""The load: which calls are published, when, and what the producer was told about them.

The same seed gives the same load. The producer is a process of its own, which may be killed: it
begins again at the first item that is not in its file, which holds what it was told so far.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from random import Random

from celery_lanes.chaos.options import CALLERS, HEAVY_SHARE, LONG_SHARE, ChaosOptions

CHAIN_STEPS = 3
CHORD_PARTS = 3
STEPS = 3
LONG_STEP_MS = 250
"""A body that has lost its lease and goes on is seen at its next step."""

BURST = 40
"""Calls that every caller publishes at once now and then, so that all of them have to wait."""

BURST_EVERY_S = 20.0


class Shape(str, Enum):
    """What one publish brings."""

    LATE = "late"
    EARLY = "early"
    STEPS = "steps"
    LONG = "long"
    ETA = "eta"
    CHAIN = "chain"
    CHORD = "chord"

    @property
    def messages(self) -> int:
        """Task messages that come of it."""
        return {Shape.CHAIN: CHAIN_STEPS, Shape.CHORD: CHORD_PARTS + 1}.get(self, 1)


SHARES = {
    Shape.LATE: 70.0,
    Shape.EARLY: 12.0,
    Shape.STEPS: 5.0,
    Shape.LONG: 100 * LONG_SHARE,
    Shape.ETA: 7.0,
    Shape.CHAIN: 4.0,
    Shape.CHORD: 2.0,
}


@dataclass(frozen=True, slots=True)
class Item:
    """One publish; ``at_s`` is since the producer's begin.

    A call asks the observer so many times (``steps``), ``service_ms`` each.
    """

    number: int
    at_s: float
    shape: Shape
    caller: str
    service_ms: int
    steps: int = 1


@dataclass(frozen=True, slots=True)
class Published:
    """What the producer was told: accepted, or the error.

    ``ids`` are the task ids, in order; ``group`` is the id of a chord's header.
    """

    number: int
    shape: Shape
    caller: str
    ids: tuple[str, ...]
    accepted_s: float
    error: str = ""
    group: str = ""

    def to_line(self) -> str:
        """Write it into the producer's file."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Published:
        """Read it again."""
        told = json.loads(line)
        return cls(**{**told, "shape": Shape(told["shape"]), "ids": tuple(told["ids"])})


def planned_load(options: ChaosOptions) -> list[Item]:
    """Draw the load: steady, with a burst of all callers now and then."""
    dice = Random(f"load {options.seed}")  # noqa: S311 # to be reproduced, not a secret
    shapes = list(_shapes(options.total, dice))
    every_s = options.duration_s / max(1, len(shapes))
    return [_item(number, shape, every_s, options, dice) for number, shape in enumerate(shapes)]


def read_published(path: Path) -> list[Published]:
    """Read what the producer was told; the last line may have been cut short by its end."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [Published.from_line(line) for line in lines if line.endswith("\n")]


def accepted_ids(published: Iterable[Published]) -> set[str]:
    """Collect the task ids that must end."""
    return {task_id for told in published if not told.error for task_id in told.ids}


def _shapes(total: int, dice: Random) -> Iterator[Shape]:
    left = total
    while left > 0:
        shape = dice.choices(list(SHARES), list(SHARES.values()))[0]
        shape = shape if shape.messages <= left else Shape.LATE
        left -= shape.messages
        yield shape


def _caller_shares() -> list[float]:
    others = (1 - HEAVY_SHARE) / (len(CALLERS) - 1)
    return [HEAVY_SHARE, *[others] * (len(CALLERS) - 1)]


def _burst_at(at_s: float, every_s: float) -> float:
    """Draw a burst's calls together: those that would come soon after its begin come at once."""
    since_s = at_s % BURST_EVERY_S
    burst_s = BURST * len(CALLERS) * every_s
    return at_s - since_s if since_s < min(burst_s, BURST_EVERY_S / 2) else at_s


def _item(number: int, shape: Shape, every_s: float, options: ChaosOptions, dice: Random) -> Item:
    steps = _steps(shape, options)
    whole_ms = dice.randint(options.least_ms, options.most_ms)
    return Item(
        number=number,
        at_s=_burst_at(number * every_s, every_s),
        shape=shape,
        caller=dice.choices(CALLERS, _caller_shares())[0],
        service_ms=LONG_STEP_MS if shape is Shape.LONG else max(1, whole_ms // steps),
        steps=steps,
    )


def _steps(shape: Shape, options: ChaosOptions) -> int:
    if shape is Shape.LONG:
        return round(1000 * options.long_s / LONG_STEP_MS)
    return STEPS if shape is Shape.STEPS else 1
