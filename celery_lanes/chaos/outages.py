"""Times in which nobody could reach the store, or in which workers had no broker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from celery_lanes.chaos.faults import Struck
from celery_lanes.chaos.plan import Kind

STORE = {Kind.STORE_RESTART, Kind.STORE_CUT}
BROKER = {Kind.BROKER_RESTART, Kind.BROKER_CUT}

Time = tuple[float, float]


def store_away(journal: Iterable[Struck]) -> list[Time]:
    """List the store's outages."""
    return [(each.from_s, each.until_s) for each in journal if each.kind in STORE]


def broker_away(journal: Iterable[Struck]) -> list[Time]:
    """List the times in which workers waited for the broker.

    Such a worker starts no calls: its event loop waits. Celery asks again after 2 s, 4 s more,
    6 s more and so on, whenever the broker may be back.
    """
    return [
        (each.from_s, each.from_s + _asked_again_s(each.until_s - each.from_s))
        for each in journal
        if each.kind in BROKER
    ]


def spent_s(times: Sequence[Time], from_s: float, until_s: float) -> float:
    """Sum up the part of a time in which any of these was the case."""
    return sum(end_s - begin_s for begin_s, end_s in _united(times, from_s, until_s))


def _united(times: Sequence[Time], from_s: float, until_s: float) -> Iterator[Time]:
    done_s = from_s
    for begin_s, end_s in sorted(times):
        if min(end_s, until_s) > max(begin_s, done_s):
            yield max(begin_s, done_s), min(end_s, until_s)
        done_s = max(done_s, end_s)


def _asked_again_s(outage_s: float) -> float:
    tries = 0
    while tries * (tries + 1) < outage_s:
        tries += 1
    return tries * (tries + 1)
