"""One lane of the memory store: its calls, and the moves a call can make.

Every move is one small function; the verbs in ``store.py`` are made of them, and so are the
scripts of the Redis store (``redis/lua/_moves.lua``), with the same names in the same order.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil, inf

from celery_lanes.fairness.levels import Levels
from celery_lanes.store.adapting import Learned
from celery_lanes.store.attempts import Reason
from celery_lanes.store.calls import State
from celery_lanes.store.checks import MAX_TIME_MS
from celery_lanes.store.live import Live
from celery_lanes.store.memory.buckets import Buckets
from celery_lanes.store.memory.record import Record
from celery_lanes.store.memory.tickets import Tickets
from celery_lanes.store.quota import Quota
from celery_lanes.store.rules import LaneRules, Scope

PROMOTE_AT_ONCE = 100
ASIDE_AT_ONCE = 100
WAKE_TRIES, WAKE_AT_ONCE = 10, 10
TIMES_KEPT = 63
DEFAULT_DEDUPE_TTL_MS = 120_000
DEFAULT_LEASE_TTL_MS = 30_000


@dataclass(frozen=True, slots=True)
class Reply:
    """What a worker's last request got: calls to start and to close, leased under its token.

    ``blocked_until``: when the lane's bucket lets a call pass again, if it let none.
    """

    request: int = 0
    token: str = ""
    grants: tuple[str, ...] = ()
    closings: tuple[str, ...] = ()
    blocked_until: float | None = None


@dataclass(slots=True)
class Ledger:
    """All that is known of one lane. ``publish`` says whether the worker was there to hear it."""

    publish: Callable[[str], bool]
    now: int = 0
    rules: LaneRules | None = None
    override: int | None = None
    is_paused: bool = False
    live: Live = field(default_factory=Live)
    learned: Learned = field(default_factory=Learned)
    quota: tuple[int, Quota] | None = None
    queue: Levels = field(default_factory=Levels)
    buckets: Buckets = field(default_factory=Buckets)
    records: dict[str, Record] = field(default_factory=dict)
    delayed: dict[str, int] = field(default_factory=dict)
    leases: dict[str, int] = field(default_factory=dict)
    marks: list[Record] = field(default_factory=list)
    closing: dict[str, int] = field(default_factory=dict)
    idle: dict[str, int] = field(default_factory=dict)
    workers: dict[str, int] = field(default_factory=dict)
    replies: dict[str, Reply] = field(default_factory=dict)
    settled: dict[str, int] = field(default_factory=dict)
    tickets: Tickets = field(init=False)
    forbidden: dict[str, int] = field(default_factory=dict)
    dead: list[tuple[int, Record]] = field(default_factory=list)
    done: Counter[int] = field(default_factory=Counter)
    moved: Counter[int] = field(default_factory=Counter)
    times_ms: deque[int] = field(default_factory=lambda: deque(maxlen=TIMES_KEPT))
    timed_ms: int = 0
    acks_early: dict[str, bool] = field(default_factory=dict)
    seq: int = 0
    coming_ms: int = 0
    ticked_ms: int | None = None
    frozen_ms: int = 0
    went_back: bool = False

    def __post_init__(self) -> None:
        self.tickets = Tickets(self.publish)

    # -- readings ------------------------------------------------------------------------------

    @property
    def is_used(self) -> bool:
        """Say whether anything has been written to this lane, or it was only asked about."""
        is_steered = self.override is not None or self.is_paused or self.live
        return bool(self.seq or self.rules or is_steered)

    @property
    def cap(self) -> int | None:
        """Give the cap in force, if one is known: an adaptive lane may have learned a lower one."""
        return self.learned.in_force(self.ceiling)

    @property
    def ceiling(self) -> int | None:
        """Give the cap that was set, or that the rules say."""
        if self.override is not None:
            return self.override
        return self.rules.max_concurrent if self.rules else None

    @property
    def lease_ttl_ms(self) -> int:
        """Say how long a silent worker keeps its leases."""
        return self.rules.lease_ttl_ms if self.rules else DEFAULT_LEASE_TTL_MS

    @property
    def dedupe_ttl_ms(self) -> int:
        """Say how long a settled call is remembered."""
        return self.rules.dedupe_ttl_ms if self.rules else DEFAULT_DEDUPE_TTL_MS

    @property
    def starts_nothing(self) -> bool:
        """Say whether the lane is paused, by somebody or by its provider."""
        return self.is_paused or self.learned.left_ms(self.now) > 0

    @property
    def free_slots(self) -> int:
        """Count the slots that a grant could take; 1 while no cap is known."""
        if self.starts_nothing:
            return 0
        return 1 if self.cap is None else max(0, self.cap - len(self.leases))

    @property
    def established(self) -> int:
        """Count the calls that run without a slot."""
        return sum(self.records[call].is_established for call in self.closing)

    @property
    def lease_now(self) -> int:
        """Read the lease clock: it stands still while no verb could reach the store."""
        return self.now - self.frozen_ms

    def is_gone(self, holder: str) -> bool:
        """Say whether a holder has not been heard of for a lease: it must not be given slots."""
        heard_ms = self.tickets.heard_ms.get(holder)
        return heard_ms is None or self.lease_now - heard_ms > self.lease_ttl_ms

    def remembers(self, name: str) -> bool:
        """Say whether a call, or one that came with this arrival, has settled not long ago."""
        return self.settled.get(name, 0) > self.now

    def tick(self) -> int:
        """Note that the store is alive; after a silence, or a jump, the lease clock skips it.

        If the clock goes back, what was spent of the lane's buckets stays spent, and no more.
        """
        gap = 0 if self.ticked_ms is None else self.now - self.ticked_ms
        self.ticked_ms = self.now
        if 0 <= gap <= 2 * self.lease_ttl_ms / 3:
            return 0
        self.frozen_ms += gap
        if gap < 0:
            self.buckets.go_back(gap)
            self.went_back = True
        return gap

    def set_scope(self, scope: Scope) -> None:
        """Order by this scope, if nothing waits or runs; else go on as it is until then."""
        are_many = scope is Scope.LANE
        if are_many != self.queue.are_many and self.settle_down():
            self.queue.are_many = are_many

    def settle_down(self) -> bool:
        """Start the accounts afresh if the lane is empty; say whether it is."""
        return self.queue.settle_down(is_running=bool(self.leases or self.established))

    # -- moves -----------------------------------------------------------------------------------

    def park(self, record: Record) -> None:
        """Let a call wait at its place."""
        record.state = State.WAITING
        self.tickets.waiting += record.is_ticket
        self.queue.put(record.account, record.place)

    def delay(self, record: Record, due_ms: int) -> None:
        """Let a call wait from a later time on."""
        record.state, record.since_ms = State.DELAYED, due_ms
        self.delayed[record.call.id] = due_ms

    def promote(self) -> None:
        """Let due calls wait and accounts with a refilled bucket return, a bounded number."""
        due = sorted((due, call) for call, due in self.delayed.items() if due <= self.now)
        for _, call in due[:PROMOTE_AT_ONCE]:
            del self.delayed[call]
            self.park(self.records[call])
        if self.went_back:
            self._heed_clock()
        full = [waiter for waiter in self.queue.aside if waiter[0] <= self.now]
        for _, rank, account in full[:PROMOTE_AT_ONCE]:
            self.queue.come_back(account, rank)

    def lease(self, record: Record, worker: str, token: str) -> None:
        """Let a worker hold the call."""
        record.worker, record.token, record.granted_at_ms = worker, token, self.now
        self.extend(record)

    def extend(self, record: Record) -> None:
        """Let the call's worker hold it for another while."""
        has_slot = record.state is State.RUNNING and not record.is_established
        held = self.leases if has_slot else self.closing
        held[record.call.id] = self.lease_now + self.lease_ttl_ms

    def unlease(self, record: Record) -> None:
        """Take a running call, or nobody's a closing one, from its worker."""
        self.leases.pop(record.call.id, None)
        if record.is_established:
            record.is_established = False
            del self.closing[record.call.id]
        record.worker = record.token = ""
        record.is_victim = False
        if record.is_marked:
            record.is_marked = False
            self.marks.remove(record)
            self.queue.promised += 1

    def put_back(self, record: Record) -> None:
        """Let a call that ran wait again at its place, refunded."""
        self.recharge(record, 0)
        if record.is_ticket:  # its holder gives it back, for nobody wants it any more
            del self.records[record.call.id]
            return
        record.since_ms = self.now
        self.park(record)

    def close_waiting(self, record: Record, reason: Reason) -> None:
        """Take a call out of the queue, its result to be written by a worker."""
        if record.state is State.DELAYED:
            del self.delayed[record.call.id]
        else:
            self.stop_waiting(record)
        self.to_closing(record, reason)

    def stop_waiting(self, record: Record) -> None:
        """Take a call out of the queue that will not be granted."""
        self.queue.remove(record.account, record.place)
        self.tickets.waiting -= record.is_ticket

    def settle(self, record: Record) -> None:
        """Forget a call, but for its id, and that after a while."""
        del self.records[record.call.id]
        remembered_ms = max(self.dedupe_ttl_ms, record.call.redelivery_ms)
        self.settled[record.call.id] = self.now + remembered_ms
        if record.call.arrival:
            self.settled[record.call.arrival] = self.now + remembered_ms

    def recharge(self, record: Record, cost: float) -> None:
        """Charge a running call's real cost; the last word wins."""
        difference = cost - record.charge.cost
        if not difference:
            return
        self.queue.correct(record.account, record.charge, cost)
        self.buckets.correct(difference)

    def to_closing(self, record: Record, reason: Reason) -> None:
        """Let a call wait for nothing but its result, which a worker will write."""
        record.state, record.reason = State.CLOSING, reason
        if record.is_ticket:  # there is no result: its holder is told
            del self.records[record.call.id]
            self.tickets.tell(record.call.holder, record.call.id)
            return
        self.closing[record.call.id] = 0

    def _heed_clock(self) -> None:
        """Let all be looked at that were set aside: by a clock that has gone back, for too long."""
        self.went_back = False
        for until, rank, account in self.queue.aside:
            if until < inf:
                self.queue.come_back(account, rank)

    # -- waking -----------------------------------------------------------------------------------

    def wake(self, count: int = 1) -> None:
        """Wake idle workers, those first that have waited longest."""
        for _ in range(count):
            self._wake_one()

    def note_coming(self) -> None:
        """Note that a worker may be about to ask for calls: tickets must not pass them."""
        if self.tickets.waiting:
            self.coming_ms = self.now

    def _wake_one(self) -> None:
        for _ in range(WAKE_TRIES):
            if not self.idle:
                return
            worker = min(self.idle, key=lambda name: (self.idle[name], name))
            del self.idle[worker]
            if self.publish(worker):
                self.note_coming()
                return

    def due_in_ms(self, *others: float | None) -> int | None:
        """Say in how long something will be due by itself, or at one of the other times."""
        times = [*self.delayed.values(), *(until for until, _, _ in self.queue.aside)]
        times += [at for at in others if at is not None]
        if left_ms := self.learned.left_ms(self.now):
            times.append(self.now + left_ms)
        soonest = min(times, default=inf)
        return None if soonest == inf else max(1, self.ms_until(soonest))

    def ms_until(self, at: float) -> int:
        """Say in how long something is due, within what an answer of a server can hold."""
        return min(ceil(at - self.now), MAX_TIME_MS)
