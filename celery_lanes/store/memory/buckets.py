"""The wall-clock buckets of one lane of the memory store: of the lane, and of some callers."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from celery_lanes.fairness.callers import passing, ready_at, rescaled, spent
from celery_lanes.store.keys import quoted
from celery_lanes.store.live import Live
from celery_lanes.store.rules import Bucket, LaneRules, Limit

RATE, TOKENS = " rate", " tokens"
"""Names of the lane's own buckets; a quoted account has no space in it."""


@dataclass(slots=True)
class Buckets:
    """Buckets by name, and when each is full again. A name without a bucket lets all pass."""

    by_name: dict[str, Bucket] = field(default_factory=dict)
    full_at: dict[str, float] = field(default_factory=dict)

    def set_rules(self, rules: LaneRules | None, live: Live, now: int) -> None:
        """Take what holds now; what has been spent stays spent, and refills at the new rate."""
        buckets = {quoted(name): live.caller(name, rules).rate for name in live.names(rules)}
        buckets[RATE] = live.limit(Limit.RATE, rules)
        buckets[TOKENS] = live.limit(Limit.TOKENS, rules)
        held = {name: bucket for name, bucket in buckets.items() if bucket is not None}
        self.full_at = {
            name: rescaled(
                at, now, was_ms=_interval_ms(self.by_name[name]), is_ms=_interval_ms(held[name])
            )
            for name, at in self.full_at.items()
            if name in held
        }
        self.by_name = held

    def account_ready_at(self, account: str, now: int) -> float:
        """Say when the account's own bucket lets one call pass.

        No later than if the bucket were empty now: the clock may have gone back.
        """
        if (bucket := self.by_name.get(account)) and account in self.full_at:
            full_at_last = now + bucket.burst * _interval_ms(bucket)
            self.full_at[account] = min(self.full_at[account], full_at_last)
        return self._ready_at(account, 1.0)

    def lane_ready_at(self, cost: float) -> float:
        """Say when the lane's buckets let a call of this cost pass."""
        return max(self._ready_at(RATE, 1.0), self._ready_at(TOKENS, cost))

    def account_passing(self, account: str, now: int) -> float:
        """Count the calls that the account's own bucket lets pass now."""
        return self._passing(account, now)

    def lane_passing(self, now: int) -> float:
        """Count the calls of cost 1 that the lane's buckets let pass now."""
        return min(self._passing(RATE, now), self._passing(TOKENS, now))

    def passes_at(self, name: str, *, after: float, cost: float, now: int) -> float:
        """Say when a bucket lets ``cost`` pass, if ``after`` is taken out of it before."""
        bucket = self.by_name.get(name)
        if bucket is None:
            return 0.0
        full_at, interval = self.full_at.get(name, 0.0), _interval_ms(bucket)
        full_at = spent(full_at, now, interval_ms=interval, cost=after)
        return ready_at(full_at, interval_ms=interval, burst=bucket.burst, cost=cost)

    def spend(self, account: str, cost: float, now: int) -> None:
        """Take a granted call's share out of every bucket."""
        for name, amount in ((account, 1.0), (RATE, 1.0), (TOKENS, cost)):
            if bucket := self.by_name.get(name):
                full_at, interval = self.full_at.get(name, 0.0), _interval_ms(bucket)
                self.full_at[name] = spent(full_at, now, interval_ms=interval, cost=amount)

    def correct(self, difference: float) -> None:
        """Take more, or less, cost out of the lane's bucket than was estimated."""
        if TOKENS in self.by_name and TOKENS in self.full_at:
            self.full_at[TOKENS] += difference * _interval_ms(self.by_name[TOKENS])

    def go_back(self, gap_ms: int) -> None:
        """Keep what was spent of the lane's buckets, by a clock that has gone back."""
        for name in {RATE, TOKENS} & self.full_at.keys():
            self.full_at[name] += gap_ms

    def _passing(self, name: str, now: int) -> float:
        bucket = self.by_name.get(name)
        if bucket is None:
            return inf
        full_at, interval = self.full_at.get(name, 0.0), _interval_ms(bucket)
        return passing(full_at, now, interval_ms=interval, burst=bucket.burst)

    def _ready_at(self, name: str, cost: float) -> float:
        bucket = self.by_name.get(name)
        if bucket is None:
            return 0.0
        full_at, interval = self.full_at.get(name, 0.0), _interval_ms(bucket)
        return ready_at(full_at, interval_ms=interval, burst=bucket.burst, cost=cost)


def _interval_ms(bucket: Bucket) -> float:
    return bucket.period_ms / bucket.count
