"""How much a worker tells the store at once."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

from celery_lanes.store.base import MAX_BATCH_BYTES


def fitting(messages: Iterable[bytes]) -> int:
    """Count those of the first messages that go into one request; one does in any case."""
    sizes = accumulate(map(len, messages))
    return max(1, sum(size <= MAX_BATCH_BYTES for size in sizes))
