"""How tests wait: for a state, by a deadline; and for so long only where time is the matter."""

from __future__ import annotations

import time
from collections.abc import Callable

STEP_S = 0.02
LONGEST_S = 60


def until(
    is_so: Callable[[], object],
    *,
    timeout_s: float = 30,
    step_s: float = STEP_S,
    story: Callable[[], str] = str,
) -> None:
    """Wait for a state that nobody announces; ``story`` is told where it does not come."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"it did not come to pass {story()}"
        time.sleep(step_s)


def pass_time(seconds: float, *, because: str) -> None:
    """Let time pass: it is what the test is about, or there is nothing else to wait for."""
    assert because
    assert 0 <= seconds <= LONGEST_S
    time.sleep(seconds)
