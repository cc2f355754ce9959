"""The lane store's verbs and values. ``memory`` is the readable specification, ``redis`` is real.

Words: a *call* is one published task message; its id is the sender's nonce. An *attempt* is one
grant of a call; it holds a *lease* named by a random *token*. A *worker* here is an incarnation:
one worker process start, a uuid. Times are the store's own clock, in milliseconds since the epoch.

Every verb is atomic and may be repeated after a lost reply without harm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

MAX_CALLER_BYTES = 256
MAX_BATCH = 500


class Policy(str, Enum):
    """How a lane orders its callers: fair shares, or one queue for all."""

    FAIR = "fair"
    FIFO = "fifo"


@dataclass(frozen=True, slots=True)
class Bucket:
    """A wall-clock bucket (GCRA): ``count`` units every ``period_ms``, up to ``burst`` at once."""

    count: float
    period_ms: int
    burst: float


@dataclass(frozen=True, slots=True)
class CallerRules:
    """A caller's weight (its share against others; 1e-3 to 1e3) and optional bucket of calls."""

    weight: float = 1.0
    rate: Bucket | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneRules:
    """What the store must know of a lane; written by each worker when it starts.

    Attributes:
        max_concurrent: slots; live leases never exceed it.
        lease_ttl_ms: how long a silent worker keeps its leases.
        max_leases: how many lost leases make a call a dead letter.
        dedupe_ttl_ms: how long a settled call is remembered, at least.
        rate: bucket of calls for the whole lane.
        tokens: bucket of cost for the whole lane.
        callers: weights and rates by caller name; others have weight 1 and no rate.
        acks_early: task name -> whether Celery acknowledges it before it runs. A lost lease of
            such a call is closed, not run again. Only the named tasks are changed.
    """

    max_concurrent: int
    lease_ttl_ms: int = 30_000
    max_leases: int = 5
    dedupe_ttl_ms: int = 120_000
    rate: Bucket | None = None
    tokens: Bucket | None = None
    callers: Mapping[str, CallerRules] = field(default_factory=dict)
    acks_early: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One published task message, as it is admitted.

    Attributes:
        id: the sender's nonce, or what the prelude derived for a message without one.
        task_id: Celery's task id; several calls may share it (retry, replace).
        task: the task's name.
        caller: any text of up to 256 UTF-8 bytes; "" is one shared bucket.
        priority: -1000 to 1000; higher first within the caller.
        cost: estimate, 1 to 1e9.
        due_ms: not before this time of the store's clock; 0 = at once.
        remember: refuse it as a duplicate also if it has settled already. False for a message
            without a nonce, which may rightly come again, unless the broker redelivers it.
        arrival: names this arrival of a message without a nonce: the same arrival, admitted again
            after a lost reply, is a duplicate also if the call has settled already.
        redelivery_ms: how long after it has settled the broker may still bring its message again.
        envelope: the message itself; opaque to the store.
    """

    id: str
    task_id: str
    task: str
    caller: str = ""
    priority: int = 0
    cost: float = 1.0
    due_ms: int = 0
    remember: bool = True
    arrival: str = ""
    redelivery_ms: int = 0
    envelope: bytes = b""


@dataclass(frozen=True, slots=True)
class Parked:
    """Accepted; ``ahead`` calls of the lane were waiting before it (in all callers' queues)."""

    ahead: int


@dataclass(frozen=True, slots=True)
class Delayed:
    """Accepted; it will wait from ``due_ms`` on."""

    due_ms: int


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Already here: ``state`` is waiting, delayed, running, closing or settled."""

    state: str


Verdict = Parked | Delayed | Duplicate


class Outcome(str, Enum):
    """How an attempt ended.

    DONE: settled; the result, if any, is written. BACK: put back unharmed, at its place and
    refunded. LOST: the body died with its process; put back and counted, a dead letter after
    ``max_leases``. STRANGE: this worker cannot run the call (unknown task); put back after a
    delay of 1, 2, 4 ... s and counted like LOST.
    """

    DONE = "done"
    BACK = "back"
    LOST = "lost"
    STRANGE = "strange"


class Reason(str, Enum):
    """Why a call ends without a body that writes its result."""

    LOST = "lost"
    CANCELLED = "cancelled"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Release:
    """Give a lease back; a wrong or old token changes nothing.

    ``cost`` is the real cost of a call that is done, if known: 0 to 1e9, less than 1 counts as 1.
    """

    call: str
    token: str
    outcome: Outcome = Outcome.DONE
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """A call that may start now. ``attempt`` counts grants from 1.

    ``wait_ms``: since it was admitted, due or put back, whichever came last.
    """

    call: str
    token: str
    caller: str
    attempt: int
    wait_ms: int
    envelope: bytes


@dataclass(frozen=True, slots=True)
class Closing:
    """A call whose result this worker must write, then ``close``."""

    call: str
    token: str
    reason: Reason
    envelope: bytes


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A call that has been given up; it may be admitted anew, under another id.

    Attributes:
        call: as it was admitted, but due at once.
        attempts: how often it was granted.
        reason: how its last attempt ended, ``LOST`` or ``STRANGE``.
        died_ms: when its failure had been written.
    """

    call: Call
    attempts: int
    reason: Outcome
    died_ms: int


@dataclass(frozen=True, slots=True)
class Turn:
    """What ``next`` answers. ``due_in_ms``: ask again then, even unwoken; ``None`` = when woken."""

    grants: tuple[Grant, ...] = ()
    closings: tuple[Closing, ...] = ()
    due_in_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Renewal:
    """What ``renew`` answers: named calls whose lease is gone, and how many unnamed went back."""

    lost: tuple[str, ...] = ()
    put_back: int = 0


@dataclass(frozen=True, slots=True)
class Reaped:
    """What ``reap`` did with expired leases: put back, moved to closing; or extended them all.

    ``extended_ms`` is negative after the store's clock has jumped back.
    """

    put_back: int = 0
    closing: int = 0
    extended_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One consistent reading of a lane. Counts of calls.

    ``oldest_wait_ms``: of the callers' first calls; with more than 500 callers waiting, of the 250
    that are next and the 250 that are last to be served.

    ``callers_waiting`` is at most 1 in a fifo lane: all share one account. ``dead``: letters kept.
    ``workers``: those heard of within ``lease_ttl_ms``.
    """

    lane: str
    max_concurrent: int | None
    paused: bool
    running: int
    waiting: int
    delayed: int
    closing: int
    dead: int
    callers_waiting: int
    oldest_wait_ms: int
    done_last_minute: int
    workers: int


class Wakeups(Protocol):
    """A worker's ear: becomes readable when one of its lanes may have work for it."""

    def fileno(self) -> int:
        """Give a descriptor for ``select``; it may change after ``drain``."""

    def drain(self) -> set[str]:
        """Take what has come, without blocking: the names of the lanes."""

    def close(self) -> None:
        """Stop listening."""


class Store(Protocol):
    """The verbs. Any may raise ``StoreUnavailable``; then it may or may not have happened."""

    def admit(self, lane: str, calls: Sequence[Call], *, policy: Policy) -> list[Verdict]:
        """Park calls, once each, and wake one idle worker. The whole batch is validated first."""

    def next(
        self,
        lane: str,
        *,
        worker: str,
        request: int,
        want: int,
        releases: Sequence[Release] = (),
        closings: int = 0,
    ) -> Turn:
        """Release, then grant up to ``want`` calls and hand out ``closings`` results to write.

        A repeated ``request`` number (from 1) of the same worker gets the same grants again; a
        lower one only has its releases heard.
        Raises ``LaneNotConfigured`` (after the releases) if no rules are known.
        """

    def renew(self, lane: str, *, worker: str, held: Sequence[tuple[str, str]]) -> Renewal:
        """Extend exactly the named (call, token) leases, of running and closing calls.

        Leases of this worker that it has not named for 5 s are put back.
        """

    def reap(self, lane: str) -> Reaped:
        """Deal with expired leases; extend all of them instead if the clock has stood still."""

    def cancel(self, lane: str, task_id: str) -> int:
        """Move the waiting and delayed calls of a task id to closing; count the cancelled ones.

        Of a task id with more than 500 calls, the youngest 500 are found.

        Raises ``NotQueued`` if there is none; a repeat counts those that are still to be closed.
        """

    def close(self, lane: str, *, call: str, token: str) -> bool:
        """Settle a closing call, its result being written; False if the token is not its own."""

    def dead_letters(self, lane: str, limit: int, before_ms: int | None = None) -> list[DeadLetter]:
        """Read a page of up to 50 dead letters, the youngest first; 1,000 are kept, for 7 days.

        ``before_ms``: only those that died before it; the ``died_ms`` of a page's last letter gives
        the next page, whatever dies or is buried meanwhile. So letters of one millisecond come
        together, in any order, and a page may exceed ``limit`` by them.
        """

    def bury(self, lane: str, call: str, died_ms: int) -> bool:
        """Forget the dead letter of a call that died at a time; False if there is none."""

    def settle(self, lane: str, *, call: str, token: str, cost: float) -> bool:
        """Charge the caller what a running call really cost; the last word wins."""

    def configure(self, lane: str, rules: LaneRules) -> None:
        """Write a lane's rules; a cap set by ``set_max_concurrent`` stays in force."""

    def set_max_concurrent(self, lane: str, slots: int | None) -> None:
        """Change the cap for the whole cluster at once; ``None`` = as configured."""

    def set_paused(self, lane: str, *, paused: bool) -> None:
        """Stop or resume grants; running calls go on."""

    def snapshot(self, lane: str) -> Snapshot:
        """Read a lane."""

    def lanes(self) -> list[str]:
        """Name every lane that has been used, sorted."""

    def listen(self, worker: str) -> Wakeups:
        """Open this worker's ear."""

    def warnings(self) -> list[str]:
        """Say what in the server's settings endangers the promises (persistence, eviction)."""

    def prove_durability(self) -> None:
        """Raise ``ConfigError`` if the server cannot do what ``durability`` asks of it."""

    def disconnect(self) -> None:
        """Close all connections; the next verb opens them again."""
