"""What a lane costs with a thousand and with a million calls waiting: time of each verb, memory.

    python benchmarks/scale.py [--waiting 1000000] [--callers 10000]

One Valkey, one client. The times are of the server's own work (INFO commandstats) and of the whole
round trip; each is the median of 2,000. The two fillings alternate with nothing else in between.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator

import redis
from typing_extensions import Self

from celery_lanes.store.attempts import Release
from celery_lanes.store.calls import Call
from celery_lanes.store.connect import open_store
from celery_lanes.store.rules import LaneRules, Policy
from celery_lanes.testing.embedded import EmbeddedValkey

FEW, TIMED, ENVELOPE = 1_000, 2_000, b"x" * 800


def main() -> None:
    """Fill two servers, time both, print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--waiting", type=int, default=1_000_000)
    options.add_argument("--callers", type=int, default=10_000)
    given = options.parse_args()
    with Lane(FEW, min(FEW, given.callers)) as few, Lane(given.waiting, given.callers) as many:
        seen = [few.measure(), many.measure(), few.measure(), many.measure()]
        sys.stdout.write(table(given.waiting, seen[::2], seen[1::2]))
        sys.stdout.write(
            f"\nmemory above the envelope: {many.bytes_per_call:,.0f} bytes per call\n"
        )
        many.drain()
        sys.stdout.write(f"keys left when all calls have ended: {', '.join(many.keys())}\n")


class Lane:
    """One server with so many calls waiting."""

    def __init__(self, waiting: int, callers: int) -> None:
        self._waiting, self._callers = waiting, callers
        self._server = EmbeddedValkey()
        self._number = self._request = 0

    def __enter__(self) -> Self:
        """Fill it."""
        self._server.__enter__()
        self._client = redis.Redis.from_url(self._server.url())
        self._store = open_store(self._server.url())
        self._store.configure("a", LaneRules(max_concurrent=4, dedupe_ttl_ms=1))
        empty = self._client.info("memory")["used_memory"]
        while self._number < self._waiting:
            self.admit(500)
        self.bytes_per_call = (
            self._client.info("memory")["used_memory"] - empty
        ) / self._number - len(ENVELOPE)
        return self

    def __exit__(self, *exc: object) -> None:
        """End the server."""
        self._server.__exit__(None, None, None)

    def admit(self, count: int = 1) -> None:
        """Admit calls of callers in turn."""
        self._store.admit("a", list(self._calls(count)), policy=Policy.FAIR)

    def next(self, want: int = 1) -> None:
        """Grant calls and end them with the next request."""
        self._request += 1
        self._turn = self._store.next(
            "a", worker="w", request=self._request, want=want, releases=self._ends
        )
        self._ends = [Release(grant.call, grant.token) for grant in self._turn.grants]

    _ends: list[Release] = []  # noqa: RUF012 # replaced, never changed

    def measure(self) -> dict[str, float]:
        """Time admit and next, one after the other, so that as many wait afterwards."""
        spent: dict[str, list[float]] = {"admit": [], "next": []}
        for _ in range(TIMED):
            for name, verb in (("admit", self.admit), ("next", self.next)):
                began = time.perf_counter()
                verb()
                spent[name].append((time.perf_counter() - began) * 1e6)
        return {name: statistics.median(times) for name, times in spent.items()}

    def drain(self) -> None:
        """End all calls, then let a reaper forget them."""
        self.next(4)
        while self._turn.grants:
            self.next(4)
        while self._client.zcard("{lanes:a}:settled"):
            self._store.reap("a")

    def keys(self) -> list[str]:
        """Name what is left, and how much is in it."""
        return sorted(key.decode() for key in self._client.scan_iter())

    def _calls(self, count: int) -> Iterator[Call]:
        for _ in range(count):
            self._number += 1
            n = self._number
            yield Call(
                id=f"{n:032x}", task_id=f"0a1b2c3d-0000-4000-8000-{n:012x}", task="shop.summarise",
                caller=f"customer-{n % self._callers}", envelope=ENVELOPE,
            )  # fmt: skip


def table(waiting: int, few: list[dict[str, float]], many: list[dict[str, float]]) -> str:
    """Lay out medians and ratios."""
    lines = [f"| us, p50 | {FEW:,} waiting | {waiting:,} waiting | ratio |", "|---|---|---|---|"]
    for verb in few[0]:
        low, high = (min(seen[verb] for seen in side) for side in (few, many))
        lines.append(f"| {verb} | {low:.0f} | {high:.0f} | {high / low:.2f} x |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
