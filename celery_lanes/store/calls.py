"""Calls as the store is given them, and what it says of one that came or died."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from celery_lanes.store.attempts import Outcome

MAX_CALLER_BYTES = 256

MOVED_AGAIN_MS = 7 * 86_400_000
"""How late another lane may bring a call again that it has moved: as long as nobody serves it."""


class State(str, Enum):
    """Where a call is; settled calls are only remembered by id."""

    WAITING = "waiting"
    DELAYED = "delayed"
    RUNNING = "running"
    CLOSING = "closing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One published task message, as it is admitted.

    Attributes:
        id: the sender's nonce, or what the prelude derived for a message without one.
        task_id: Celery's task id; several calls may share it (retry, replace).
        task: the task's name.
        caller: any text of up to 256 UTF-8 bytes; "" is one shared bucket.
        priority: -1000 to 1000; higher first within the caller, or the lane's level.
        cost: estimate, 1 to 1e9.
        due_ms: not before this time of the store's clock; 0 = at once.
        remember: refuse it as a duplicate also if it has settled already. False for a message
            without a nonce, which may rightly come again, unless the broker redelivers it.
        arrival: names this arrival of a message without a nonce: the same arrival, admitted again
            after a lost reply, is a duplicate also if the call has settled already.
        redelivery_ms: how long after it has settled it may still be brought again, by the broker
            or by the lane that it came from; 0 = neither has brought it, or will.
        preemptible: a more urgent call may take its slot while it runs, where the rules allow it.
        has_waited: it comes from another lane, and goes before what has not waited yet: before all
            of its caller's calls of the same priority, but for others that have waited.
        holder: makes it a ticket, a slot for the process (incarnation) of this name alone: no
            worker runs it, and nobody writes a result. "" = a call for workers.
        envelope: the message itself; opaque to the store, and in no log or traceback: it may hold
            what users wrote.
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
    preemptible: bool = False
    has_waited: bool = False
    holder: str = ""
    envelope: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Parked:
    """Accepted; ``ahead`` calls of the lane were waiting before it (in all callers' queues)."""

    ahead: int


@dataclass(frozen=True, slots=True)
class Delayed:
    """Accepted; it will wait from ``due_ms`` on."""

    due_ms: int


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Accepted, and closing: it came by a broker, and its task id was forbidden before."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Already here: ``state`` is waiting, delayed, running, closing or settled."""

    state: str


@dataclass(frozen=True, slots=True)
class Busy:
    """Refused: ``ahead`` calls would go before it, and it would wait longer than it may."""

    ahead: int
    wait_ms: int


Verdict = Parked | Delayed | Cancelled | Duplicate | Busy


def fitting(caller: str) -> str:
    """Shorten a caller name that the store would refuse; distinct names stay distinct."""
    raw = caller.encode(errors="backslashreplace")
    if len(raw) <= MAX_CALLER_BYTES:
        return raw.decode()
    return f"{raw[:200].decode(errors='ignore')}~{zlib.crc32(raw):08x}"


def onward_of(call: Call) -> Call:
    """Give a call as its next lane may have it: it has waited, and this lane may bring it again."""
    known: Any = {"due_ms": 0, "remember": True, "arrival": ""}
    return replace(call, has_waited=True, redelivery_ms=MOVED_AGAIN_MS, **known)


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
