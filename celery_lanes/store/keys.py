"""The names of keys and members; what is said here once holds for every script."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

from celery_lanes.store.rules import Policy

EVERYBODY = "*"
"""The one account of a fifo lane; a quoted caller never looks like this."""

KINDS = (
    "calls",  # HASH: r:<call> -> record, e:<call> -> envelope, t:<task id> -> its calls
    "queue",  # ZSET, score 0: account:priority:seq:call, the waiting calls
    "ring",  # ZSET: seq:account by start tag, those who wait and are not set aside; see _ring.lua
    "tags",  # ZSET: account by finish tag, those not in the ring
    "marks",  # HASH, in a lane of levels: tag of an account at a rank, clock of a rank
    "refill",  # ZSET: account by the time its bucket lets it return
    "delayed",  # ZSET: call by its due time
    "leases",  # ZSET: running call that has a slot by the lease clock's time of expiry
    "victims",  # ZSET: granted:call by priority, running calls that may be marked to make room
    "closing",  # ZSET: the same of what has none: closing calls, 0 = nobody's; established ones
    "idle",  # ZSET: worker by the time since when it waits for a call
    "workers",  # ZSET: worker by the time it was last seen
    "holders",  # ZSET: holder of tickets by the lease clock's time it was last heard of
    "settled",  # ZSET: call by the time until which it is remembered
    "forbidden",  # ZSET: task id by the time until which it is closed as a broker brings it
    "dead",  # ZSET: record and envelope of a dead letter by the time it was closed
    "meta",  # HASH: rules, counters, virtual time, buckets, last replies, holders' news
)

HEALTH_KINDS = (
    "benches",  # HASH: target or provider -> how it is that has failed of late
    "fading",  # ZSET: target or provider by the time it is forgotten
)

HEALTH = "*health"
"""Stands for a lane in the keys of the health of LLM targets; no lane may have that name."""


@lru_cache(maxsize=1000)
def quoted(text: str) -> str:
    """Quote any text so that it holds no separator."""
    return quote(text, safe="")


def account_of(policy: Policy, caller: str) -> str:
    """Name the account that a caller's calls are charged to."""
    return EVERYBODY if policy is Policy.FIFO else quoted(caller)


def checked_name(name: str, what: str) -> str:
    """Refuse a lane name or prefix that would break the hash tag."""
    if not name or "{" in name or "}" in name:
        raise ValueError(f"expected {what} to be a name without braces, got {name!r}")
    return name


def random_token() -> str:
    """Make a name for the leases of one request: a counter might come back after a failover."""
    return os.urandom(16).hex()


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one prefix. All keys of a lane carry one hash tag: one slot of a cluster."""

    prefix: str

    def __post_init__(self) -> None:
        checked_name(self.prefix, "the store's prefix")

    def of_lane(self, lane: str, kinds: tuple[str, ...]) -> list[str]:
        """Give a lane's keys of these kinds."""
        tag = f"{{{self.prefix}:{lane}}}:"
        return [tag + kind for kind in kinds]

    def of_reply(self, task_id: str) -> tuple[str, str]:
        """Give the keys of a reply's transcript and of the wish to stop it."""
        tag = f"{{{self.prefix}:reply:{quoted(task_id)}}}:"
        return f"{tag}transcript", f"{tag}stop"

    @property
    def lanes(self) -> str:
        """Give the key of the set of lane names."""
        return f"{self.prefix}:lanes"

    @property
    def channel(self) -> str:
        """Give what a worker's wake-up channel begins with."""
        return f"{self.prefix}:wake:"
