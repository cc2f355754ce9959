"""How far off the predicted starts are: all that waits is asked for in mid-run, then it runs."""

from __future__ import annotations

from itertools import chain
from statistics import median
from typing import NamedTuple

from kinds import KINDS
from rig import Foretold, open_rig

LANES, SLOTS, ROUNDS = KINDS["lanes"], 4, 6
STEADY = {"ann": 80, "bob": 80, "cid": 80}
SKEWED = {"heavy": 200, "middle": 80, "light": 20, "rare": 5}


class Accuracy(NamedTuple):
    """Errors are shares of the true wait, medians of all calls and of each round's.

    The calls of a round err together, by what the lane's last service times happened to be.
    """

    error: float
    best_round: float
    worst_round: float
    within_range: float


def steady() -> Accuracy:
    """Foretell calls of 160 to 240 ms of three equal callers."""
    return accuracy(STEADY, 0.2, long_share=0.0)


def skewed() -> Accuracy:
    """Foretell calls of 80 to 120 ms, one in ten of them ten times as long, of unequal callers."""
    return accuracy(SKEWED, 0.1, long_share=0.1)


def accuracy(backlogs: dict[str, int], seconds: float, *, long_share: float) -> Accuracy:
    """Compare the middles of the ranges with what the calls then waited."""
    rounds = [one_round(backlogs, seed, seconds, long_share) for seed in range(ROUNDS)]
    every = list(chain(*rounds))
    errors = [median(map(error, foretold)) for foretold in rounds]
    within = sum(one.low_s <= one.wait_s <= one.high_s for one in every) / len(every)
    return Accuracy(median(map(error, every)), min(errors), max(errors), within)


def one_round(
    backlogs: dict[str, int], seed: int, seconds: float, long_share: float
) -> list[Foretold]:
    """Run half of the backlogs, until the warm-up calls are forgotten, and foretell the rest."""
    with open_rig(LANES, slots=SLOTS, processes=SLOTS) as rig:
        foretold = rig.foretell(backlogs, seed, seconds, 0.2, long_share)
    return [one for one in foretold if one.wait_s > 0]  # it may start while it is asked for


def error(one: Foretold) -> float:
    """Give how far off the middle of a range is, as a share of the wait."""
    return abs((one.low_s + one.high_s) / 2 - one.wait_s) / one.wait_s
