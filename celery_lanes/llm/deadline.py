"""How long a provider may take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from celery_lanes.errors import ProviderError

CONNECT_TIMEOUT_S = 10.0
MAX_WAIT_S = 24 * 3600.0
"""The longest wait that sockets are asked for: they cannot count up to infinity."""

_CLOSE_S = 0.05

Failure = TypeVar("Failure", bound=ProviderError)


class Left(float):
    """How many seconds were left of a step when it began.

    Attributes:
        now: gives those that are left now, perhaps below 0.
    """

    now: Callable[[], float]


class Deadline(Mapping[str, float]):
    """The end of a call, as the time-outs that httpcore asks for before each step.

    Each is what is then left of the whole; so they cannot add up to more. httpcore asks but once
    for all that it reads of an answer's head, and of its body: each is a ``Left``, which tells
    ``network`` anew before each wait.

    Args:
        timeout_s: for all of it.
        idle_s: for each silence within; what counts as a sign of life is for ``renew`` to say.
    """

    def __init__(self, timeout_s: float, *, idle_s: float = math.inf) -> None:
        self._timeout_s = timeout_s
        self._ends_at = time.monotonic() + timeout_s
        self._idle_s = idle_s
        self.renew()

    def __getitem__(self, step: str) -> Left:
        """Give the time-out of a step (connect, pool, write, read) in seconds, never quite 0.

        The provider is silent from when it is first read from: what is before that is our own.
        """
        if step == "read":
            self.renew()
        ends_at = time.monotonic() + (CONNECT_TIMEOUT_S if step == "connect" else MAX_WAIT_S)

        def now() -> float:
            over_at = self._over_at if step == "read" else self._ends_at
            return min(over_at, ends_at) - time.monotonic()

        left = Left(max(now(), 0.001))
        left.now = now
        return left

    def __iter__(self) -> Iterator[str]:
        return iter(("connect", "pool", "write", "read"))

    def __len__(self) -> int:
        return len(tuple(self))

    def __str__(self) -> str:
        """Say what was exceeded, if it was."""
        is_silence = self._idle_s < math.inf and time.monotonic() < self._ends_at - _CLOSE_S
        if is_silence:
            return f"was silent for {self._idle_s:g} s"
        return f"gave no answer within {self._timeout_s:g} s"

    def renew(self) -> None:
        """Begin the silence anew."""
        self._silent_at = time.monotonic() + self._idle_s

    def hurry(self, timeout_s: float) -> None:
        """Let it end in ``timeout_s`` seconds, if it does not before."""
        self._ends_at = min(self._ends_at, time.monotonic() + timeout_s)

    def noted_on(self, error: Failure) -> Failure:
        """Write on a failure how long the provider was given, if that has just run out."""
        now = time.monotonic() + _CLOSE_S
        if now >= self._ends_at:
            error.given_s = self._timeout_s
        elif now >= self._silent_at:
            error.given_s = self._idle_s
        return error

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._over_at

    @property
    def _over_at(self) -> float:
        return min(self._ends_at, self._silent_at)
