"""What an adaptive lane learns of its provider: how many calls it bears, and when it wants none.

Additive increase, multiplicative decrease, as TCP finds its share of a line:

- an *overload* (the provider refused a call because it is busy) halves the cap in force, not below
  1. What was granted before the cut tells of the cap before it, however it ends: so a burst of
  refusals of calls that ran together cuts once, at any service time;
- a *success* counts if at least half of the slots were in use: what runs alone does not tell
  whether the provider bears more. As many successes as the cap raise it by 1, up to the lane's own.
- a time that the provider asked to wait is waited by everybody, and never shortened by another.

Pure arithmetic, mirrored in ``redis/lua/_adapting.lua``.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_PROVIDER_WAIT_MS = 600_000


@dataclass(slots=True)
class Learned:
    """What one lane has learned; ``cap`` is ``None`` while there is nothing to learn from.

    ``successes``: since the cap last changed. ``cut_ms``, ``wait_ms``: when it was last cut, and
    until when the provider wants no calls.
    """

    cap: int | None = None
    successes: int = 0
    cut_ms: int = 0
    wait_ms: int = 0

    def in_force(self, ceiling: int | None) -> int | None:
        """Give the cap in force under the lane's own."""
        return ceiling if ceiling is None or self.cap is None else min(ceiling, self.cap)

    def left_ms(self, now: int) -> int:
        """Say for how long the provider wants no calls; a clock that jumped back ends it."""
        left_ms = self.wait_ms - now
        return left_ms if 0 < left_ms <= MAX_PROVIDER_WAIT_MS else 0

    def note_overload(self, granted_ms: int, now: int, ceiling: int | None) -> None:
        """Halve the cap, if the refused call was granted under the present one."""
        cap = self.in_force(ceiling)
        if cap is not None and self._is_news(granted_ms, now):
            self.cap, self.successes, self.cut_ms = max(1, cap // 2), 0, now

    def note_wait(self, asked_ms: int, now: int) -> None:
        """Wait for as long as the provider asks, up to 10 minutes."""
        longest_ms = max(self.left_ms(now), min(asked_ms, MAX_PROVIDER_WAIT_MS))
        self.wait_ms = now + longest_ms if longest_ms else 0

    def note_success(
        self, granted_ms: int, now: int, *, running: int, ceiling: int, usual: int
    ) -> None:
        """Count a call that ended well among ``running``; forget the cap where it binds no more.

        ``ceiling``: the lane's cap; ``usual``: what the settings say, if another was set.
        """
        if self.cap is None or self.cap >= ceiling or not self._is_news(granted_ms, now):
            return
        if 2 * running < self.cap:
            return
        self.successes += 1
        if self.successes >= self.cap:
            self.cap, self.successes = self.cap + 1, 0
        if self.cap >= max(ceiling, usual):
            self.cap = None

    def _is_news(self, granted_ms: int, now: int) -> bool:
        return granted_ms > self.cut_ms or self.cut_ms > now
