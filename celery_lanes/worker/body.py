"""The bodies of lane calls that run in this process, and how one of them is made to end.

A body that must make room is asked three times, in a way that can hit no other call and nothing
but the body, not even Celery's writing of its result:

1. ``should_yield`` turns true; where the pool can interrupt it, ``Preempted`` is raised inside.
2. After ``preempt_grace`` a ``BaseException`` follows, for one that has swallowed the first.
3. On prefork the worker at last kills the process (``pools``).

Whatever of it leaves the body, and any error that comes of it, becomes ``Yielded``: Celery
writes no result then, counts no chord part and calls no errback.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import wraps
from traceback import clear_frames
from types import FrameType
from typing import Any

from celery.exceptions import TaskPredicate

from celery_lanes.callinfo import HEADER
from celery_lanes.errors import Preempted
from celery_lanes.journeys.journey import Parting
from celery_lanes.store.attempts import Outcome

ASKED_BY = signal.SIGUSR2
"""Not SIGUSR1: that is Celery's soft time limit."""

ERRORS_LOOKED_AT = 100

Lease = tuple[str, str]
"""(call, token): names one attempt."""

_Act = Callable[..., Any]


class Yielded(Parting):
    """The body has ended to make room; its call is not done."""

    outcome = Outcome.PREEMPTED


class Stopped(BaseException):
    """Ends a body that goes on after its grace."""


class Body:
    """One run of a call's body. ``is_asked``: it must make room.

    ``when_asked`` is what the body has left to be called then, from another thread.
    """

    __slots__ = ("grace_s", "is_asked", "told_at", "when_asked")

    def __init__(self, grace_s: float) -> None:
        self.grace_s = grace_s
        self.is_asked = False
        self.told_at: list[float] = []
        self.when_asked: Callable[[], object] | None = None

    def ask(self) -> None:
        """Say that it must make room; to be repeated. Called from any thread."""
        self.is_asked = True
        if (when_asked := self.when_asked) is not None:
            when_asked()

    def reason_to_end(self) -> BaseException | None:
        """Give what is to be raised in the body now, if anything; each of the two once."""
        self.is_asked = True
        now = time.monotonic()
        if not self.told_at:
            self.told_at.append(now)
            return Preempted()
        if len(self.told_at) == 1 and now - self.told_at[0] >= self.grace_s:
            self.told_at.append(now)
            return Stopped()
        return None


_running: dict[Lease, Body] = {}


def running(lease: Lease | None) -> Body | None:
    """Find the body of an attempt, between its first line and its last."""
    return None if lease is None else _running.get(lease)


def conclude(lease: Lease | None) -> None:
    """Say that a body has done what it was to do: its last words are not interrupted any more."""
    if lease is not None:
        _running.pop(lease, None)


def lease_of(request: Any) -> Lease | None:
    """Name the attempt that a task's request belongs to; ``None`` outside a lane."""
    header = getattr(request, HEADER, None)
    if not isinstance(header, dict) or "token" not in header:
        return None
    return header["nonce"], header["token"]


def watch(task: Any, grace_s: Callable[[str], float]) -> None:
    """Let the bodies of a task be made to end, once and for all; ``grace_s`` is asked by lane."""
    if hasattr(task.run, _WATCHED):
        return
    task.run = _watched(task, task.run, grace_s)
    task.retry = _unless_asked(task, _last_act(task, task.retry))
    task.replace = _last_act(task, task.replace)


_WATCHED = "is_watched_by_lanes"


def _watched(task: Any, run: _Act, grace_s: Callable[[str], float]) -> _Act:
    @wraps(run)
    def run_body(*args: Any, **kwargs: Any) -> Any:
        lease = lease_of(task.request)
        if lease is None or lease in _running:
            return run(*args, **kwargs)
        body = _running[lease] = Body(grace_s(getattr(task.request, HEADER)["lane"]))
        try:
            try:
                return run(*args, **kwargs)
            finally:
                _running.pop(lease, None)  # what is over cannot be interrupted
        except TaskPredicate:  # the body's own word to Celery
            raise
        except (Exception, Stopped) as error:
            if body.is_asked and _comes_of_asking(error):
                _let_go(error)
                raise Yielded("it makes room for a more urgent call") from error
            raise

    setattr(run_body, _WATCHED, True)
    return run_body


def _unless_asked(task: Any, retry: _Act) -> _Act:
    """Retry, but not for what has been raised to make room: that call runs again in any case."""

    @wraps(retry)
    def retry_unless_asked(
        args: Any = None, kwargs: Any = None, exc: Any = None, *rest: Any, **options: Any
    ) -> Any:
        body, reason = running(lease_of(task.request)), exc or sys.exc_info()[1]
        if reason is not None and body and body.is_asked and _comes_of_asking(reason):
            raise reason
        return retry(args, kwargs, exc, *rest, **options)

    return retry_unless_asked


def _last_act(task: Any, act: _Act) -> _Act:
    """Do what ends a body in favour of another call: were it interrupted then, both would run."""

    @wraps(act)
    def act_undisturbed(*args: Any, **kwargs: Any) -> Any:
        lease = lease_of(task.request)
        body = None if lease is None else _running.pop(lease, None)
        if lease is None or body is None:
            return act(*args, **kwargs)
        is_over = False
        try:
            return act(*args, **kwargs)
        except TaskPredicate:
            is_over = True
            raise
        finally:
            if not is_over:
                _running[lease] = body

    return act_undisturbed


def _comes_of_asking(error: BaseException) -> bool:
    """Say whether an error is what we raise, or hides it: many a library wraps what it catches."""
    return any(isinstance(one, (Preempted, Stopped)) for one in _chain(error))


def _let_go(error: BaseException) -> None:
    """Free what the body held, connections above all: its process keeps the error for a while."""
    for one in _chain(error):
        clear_frames(one.__traceback__)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(ERRORS_LOOKED_AT):
        if error is None:
            return
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def listen(**_: Any) -> None:
    """Let the worker's signal reach the body that this pool process runs."""
    signal.signal(ASKED_BY, _hear)


def _hear(_signal: int, frame: FrameType | None) -> None:
    """Raise in the body; never in the lines around it, where it has not begun or is over."""
    if frame is None or _is_around(frame):
        return
    for body in tuple(_running.values()):  # a pool process runs one
        if error := body.reason_to_end():
            raise error


def _is_around(frame: FrameType) -> bool:
    return frame.f_globals is globals()
