"""Whose level is next: a fair queue for each priority, and turns for the lower ones.

With ``priority_scope = "lane"`` each priority is a *level* with accounts and a virtual time of its
own: service at one level is none at another, and must not move on the time of those who wait there.

- The highest level that has a call to grant goes first,
- but of every ``TURN_EVERY`` grants in a row that find a lower level waiting, one goes to a lower
  level: the next one below that which had the last such turn, else the highest of them.

So with L levels waiting, each is served within ``TURN_EVERY x (L - 1)`` grants of the lane, under
any load: the turns go down through the levels and begin again at the top, so between two turns of
one level no other has more than one. The highest keeps 19 of 20 grants, however many levels
wait below it. Within a level everything is as in ``fairness``.

A slot that preemption has freed is *promised*: it goes to the highest level, turn or no turn, and
does not count. Each such grant takes back one that a lower level had, but never one that it had by
a turn (``store.preemption``), so the bound stands, counted in grants that keep their slots.

With the scope "caller" all calls are of one level, and a priority orders one caller's own.

Pure arithmetic, mirrored step by step in ``store/redis/lua/_ring.lua`` and ``_fair.lua``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from celery_lanes.fairness.callers import Charge, FairQueue, Place, keep_weight
from celery_lanes.priority import MOST

TURN_EVERY = 20
FORGET_AT_ONCE = 4
"""A grant, a correction and a cancelled account each leave at most one tag behind."""

HIGHEST = -MOST


@dataclass(slots=True)
class Levels:
    """All waiting calls of a lane. A level's *rank* is minus its priority: the smallest is next.

    ``passed``: grants in a row that passed lower levels over. ``turn``: the rank that had the last
    turn. ``promised``: slots that have been freed for the highest level and not been granted yet.
    """

    are_many: bool = False
    queues: dict[int, FairQueue] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    passed: int = 0
    turn: int = HIGHEST
    promised: int = 0

    def __len__(self) -> int:
        return sum(map(len, self.queues.values()))

    @property
    def ready(self) -> list[int]:
        """Give the ranks that have a call to grant, the highest level first."""
        return sorted(rank for rank, queue in self.queues.items() if queue.ring)

    @property
    def firsts(self) -> list[Place]:
        """Give the first call of each account of each level."""
        return [places[0] for queue in self.queues.values() for places in queue.waiting.values()]

    @property
    def aside(self) -> list[tuple[float, int, str]]:
        """Give who is set aside, in the order of return: until when, rank, account."""
        return sorted(
            (until, rank, account)
            for rank, queue in self.queues.items()
            for account, until in queue.aside.items()
        )

    def standing_above(self, rank: int) -> list[tuple[str, int]]:
        """Give the accounts in the rings of higher levels, in order, and each one's calls."""
        return [
            (account, len(self.queues[at].waiting[account]))
            for at in self.ready
            if at < rank
            for account in self.queues[at].in_order()
        ]

    def count(self, account: str) -> int:
        """Count an account's waiting calls."""
        return sum(len(queue.waiting.get(account, ())) for queue in self.queues.values())

    def put(self, account: str, place: Place) -> None:
        """Let a call wait at its place in its level."""
        self._queue(place).put(account, place)

    def remove(self, account: str, place: Place) -> None:
        """Take a call out that will not be granted."""
        queue = self._queue(place)
        queue.remove(account, place)
        if self.are_many and account not in queue.waiting:
            queue.forget_finishes(FORGET_AT_ONCE)

    def first(self) -> tuple[str, Place] | None:
        """Give the account to serve next, and its first call."""
        ready = self.ready
        return self.queues[self._next(ready)].first() if ready else None

    def line(self, limit: int) -> list[tuple[str, Place]]:
        """List accounts and their first calls in the order of service, but for turns."""
        standing = sorted(
            (rank, start, queue.waiting[account][0][1], account)
            for rank, queue in self.queues.items()
            for account, start in queue.ring.items()
        )
        return [(name, self.queues[at].waiting[name][0]) for at, _, _, name in standing[:limit]]

    def count_before_new(self, account: str, place: Place) -> int | None:
        """Count the accounts that go before a new call; ``None`` if one of its own does."""
        rank = self.rank(place)
        queue = self.queues.get(rank) or FairQueue()
        if account in queue.waiting:
            return None
        stands = (
            (at, start, level.waiting[name][0][1])
            for at, level in self.queues.items()
            for name, start in level.ring.items()
        )
        return sum(stand < (rank, queue.start(account), place[1]) for stand in stands)

    def take(self, account: str, place: Place, cost: float, *, is_passing: bool = False) -> Charge:
        """Grant an account's first call; one that passes others over is no turn."""
        rank, queue = self.rank(place), self._queue(place)
        is_turn = not is_passing and self._note_turn(rank, self.ready)
        charge = queue.take(account, cost)
        charge.rank, charge.is_turn = rank, is_turn
        if self.are_many:
            queue.forget_finishes(FORGET_AT_ONCE)
        return charge

    def correct(self, account: str, charge: Charge, cost: float) -> None:
        """Charge a running call's real cost instead of the estimate; the last word wins."""
        self.queues[charge.rank].correct(account, charge, cost)

    def finish(self, charge: Charge) -> None:
        """Count a call's charge as served."""
        self.queues[charge.rank].time.finish(charge)

    def set_aside(self, account: str, place: Place, until_ms: float) -> None:
        """Let the others pass while the account's bucket is empty."""
        self._queue(place).set_aside(account, until_ms)

    def come_back(self, account: str, rank: int) -> None:
        """Return an account that was set aside to its level's ring."""
        self.queues[rank].come_back(account)

    def reweigh(self, account: str, weight: float) -> None:
        """Change a weight, also for what waits already."""
        keep_weight(self.weights, account, weight)
        for queue in self.queues.values():
            queue.reweigh(account, weight)

    def set_paused(self, account: str, *, is_paused: bool) -> None:
        """Note that an account is to be set aside wherever it waits, or not any more."""
        (self.paused.add if is_paused else self.paused.discard)(account)

    def stand_anew(self, account: str) -> None:
        """Let an account stand where it belongs at each level."""
        for queue in self.queues.values():
            queue.stand_anew(account)

    def forget_finishes(self, limit: int) -> None:
        """Drop tags that say nothing any more; where levels are many, what adds one does so."""
        if not self.are_many:
            for queue in self.queues.values():
                queue.forget_finishes(limit)

    def settle_down(self, *, is_running: bool) -> bool:
        """Start afresh when the lane is empty; let go of rounding errors when nothing runs.

        Says whether the lane is empty.
        """
        if is_running:
            return False
        for queue in self.queues.values():
            queue.time.serving = 0.0
        if len(self):
            return False
        self.queues.clear()
        self.passed, self.turn, self.promised = 0, HIGHEST, 0
        return True

    def rank(self, place: Place) -> int:
        """Give the level of a place: 0 for all, if a priority orders one caller's own."""
        return place[0] if self.are_many else 0

    def _queue(self, place: Place) -> FairQueue:
        rank = self.rank(place)
        if rank not in self.queues:
            self.queues[rank] = FairQueue(weights=dict(self.weights), paused=self.paused)
        return self.queues[rank]

    def _next(self, ready: list[int]) -> int:
        top, *lower = ready
        if not lower or self.promised or self.passed < TURN_EVERY - 1:
            return top
        return next((rank for rank in lower if rank > self.turn), lower[0])

    def _note_turn(self, rank: int, ready: list[int]) -> bool:
        """Note a grant at a rank; say whether it is a lower level's turn."""
        if self.promised:
            self.promised -= 1
            return False
        if rank > ready[0]:
            self.passed, self.turn = 0, rank
            return True
        self.passed = self.passed + 1 if rank < ready[-1] else 0
        return False
