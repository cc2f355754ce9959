"""Who is next: weighted fair queueing in the lane's own time, and wall-clock buckets.

Start-time fair queueing (Goyal, 1996) with a virtual time ``V`` that follows the service given:

- an *account* (a caller, or ``*`` for all of a fifo lane) that starts to wait gets the start tag
  ``S = max(V, F)``; idle time earns no credit. The smallest ``S`` is served next, ties by the
  sequence number of the account's first call.
- a grant moves on ``V = max(V, S) + cost / (weights of all who wait)``; ``F = S + cost / weight``,
  and an account that goes on waiting has ``S = F``. With ``V = S`` alone a stream of new callers
  would starve everybody else.
- the real cost corrects both: ``F += (real - charged) / weight``, ``V += (real - charged) / share``
  (``share``: the weights at the grant). If ``V`` kept what was only estimated, it would run ahead
  of all who wait, and a newcomer, who starts at ``V``, would wait until they have caught up. So
  ``V`` is kept in two parts, *served* and *serving*; a tag is forgotten when *served* is past it.
- a correction may take ``S`` of a waiting account below ``V``: it waited all the time that it had
  been charged too much. That is at most what its running calls were charged too much, in sum.

- rounding must not take a tag below 0.

Pure arithmetic, mirrored step by step in ``store/redis/lua/_fair.lua`` and ``_grants.lua``.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from math import ceil, floor, inf

Place = tuple[int, int, str]
"""(minus priority, sequence number, call): sorts as the calls of an account are served."""


@dataclass(slots=True)
class Charge:
    """What a running call has been charged; ``share`` is the weight of all who waited then.

    ``rank``: of its level, and whether it had this grant by a turn, see ``levels``.
    """

    cost: float
    weight: float
    share: float
    rank: int = 0
    is_turn: bool = False


@dataclass(slots=True)
class VirtualTime:
    """The lane's own time: service given, per unit of weight of those who waited for it."""

    served: float = 0.0
    serving: float = 0.0

    @property
    def now(self) -> float:
        """Give V."""
        return self.served + self.serving

    def begin(self, start: float, charge: Charge) -> None:
        """Go on for a grant: ``V = max(V, S) + cost / share``."""
        if start > self.now:
            self.served += start - self.now
        self.serving += charge.cost / charge.share

    def correct(self, charge: Charge, cost: float) -> None:
        """Replace what a running call was charged."""
        self.serving += (cost - charge.cost) / charge.share

    def finish(self, charge: Charge) -> None:
        """Count a call's charge as served."""
        self.serving -= charge.cost / charge.share
        self.served += charge.cost / charge.share


