"""What is said to a caller whose call, or whose code, would wait too long for a lane."""

from __future__ import annotations

from celery_lanes.config.durations import rounded
from celery_lanes.errors import LaneBusy
from celery_lanes.store.calls import Busy


def refused(lane: str, verdict: Busy, max_wait_s: float) -> LaneBusy:
    """Say that it would wait longer than it may; nothing was published, and nothing waits."""
    eta_s = verdict.wait_ms / 1000
    return LaneBusy(
        f"lane {lane} is busy: the call would wait {rounded(eta_s)} behind"
        f" {verdict.ahead} others, more than {rounded(max_wait_s)}",
        verdict.ahead + 1,
        eta_s,
        eta_s - max_wait_s,
    )


def timed_out(
    lane: str, max_wait_s: float, *, ahead: int | None = None, wait_ms: int | None = None
) -> LaneBusy:
    """Say that it has waited as long as it may, and what was still before it, if that is known."""
    behind = f", and {ahead} others are still before it" if ahead else ""
    eta_s = None if wait_ms is None else wait_ms / 1000
    return LaneBusy(
        f"lane {lane} is busy: no slot came free for it within {rounded(max_wait_s)}{behind}",
        None if ahead is None else ahead + 1,
        eta_s,
        None if eta_s is None else max(0.0, eta_s - max_wait_s),
    )
