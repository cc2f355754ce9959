"""What is promised, what the run has shown of it, and whether it was kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from celery_lanes.chaos.figures import Figures
from celery_lanes.chaos.options import ChaosOptions
from celery_lanes.chaos.overlaps import GRACE_S

FEW = 0.05
"""The part of the recoveries that may be late: p95."""

FAIR = 0.9
"""Jain's index below which the shares were not fair."""


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise: what was seen, and the sentence that says how it was broken, or nothing."""

    name: str
    seen: str
    breach: str = ""

    @property
    def is_kept(self) -> bool:
        """Whether it was kept."""
        return not self.breach


def promises(shown: Figures, options: ChaosOptions) -> list[Promise]:
    """Go through all promises."""
    return [*_of_calls(shown, options), *_of_time(shown, options), *_of_the_end(shown, options)]


def breaches(shown: Figures, options: ChaosOptions) -> list[str]:
    """Say which promises were broken; nothing if all were kept."""
    return [promise.breach for promise in promises(shown, options) if promise.breach]


def _of_calls(shown: Figures, options: ChaosOptions) -> Iterator[Promise]:
    yield _none("lost", shown.lost, "accepted calls have no result")
    yield _none("failed", shown.failed, "calls ended with an error that no fault explains")
    over = f"highest {shown.highest} of {options.cap}, {shown.over_cap_s:.2f} s over"
    is_over = shown.highest > options.cap
    yield Promise("over cap", over, f"over cap: {over}" if is_over else "")
    yield _none("twice at once", shown.twice_at_once, "calls were at work twice at the same time")
    went_on = f"{shown.stale}, at most {shown.stale_max_s:.2f} s (allowed: {GRACE_S:g} s)"
    is_stale = shown.stale_max_s > GRACE_S
    name = "bodies that went on after a pause"
    yield Promise(name, went_on, f"{name}: {went_on}" if is_stale else "")
    yield _none("duplicates", shown.duplicates, "calls ran again though no fault explains it")
    yield _none("results changed", shown.changed, "tasks ended again as something else")
    yield _none("ended again", shown.ended_again, "early calls ended more than once")


def _of_time(shown: Figures, options: ChaosOptions) -> Iterator[Promise]:
    yield Promise("recovery after a SIGKILL", str(shown.recovery))
    limit = f"allowed: p95 {options.recovery_s:g} s"
    seen = f"{shown.net_recovery} ({limit}; {shown.late_recoveries} late)"
    is_late = shown.late_recoveries > FEW * shown.net_recovery.count
    yield Promise("  less outages", seen, f"recovery: {seen}" if is_late else "")
    shares = ", ".join(f"{caller} {count}" for caller, count in sorted(shown.shares.items()))
    index = "too few runs" if math.isnan(shown.jain) else f"Jain's index {shown.jain:.3f}"
    fair = f"{index} ({shares})"
    is_unfair = shown.jain < FAIR
    yield Promise("fair shares", fair, f"unfair: {fair}, expected {FAIR}" if is_unfair else "")


def _of_the_end(shown: Figures, options: ChaosOptions) -> Iterator[Promise]:
    limit = f"(allowed: {options.drain_s:.0f} s)"
    pending = f"not yet after {shown.drained_s:.1f} s {limit}: {', '.join(shown.pending)}"
    seen = pending if shown.pending else f"{shown.drained_s:.1f} s {limit}"
    breach = f"drain: {pending}" if shown.pending else ""
    yield Promise("all ended, all workers there, after", seen, breach)
    left = "; ".join(shown.left)
    breach = f"left in the store: {left}" if left else ""
    yield Promise("left in the store", left or "nothing", breach)
    gone = f"{shown.gone}, {shown.gone_kombus} of them by an error of kombu's"
    breach = f"workers that ended by themselves: {gone}" if shown.gone > shown.gone_kombus else ""
    yield Promise("workers that ended by themselves", gone if shown.gone else "0", breach)


def _none(name: str, count: int, what: str) -> Promise:
    return Promise(name, str(count), f"{name}: {count} {what}" if count else "")
