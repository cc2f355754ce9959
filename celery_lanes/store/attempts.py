"""What a worker and the store tell each other of attempts: grants, ends, renewals."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery_lanes.store.calls import Call


class Outcome(str, Enum):
    """How an attempt ended.

    DONE: settled; the body ended well, and its time tells how long calls of the lane take.
    FAILED: settled; the body raised, was stopped, asked for a retry or never ran, so its time tells
    nothing. BACK: put back unharmed, at its place and refunded. MOVED: it goes on in another lane,
    where the worker that is handed its closing admits it; served here. PREEMPTED: stopped for a
    more urgent call, as the store has asked; put back like BACK, or closed if the rules say so.
    LOST: the body died with its process; put back and counted, a dead letter after ``max_leases``.
    STRANGE: this worker cannot run the call (unknown task); put back after a delay of 1, 2, 4 ... s
    and counted like LOST.
    """

    DONE = "done"
    FAILED = "failed"
    BACK = "back"
    MOVED = "moved"
    PREEMPTED = "preempted"
    LOST = "lost"
    STRANGE = "strange"


class Reason(str, Enum):
    """Why a call ends without a body that writes its result; MOVED: it ends in this lane only."""

    LOST = "lost"
    CANCELLED = "cancelled"
    DEAD = "dead"
    PREEMPTED = "preempted"
    MOVED = "moved"


@dataclass(frozen=True, slots=True)
class Release:
    """Give a lease back; a wrong or old token changes nothing.

    ``cost`` is the real cost of a call that is done, failed or moved, if known: 0 to 1e9, less than
    1 counts as 1. ``envelope`` is the message with which a call goes on, that is BACK or MOVED;
    empty = as it is. ``wait_ms``: one that is BACK waits from so many ms later on.
    """

    call: str
    token: str
    outcome: Outcome = Outcome.DONE
    cost: float | None = None
    wait_ms: int = 0
    envelope: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Grant:
    """A call that may start now. ``attempt`` counts grants from 1.

    ``wait_ms``: since it was admitted, due or put back, whichever came last. ``granted_ms``: when,
    by the store's clock: a later attempt at a call is granted later, whatever clock its worker has.
    """

    call: str
    token: str
    caller: str
    attempt: int
    wait_ms: int
    envelope: bytes = field(repr=False)
    granted_ms: int = 0


HEAD_BYTES = 20_000
"""The longest first line of a message that is read with a lease."""

READ_BYTES = 1_000_000
"""The longest message whose first line is looked for: a script reads all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A running call's, for people to see.

    Attributes:
        call: its id.
        task_id: Celery's.
        task: the task's name; "" of a ticket.
        caller: whose it is.
        priority: -1000 to 1000.
        worker: who has it, an incarnation.
        attempt: counts grants from 1.
        ran_ms: since its grant.
        is_established: it runs on without a slot.
        head: the first line of its message, which is the sender's and not the store's; empty if
            there is none, or too much to read.
    """

    call: str
    task_id: str
    task: str
    caller: str
    priority: int
    worker: str
    attempt: int
    ran_ms: int
    is_established: bool
    head: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Closing:
    """A call whose result this worker must write, then ``close``.

    ``onward``: of one that is MOVED, the call as it has waited and run here. It has no result yet:
    the worker admits it, under the name that its envelope says, to the lane that its envelope says.
    """

    call: str
    token: str
    reason: Reason
    envelope: bytes = field(repr=False)
    onward: Call | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """What ``next`` answers. ``due_in_ms``: ask again then, even unwoken; ``None`` = when woken.

    ``preempted``: (call, token) of the worker's running calls that it must stop; told at each turn
    until they have ended.
    """

    grants: tuple[Grant, ...] = ()
    closings: tuple[Closing, ...] = ()
    preempted: tuple[tuple[str, str], ...] = ()
    due_in_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """What ``claim`` answers a holder of its tickets, until it says that it knows.

    ``granted``: call and token of each slot that it has. ``gone``: calls that wait no more, for
    somebody has cancelled them or their lease is lost. The others: as in ``Turn``.
    """

    granted: tuple[tuple[str, str], ...] = ()
    gone: tuple[str, ...] = ()
    preempted: tuple[tuple[str, str], ...] = ()
    due_in_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Renewal:
    """What ``renew`` answers: named calls whose lease is gone, and how many unnamed went back."""

    lost: tuple[str, ...] = ()
    put_back: int = 0


@dataclass(frozen=True, slots=True)
class Reaped:
    """What ``reap`` did with expired leases: put back, moved to closing; or extended them all.

    Tickets, which are forgotten, count as closing.

    ``extended_ms`` is negative after the store's clock has jumped back.
    """

    put_back: int = 0
    closing: int = 0
    extended_ms: int = 0
