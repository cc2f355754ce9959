"""How long a provider may take."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping

CONNECT_TIMEOUT_S = 10.0
_CLOSE_S = 0.05


class Deadline(Mapping[str, float]):
    """The end of a call, as the time-outs that httpcore asks for before each step.

    Each is what is then left of the whole; so they cannot add up to more. Only a provider that
    sends a little and then stalls can use up to twice the time: the steps within one answer's
    body share one time-out, and the whole is checked after each piece that arrives.

    Args:
        timeout_s: for all of it.
        idle_s: for each silence within; what counts as a sign of life is for ``renew`` to say.
    """

    def __init__(self, timeout_s: float, *, idle_s: float = math.inf) -> None:
        self._timeout_s = timeout_s
        self._ends_at = time.monotonic() + timeout_s
        self._idle_s = idle_s
        self.renew()

    def __getitem__(self, step: str) -> float:
        """Give the time-out of a step (connect, pool, write, read) in seconds, never quite 0."""
        left_s = max(self._ends_at - time.monotonic(), 0.001)
        return min(left_s, CONNECT_TIMEOUT_S if step == "connect" else self._idle_s)

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

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= min(self._ends_at, self._silent_at)
