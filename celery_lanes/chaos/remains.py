"""What the store holds of the run; in the end that should be nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from redis import Redis
from typing_extensions import Self

from celery_lanes.chaos.options import CALLERS
from celery_lanes.store.base import Snapshot, Store
from celery_lanes.store.connect import open_store
from celery_lanes.store.keys import KINDS, Keys

COUNTS = ("running", "waiting", "delayed", "closing")
LETTERS = "dead"
"""Dead letters are kept, with their callers."""


class Remains:
    """Reads the run's lane in the store, past the proxy; a context manager that clears it away."""

    def __init__(self, url: str, prefix: str, lane: str) -> None:
        self._lane = lane
        self._keys = Keys(prefix)
        self._store: Store = open_store(url, prefix=prefix)
        self._redis: Any = Redis.from_url(url)

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Leave no key behind in a user's store."""
        try:
            self._redis.delete(*self._keys.of_lane(self._lane, KINDS), self._keys.lanes)
        finally:
            self._redis.close()
            self._store.disconnect()

    def snapshot(self) -> Snapshot:
        """Read the lane."""
        return self._store.snapshot(self._lane)

    def left(self) -> Iterator[str]:
        """Say which calls the lane still has, and which keys still speak of a caller."""
        snapshot = self.snapshot()
        for name in COUNTS:
            if count := getattr(snapshot, name):
                yield f"{count} {name}"
        for kind in KINDS:
            if kind != LETTERS and (names := self._callers_in(kind)):
                yield f"callers in {kind}: {', '.join(names)}"

    def _callers_in(self, kind: str) -> list[str]:
        (key,) = self._keys.of_lane(self._lane, (kind,))
        held = b" ".join(self._members(key))
        return [caller for caller in CALLERS if caller.encode() in held]

    def _members(self, key: str) -> list[bytes]:
        if self._redis.type(key) == b"hash":
            return [part for pair in self._redis.hgetall(key).items() for part in pair]
        return list(self._redis.zrange(key, 0, -1)) if self._redis.exists(key) else []
