"""How a call is ended that waits for its provider: by another thread, which shuts its socket."""

from __future__ import annotations

import math
import os
import time
from _socket import socket as native_socket  # gevent replaces the public one
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from socket import SHUT_RDWR, socket
from typing import Any


class CallCancelled(BaseException):
    """Ends a call whose answer nobody wants any more; a chain asks nobody else for it.

    ``attempts`` is its ledger, as ``ProviderError`` has one.
    """

    attempts: Sequence[Mapping[str, Any]] = ()


class Hangup:
    """Ends what one thread waits for, from any other; the thread finds out why.

    A thread that reads a socket does not notice when it is closed, but does when it is shut down.
    ``network`` says ``on`` which socket it waits now; one that waits for something else says
    ``during`` its wait how that ends. There is no lock, which would have to span native threads and
    greenlets: whoever has found the socket here has said before that it is to be given up, and its
    thread sees that when the wait is over, and lets nobody else have it.

    ``reason``: what ends the call. ``lapsed``: why only the line of this attempt was given up.
    ``has_begun``, ``sign_at``: whether, and at what monotonic time, it last gave a sign of life.
    """

    def __init__(self) -> None:
        self.reason: BaseException | None = None
        self.lapsed: str | None = None
        self.has_begun = False
        self.sign_at = math.inf
        self._end: Callable[[], object] | None = None

    def cut(self, reason: BaseException) -> None:
        """End the call for a reason. May be repeated."""
        self.reason = self.reason or reason
        self._shut()

    def lapse(self, why: str) -> None:
        """Give up this attempt; another may follow."""
        self.lapsed = why
        self._shut()

    def check(self, cause: BaseException | None = None) -> None:
        """Raise what ends the call, if anything does."""
        if self.reason is not None:
            raise self.reason from cause

    @property
    def is_over(self) -> bool:
        """Whether the line of this attempt is given up."""
        return self.reason is not None or self.lapsed is not None

    def on(self, line: socket) -> AbstractContextManager[None]:
        """Note which line is waited on within the block."""
        return self.during(partial(_shut_down, line))

    @contextmanager
    def during(self, end: Callable[[], object]) -> Iterator[None]:
        """Note what ends the wait within the block: for any thread, and perhaps just over."""
        self._end = end
        try:
            yield
        finally:
            self._end = None

    def opens(self) -> None:
        """Note that a new attempt begins. Raises what ends the call."""
        self.lapsed, self.has_begun, self.sign_at = None, False, time.monotonic()
        self.check()

    def lives(self) -> None:
        """Note that a piece of the answer has come."""
        self.has_begun, self.sign_at = True, time.monotonic()

    @property
    def silent_s(self) -> float:
        """How long it has given no sign of life."""
        return time.monotonic() - self.sign_at

    @contextmanager
    def excused(self) -> Iterator[None]:
        """Do not take the time of the block for the provider's silence: nobody listens."""
        sign_at, self.sign_at = self.sign_at, math.inf
        try:
            yield
        finally:
            self.sign_at = math.inf if sign_at == math.inf else time.monotonic()

    def _shut(self) -> None:
        if (end := self._end) is not None:
            with suppress(OSError):  # it has just been closed, or the other side was faster
                end()


def _shut_down(line: socket) -> None:
    """Shut a connection down, whatever is wrapped around it, without touching its reader."""
    twin = native_socket(fileno=os.dup(line.fileno()))
    try:
        twin.shutdown(SHUT_RDWR)
    finally:
        twin.close()


_here: ContextVar[Hangup | None] = ContextVar("celery_lanes_hangup", default=None)


def hangup_here() -> Hangup:
    """Give what may end the calls of this thread; outside ``interruptible`` nothing does."""
    return _here.get() or Hangup()


@contextmanager
def interruptible(hangup: Hangup) -> Iterator[None]:
    """Let ``hangup`` end the provider calls that this thread makes inside the block."""
    token = _here.set(hangup)
    try:
        yield
    finally:
        _here.reset(token)
