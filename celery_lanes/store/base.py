"""The lane store's verbs and values. ``memory`` is the readable specification, ``redis`` is real.

Words: a *call* is one published task message; its id is the sender's nonce. An *attempt* is one
grant of a call; it holds a *lease* named by a random *token*. A *worker* here is an incarnation:
one worker process start, a uuid. Times are the store's own clock, in milliseconds since the epoch.

Every verb is atomic and may be repeated after a lost reply without harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from celery_lanes.store.attempts import Claim, Lease, Reaped, Release, Renewal, Turn
from celery_lanes.store.calls import Busy, Call, DeadLetter, Verdict
from celery_lanes.store.live import CallerStatus
from celery_lanes.store.quota import Quota
from celery_lanes.store.rules import Bucket, LaneRules, Limit, Policy, Scope, Unlimited
from celery_lanes.store.standing import Standing

MAX_BATCH = 500

MAX_BATCH_BYTES = 4 * 1024 * 1024
"""Of messages, in one request or answer: many large ones would take longer than a client waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One consistent reading of a lane. Counts of calls.

    ``oldest_wait_ms``: of the callers' first calls; with more than 500 callers waiting, of the 250
    that are next and the 250 that are last to be served; and of the 250 that are next at the lowest
    level, where there are levels. ``done_last_minute``: calls that ended here, however;
    ``moved_last_minute``: those that went on from here in another lane, each time.

    ``running``: those that hold a slot; ``established``: those that run on without one.
    ``callers_waiting`` is at most 1 in a fifo lane: all share one account. With priorities of scope
    "lane", a caller counts once at each level. ``dead``: letters kept.
    ``max_concurrent``: as set or configured; ``effective``: what an adaptive lane makes of it now;
    ``provider_wait_ms``: for how long nothing starts there, for the provider asked to wait.
    ``workers``: those heard of within ``lease_ttl_ms``. ``rate``, ``tokens``: the lane's own
    buckets, as they hold. ``quota``: what the provider of an adaptive lane said last, within a
    minute, of that one of its limits of which the least was left; ``quota_age_ms`` ago.
    """

    lane: str
    max_concurrent: int | None
    effective: int | None
    provider_wait_ms: int
    paused: bool
    running: int
    established: int
    waiting: int
    delayed: int
    closing: int
    dead: int
    callers_waiting: int
    oldest_wait_ms: int
    done_last_minute: int
    moved_last_minute: int
    workers: int
    rate: Bucket | None
    tokens: Bucket | None
    quota: Quota | None
    quota_age_ms: int


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

    def admit(
        self,
        lane: str,
        calls: Sequence[Call],
        *,
        policy: Policy,
        scope: Scope = Scope.CALLER,
        max_wait_ms: int | None = None,
    ) -> list[Verdict]:
        """Park calls, once each, and wake one idle worker. The whole batch is validated first.

        Another ``scope`` than before holds from when the lane is empty: nothing waits or runs.
        ``max_wait_ms``: refuse each call that would wait longer, by fair order and the last service
        times; ``None`` = any time. One that is delayed, or whose wait nobody can tell (the lane is
        paused or new), is taken.
        """

    def place(
        self,
        lane: str,
        call: Call,
        *,
        policy: Policy,
        scope: Scope = Scope.CALLER,
        max_wait_ms: int | None = None,
    ) -> tuple[Verdict, Standing | None]:
        """Admit one call, and read where it stands, in one step: nothing comes between.

        A duplicate stands where the first one does; ``None`` for a call that is not here, as it was
        refused or has settled.
        """

    def foresee(self, lane: str, call: Call, *, policy: Policy) -> Busy | None:
        """Say how long a call would wait if it were admitted now, as ``max_wait_ms`` judges it.

        It is not admitted, and a due time is not looked at. ``None`` if nobody can tell.
        """

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

        What it releases as MOVED it is handed besides these, to be admitted to its next lane.
        A repeated ``request`` number (from 1) of the same worker gets the same grants again; a
        lower one only has its releases heard. Of large messages it gives less than that, 4 MB of
        each kind, and says by ``due_in_ms`` to ask again at once.
        Raises ``LaneNotConfigured`` (after the releases) if no rules are known.
        """

    def claim(
        self,
        lane: str,
        *,
        holder: str,
        known: Sequence[tuple[str, str]] = (),
        releases: Sequence[Release] = (),
    ) -> Claim:
        """Take a holder's turn: release, grant the tickets whose turn it is, tell it of its own.

        What it does not name as ``known``, with the token that it was told ("" = gone), is told
        again; 500 tickets at most are told at once.
        Raises ``LaneNotConfigured`` (after the releases) if no rules are known. A holder that is
        not heard of for a lease, by ``claim`` or ``renew``, is gone, and its tickets with it.
        """

    def withdraw(self, lane: str, *, holder: str, call: str) -> str | None:
        """Take back a ticket that waits; if it has been granted, give its token: it is held.

        ``None``: it does not wait any more.
        """

    def renew(self, lane: str, *, worker: str, held: Sequence[tuple[str, str]]) -> Renewal:
        """Extend exactly the named (call, token) leases, of running and closing calls.

        Leases of this worker that it has not named for 5 s are put back. A holder also names its
        tickets that wait, with the token "", and learns which of them are gone.
        """

    def reap(self, lane: str) -> Reaped:
        """Deal with expired leases; extend all of them instead if the clock has stood still."""

    def cancel(self, lane: str, task_id: str) -> int:
        """Move the waiting and delayed calls of a task id to closing; count the cancelled ones.

        Of a task id with more than 500 calls, the youngest 500 are found.

        Raises ``NotQueued`` if there is none, ``AlreadyStarted`` if those that are here do not wait
        any more; a repeat counts those that are still to be closed.
        """

    def forbid(self, lane: str, task_id: str, for_ms: int) -> bool:
        """Close as cancelled what a broker brings of a task id within a time.

        False, and nothing is forbidden, if a call of it is here.
        """

    def cancel_caller(self, lane: str, caller: str) -> int:
        """Move a caller's waiting and delayed calls to closing; count those moved.

        In pages of 100, each atomic: of calls that come or go meanwhile, some may stay.
        """

    def close(self, lane: str, *, call: str, token: str) -> bool:
        """Settle a closing call, its result being written, or its next lane having it.

        False if the token is not its own.
        """

    def confirm(self, lane: str, call: str) -> None:
        """Say that a call has left the lane that it came from, which will not bring it again.

        Until then it is remembered for 7 days after it has settled, as ``onward_of`` says.
        """

    def dead_letters(self, lane: str, limit: int, before_ms: int | None = None) -> list[DeadLetter]:
        """Read a page of up to 50 dead letters, the youngest first; 1,000 are kept, for 7 days.

        ``before_ms``: only those that died before it; the ``died_ms`` of a page's last letter gives
        the next page, whatever dies or is buried meanwhile. So letters of one millisecond come
        together, in any order, and a page may exceed ``limit`` by them; it is shorter where the
        messages are large, for it holds 4 MB of them.
        """

    def bury(self, lane: str, call: str, died_ms: int) -> bool:
        """Forget the dead letter of a call that died at a time; False if there is none."""

    def settle(self, lane: str, *, call: str, token: str, cost: float) -> bool:
        """Charge the caller what a running call really cost; the last word wins."""

    def report(
        self, lane: str, *, call: str, token: str, wait_ms: int = 0, quota: Quota | None = None
    ) -> bool:
        """Say that a running call's provider was overloaded, and for how long it asked to wait.

        For so long nothing starts; in an adaptive lane the cap is halved, too. Counts once for each
        attempt. False if the token is not the holder's.

        With a ``quota`` the provider has answered, and said what is left of its limits: an adaptive
        lane keeps that to be seen and waits likewise, with the cap as it is; others do nothing. It
        counts each time: said again after a lost reply, the wait begins anew.
        """

    def establish(self, lane: str, *, call: str, token: str) -> bool:
        """Free the slot of a running call that goes on without it, and leave it its lease.

        So it ends as any other; if its worker dies it runs again, and it never runs twice. How long
        it held the slot is told now. False if the token is not the holder's; a ticket is released.
        """

    def configure(self, lane: str, rules: LaneRules) -> None:
        """Write a lane's rules; what was set at run time stays in force."""

    def set_max_concurrent(self, lane: str, slots: int | None) -> None:
        """Change the cap for the whole cluster at once; ``None`` = as configured."""

    def set_paused(self, lane: str, *, paused: bool) -> None:
        """Stop or resume grants; running calls go on. To resume ends a provider's wait, too."""

    def set_weight(self, lane: str, caller: str, weight: float | None) -> None:
        """Change a caller's share, 1e-3 to 1e3; ``None`` = as configured.

        This and the next two keep something of a caller until it is as configured again; raise
        ``StoreError`` for more than 1,000 callers of a lane. In a fifo lane they change nothing.
        """

    def set_rate(self, lane: str, caller: str, rate: Bucket | Unlimited | None) -> None:
        """Change a caller's bucket of calls; ``None`` = as configured."""

    def set_caller_paused(self, lane: str, caller: str, *, paused: bool) -> None:
        """Stop or resume grants of a caller's calls; they wait aside and hold up nobody."""

    def set_limit(self, lane: str, limit: Limit, bucket: Bucket | Unlimited | None) -> None:
        """Change one of the lane's own buckets; ``None`` = as configured."""

    def callers(self, lane: str) -> list[CallerStatus]:
        """Read what holds for callers that the rules name, that something was set of, or that wait.

        Of those who only wait, up to 750: the 250 that are next, that are last, and of those whose
        rate is used up. In a fifo lane nobody waits by name.
        """

    def leases(self, lane: str, limit: int) -> list[Lease]:
        """Read who has up to so many of the running calls, 1 to 100; those first that end first.

        Unless they are renewed, that is. After those with a slot, as many of those without one.
        """

    def snapshot(self, lane: str) -> Snapshot:
        """Read a lane."""

    def position(self, lane: str, task_id: str) -> Standing:
        """Read where the youngest call of a task id stands, and what holds it up.

        Raises ``NotQueued`` for a task id that has no call in the lane: unknown, or settled.
        """

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
