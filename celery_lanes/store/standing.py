"""Where a call stands: how many calls go before it, when it will start, and what holds it up.

Both stores read the same facts; what follows from them is said here once.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import floor, sqrt
from statistics import pstdev

from celery_lanes.store.calls import State

QUARTILE = 0.6745
"""In standard deviations, how far half of what is normally distributed is from its mean."""

NOWHERE = "no call of this task id is in the lane: it has ended, or was never published"


class Hold(str, Enum):
    """What holds a call up; if there are several, the first of these.

    RUNNING, CLOSING: nothing, it does not wait any more. DELAYED: it is not due yet. PAUSED: the
    lane starts nothing. CALLER_PAUSED: it starts nothing of its caller. NO_WORKER: none was heard
    of within ``lease_ttl``, or none has brought the lane's settings yet. PROVIDER_WAIT: the
    provider asked to wait. CALLER_RATE, LANE_RATE, LANE_TOKENS: a bucket lets it pass later than
    the slots would. NOTHING: a slot is free for it, and it starts as soon as a worker has room, of
    which the store knows nothing. SHARE: calls of other callers have their turn first. CAP: all
    slots are busy, and at most calls of its own caller go before it.
    """

    RUNNING = "running"
    CLOSING = "closing"
    DELAYED = "delayed"
    PAUSED = "paused"
    CALLER_PAUSED = "caller_paused"
    NO_WORKER = "no_worker"
    PROVIDER_WAIT = "provider_wait"
    CALLER_RATE = "caller_rate"
    LANE_RATE = "lane_rate"
    LANE_TOKENS = "lane_tokens"
    NOTHING = "nothing"
    SHARE = "share"
    CAP = "cap"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One consistent reading of a call and what is before it. What comes later is not foreseen.

    Attributes:
        lane: where it is.
        state: what has become of the call.
        own_ahead: calls of its caller that go before it; in a fifo lane, of all callers.
        others_ahead: calls of other callers that fair order serves before it, if each costs what
            the first one of its caller does, and nobody's bucket is empty.
        is_at_least: more than 250 callers go before it, and of those beyond only one call each is
            counted.
        is_fifo: all callers share one queue.
        paused: the lane starts nothing.
        caller_paused: the lane starts nothing of its caller.
        max_concurrent: slots in force; ``None`` if no worker has brought the lane's settings yet.
        provider_wait_ms: for how long the lane starts nothing, for its provider asked to wait.
        running: live leases of the lane.
        workers: those heard of within ``lease_ttl``.
        due_in_ms: until a delayed call may start.
        caller_rate_in_ms: until its caller's bucket lets it pass, after those ahead.
        lane_rate_in_ms: until the lane's bucket of calls does.
        lane_tokens_in_ms: until the lane's bucket of cost does.
        running_ms: for how long up to 100 of the running calls have run.
        served_ms: how long the last calls that ended well held their slots, up to 63; of those that
            end within 20 ms, the first one.
    """

    lane: str
    state: State
    own_ahead: int
    others_ahead: int
    is_at_least: bool
    is_fifo: bool
    paused: bool
    caller_paused: bool
    max_concurrent: int | None
    provider_wait_ms: int
    running: int
    workers: int
    due_in_ms: int
    caller_rate_in_ms: int
    lane_rate_in_ms: int
    lane_tokens_in_ms: int
    running_ms: tuple[int, ...]
    served_ms: tuple[int, ...]

    @property
    def ahead(self) -> int:
        """Count all calls that go before it."""
        return self.own_ahead + self.others_ahead

    @property
    def is_waiting(self) -> bool:
        """Say whether it is still to start."""
        return self.state in (State.WAITING, State.DELAYED)

    @property
    def eta_ms(self) -> tuple[int, int] | None:
        """Say in how long it starts, a range that half of the starts should be in.

        What runs takes as long as the quicker quarter, or the slower; those ahead take the mean.

        ``None`` if it has started or nobody can tell: the lane or the caller is paused, the lane
        has no slots, no worker is there, or no call of it has ended well yet.
        """
        low_ms, high_ms = self._turn_in_ms(1, most_ms=0), self._turn_in_ms(3, self._longest)
        is_known = self.is_waiting and self.workers and not self._is_paused
        if not is_known or low_ms is None or high_ms is None:
            return None
        least = max(self.due_in_ms, *self._buckets.values())
        return max(least, low_ms), max(least, high_ms)

    @property
    def wait_ms(self) -> int | None:
        """Say in how long it starts: by the mean time of those ahead, and the median of what runs.

        ``None`` if nobody can tell. Whether a worker is there is not asked.
        """
        turn_in_ms = self._turn_in_ms(2, self._longest)
        if self._is_paused or turn_in_ms is None:
            return None
        return max(turn_in_ms, *self._buckets.values())

    @property
    def hold(self) -> Hold:
        """Say what holds it up."""
        is_so = {
            Hold.RUNNING: self.state is State.RUNNING,
            Hold.CLOSING: self.state is State.CLOSING,
            Hold.DELAYED: self.due_in_ms > 0,
            Hold.PAUSED: self.paused,
            Hold.CALLER_PAUSED: self.caller_paused,
            Hold.NO_WORKER: not self.workers or self.max_concurrent is None,
            Hold.PROVIDER_WAIT: self.provider_wait_ms > 0,
            self._slowest: self._is_held_by_bucket,
            Hold.NOTHING: self.ahead < self._free,
            Hold.SHARE: self.others_ahead > 0,
        }
        return next((hold for hold, holds in is_so.items() if holds), Hold.CAP)

    @property
    def _is_paused(self) -> bool:
        return self.paused or self.caller_paused

    @property
    def _free(self) -> int:
        return (self.max_concurrent or 0) - self.running

    @property
    def _buckets(self) -> dict[Hold, int]:
        return {
            Hold.CALLER_RATE: self.caller_rate_in_ms,
            Hold.LANE_RATE: self.lane_rate_in_ms,
            Hold.LANE_TOKENS: self.lane_tokens_in_ms,
        }

    @property
    def _slowest(self) -> Hold:
        return max(self._buckets, key=self._buckets.__getitem__)

    @property
    def _is_held_by_bucket(self) -> bool:
        return self._buckets[self._slowest] > (self._turn_in_ms(3, self._longest) or 0)

    def _turn_in_ms(self, quartile: int, most_ms: int) -> int | None:
        """Say in how long a slot is free for it, by a quartile of what the calls may take.

        Slots serve in waves, ahead / slots of them; in the last one it takes the slot that so many
        of the running calls leave before. More may run than there are slots now. Waves begin when
        the provider wants calls again.
        """
        if self.ahead < self._free:
            return self.provider_wait_ms
        service_ms, slots = self._quartile(quartile), self.max_concurrent
        if not slots or service_ms is None:
            return None
        waves, number = divmod(self.ahead, slots)
        turn_in_ms = floor(waves * self._mean_ms(waves * slots, quartile)) if waves else 0
        number += self.running - slots
        if number < 0:
            return turn_in_ms + self.provider_wait_ms
        left = sorted(_left_ms(ran, service_ms, most_ms) for ran in self.running_ms)
        return turn_in_ms + max(left[number * len(left) // self.running], self.provider_wait_ms)

    def _mean_ms(self, calls: int, quartile: int) -> float:
        """Say how long so many calls take on average, by those that have ended.

        Not by their median: a few long ones among many short take most of the time. Two means, of
        so many calls and of those that have ended, differ the less the more calls each is of.
        """
        mean_ms = sum(self.served_ms) / len(self.served_ms)
        deviation_ms = pstdev(self.served_ms) * sqrt(1 / calls + 1 / len(self.served_ms))
        return max(min(self.served_ms), mean_ms + (quartile - 2) * QUARTILE * deviation_ms)

    @property
    def _longest(self) -> int:
        return max(self.served_ms, default=0)

    def _quartile(self, number: int) -> int | None:
        if not self.served_ms:
            return None
        return sorted(self.served_ms)[(len(self.served_ms) - 1) * number // 4]


def _left_ms(ran_ms: int, service_ms: int, most_ms: int) -> int:
    """Say how long a call runs on; one that has run for longer than usual, up to the longest."""
    return service_ms - ran_ms if ran_ms <= service_ms else max(0, most_ms - ran_ms)