@dataclass(slots=True)
class FairQueue:
    """All waiting calls of a lane, or of one of its levels, by account.

    An account with waiting calls is in the ring (by start tag) or set aside (by the time its
    bucket refills; for ever, if it is one of the ``paused``); ``finishes`` holds F of those that
    are not in the ring.
    """

    time: VirtualTime = field(default_factory=VirtualTime)
    weights: dict[str, float] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    waiting: dict[str, list[Place]] = field(default_factory=dict)
    ring: dict[str, float] = field(default_factory=dict)
    aside: dict[str, float] = field(default_factory=dict)
    finishes: dict[str, float] = field(default_factory=dict)
    total_weight: float = 0.0

    def __len__(self) -> int:
        return sum(map(len, self.waiting.values()))

    def weight(self, account: str) -> float:
        """Give an account's weight."""
        return self.weights.get(account, 1.0)

    def put(self, account: str, place: Place) -> None:
        """Let a call wait at its place; an account with nothing waiting enters the ring."""
        if account not in self.waiting:
            self.waiting[account] = []
            self._enter(account)
        insort(self.waiting[account], place)

    def remove(self, account: str, place: Place) -> None:
        """Take a call out that will not be granted."""
        places = self.waiting[account]
        del places[bisect_left(places, place)]
        if places:
            return
        del self.waiting[account]
        self.aside.pop(account, None)
        if account in self.ring:
            self._leave(account, self.ring[account])

    def start(self, account: str) -> float:
        """Give an account's start tag; for one that is not in the ring, what it would be."""
        if account in self.ring:
            return self.ring[account]
        return max(self.time.now, self.finishes.get(account, 0.0))

    def first(self) -> tuple[str, Place] | None:
        """Give the account to serve next, and its first call."""
        if not self.ring:
            return None
        account = min(self.ring, key=self._turn_of)
        return account, self.waiting[account][0]

    def in_order(self) -> list[str]:
        """Give the accounts in the ring, the next to be served first."""
        return sorted(self.ring, key=self._turn_of)

    def take(self, account: str, cost: float) -> Charge:
        """Grant the account's first call."""
        start = self.ring[account]
        charge = Charge(cost, self.weight(account), self.total_weight)
        self.time.begin(start, charge)
        self.ring[account] = moved_on(start, cost / charge.weight)
        self.remove(account, self.waiting[account][0])
        return charge

    def correct(self, account: str, charge: Charge, cost: float) -> None:
        """Charge a running call's real cost instead of the estimate; the last word wins."""
        self.time.correct(charge, cost)
        self._shift(account, (cost - charge.cost) / charge.weight)
        charge.cost = cost

    def set_aside(self, account: str, until_ms: float) -> None:
        """Let the others pass while the account's bucket is empty."""
        self._leave(account, self.ring[account])
        self.aside[account] = until_ms

    def come_back(self, account: str) -> None:
        """Return an account that was set aside to the ring, if it is not paused."""
        del self.aside[account]
        self._enter(account)

    def stand_anew(self, account: str) -> None:
        """Let an account stand where it belongs, after a change of its bucket or its pause."""
        if account in self.aside:
            self.come_back(account)
        elif account in self.ring and account in self.paused:
            self.set_aside(account, inf)

    def reweigh(self, account: str, weight: float) -> None:
        """Change a weight, also for what waits already."""
        if account in self.ring:
            self.total_weight += weight - self.weight(account)
        keep_weight(self.weights, account, weight)

    def forget_finishes(self, limit: int) -> None:
        """Drop tags that say nothing any more, the oldest first, up to a limit."""
        past = [name for name, finish in self.finishes.items() if finish <= self.time.served]
        for name in sorted(past, key=lambda name: (self.finishes[name], name))[:limit]:
            del self.finishes[name]

    def _turn_of(self, account: str) -> tuple[float, int]:
        return self.ring[account], self.waiting[account][0][1]

    def _enter(self, account: str) -> None:
        if account in self.paused:
            self.aside[account] = inf
            return
        self.ring[account] = self.start(account)
        self.finishes.pop(account, None)
        self.total_weight += self.weight(account)

    def _leave(self, account: str, finish: float) -> None:
        del self.ring[account]
        self.finishes[account] = finish
        self.total_weight = self.total_weight - self.weight(account) if self.ring else 0.0

    def _shift(self, account: str, difference: float) -> None:
        if account in self.ring:
            self.ring[account] = max(0.0, self.ring[account] + difference)
        elif account in self.finishes:
            self.finishes[account] = max(0.0, self.finishes[account] + difference)
        elif difference > 0:
            self.finishes[account] = self.time.now + difference


def keep_weight(weights: dict[str, float], account: str, weight: float) -> None:
    """Note an account's weight; nothing is kept of the usual one."""
    weights[account] = weight
    if weight == 1:
        del weights[account]


def moved_on(start: float, step: float) -> float:
    """Move a tag on; where a float is too coarse for the step, by what it can tell.

    Else its account would be next again and again, and others with the same tag never.
    """
    return max(start + step, start * (1 + 2**-52))


def starts_before(tag: float, *, start: float, step: float) -> int:
    """Count the start tags ``start``, ``start + step`` ... that are smaller than a tag.

    ``step`` is cost / weight: what each grant moves an account on.
    """
    return max(0, ceil((tag - start) / step))


def ready_at(full_at: float, *, interval_ms: float, burst: float, cost: float) -> float:
    """Say when a bucket lets ``cost`` pass (GCRA); a cost above the burst passes a full bucket.

    ``full_at`` is when the bucket is full again, the algorithm's "theoretical arrival time".
    """
    return full_at - (burst - min(cost, burst)) * interval_ms


def passing(full_at: float, now: float, *, interval_ms: float, burst: float) -> int:
    """Count the calls of cost 1 that a bucket lets pass now."""
    if ready_at(full_at, interval_ms=interval_ms, burst=burst, cost=1.0) > now:
        return 0
    return max(1, floor(burst - max(0.0, full_at - now) / interval_ms))


def spent(full_at: float, now: float, *, interval_ms: float, cost: float) -> float:
    """Say when a bucket is full again after ``cost`` has passed."""
    return max(full_at, now) + cost * interval_ms


def rescaled(full_at: float, now: float, *, was_ms: float, is_ms: float) -> float:
    """Say when a bucket is full again whose interval changes: what is missing refills anew."""
    if full_at <= now or was_ms == is_ms:
        return full_at
    return now + (full_at - now) * (is_ms / was_ms)
