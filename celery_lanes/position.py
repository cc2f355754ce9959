"""Where a call stands in its lane, and why it waits: as callers and operators are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from celery_lanes.config.durations import rounded
from celery_lanes.errors import NotQueued
from celery_lanes.store.base import Store
from celery_lanes.store.standing import Hold, Standing

AT_ANY_MOMENT_S = 0.05

LOOKS = 2
"""A call that moves while its lanes are gone through may be in none of them at the first look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """One reading of a call's place. What is published later is not foreseen, and may pass it.

    Attributes:
        lane: where the call is.
        own_ahead: calls of its caller that go before it; in a fifo lane, of all callers.
        others_ahead: calls of other callers that fair order serves before it.
        is_at_least: more than 250 callers go before it, and there may be more calls of theirs.
        eta_s: seconds until it starts, a range that half of the starts should be in, by the last 63
            calls that ended well: those ahead take their mean, more or less; what runs, as long as
            the quicker quarter or the slower. ``None``: it does not wait, or nobody can tell
            (paused, no slots, no worker, no call has ended well yet).
        reason: what holds it up; see ``Hold`` for which one if there are several.
        explanation: the same in one line.
    """

    lane: str
    own_ahead: int
    others_ahead: int
    is_at_least: bool
    eta_s: tuple[float, float] | None
    reason: Hold
    explanation: str

    @property
    def place(self) -> int:
        """Give its place in the order of service, from 1; 0 if it does not wait any more."""
        is_over = self.reason in (Hold.RUNNING, Hold.CLOSING)
        return 0 if is_over else self.own_ahead + self.others_ahead + 1


def find_position(store: Store, task_id: str, lanes: Iterable[str]) -> Position:
    """Look for a task id in lanes, one after another; if it is in several, where it waits counts.

    Raises ``NotQueued`` if none has it.
    """
    known = list(lanes)
    for _ in range(LOOKS):
        if position := _look(store, task_id, known):
            return position
    raise NotQueued(
        f"{task_id} is in no lane: it has ended, was never published, or is still in the broker"
    )


def _look(store: Store, task_id: str, lanes: Iterable[str]) -> Position | None:
    over: Position | None = None
    for lane in lanes:
        with suppress(NotQueued):
            position = position_of(store.position(lane, task_id))
            if position.place:
                return position
            over = over or position
    return over


def position_of(standing: Standing) -> Position:
    """Say what a reading means."""
    return Position(
        lane=standing.lane,
        own_ahead=standing.own_ahead,
        others_ahead=standing.others_ahead,
        is_at_least=standing.is_at_least,
        eta_s=_eta_s(standing),
        reason=standing.hold,
        explanation=_explanation(standing),
    )


def in_about(eta_s: tuple[float, float]) -> str:
    """Write a range of seconds as people read it: in about 4.2s, in about 12s to 3m 20s."""
    if eta_s[1] < AT_ANY_MOMENT_S:
        return "at any moment"
    low, high = map(rounded, eta_s)
    return f"in about {low}" if low == high else f"in about {low} to {high}"


def _eta_s(standing: Standing) -> tuple[float, float] | None:
    if (eta_ms := standing.eta_ms) is None:
        return None
    low_ms, high_ms = eta_ms
    return low_ms / 1000, high_ms / 1000


def _explanation(standing: Standing) -> str:
    parts = [_WHY[standing.hold](standing)]
    if standing.is_waiting and standing.hold is not Hold.NOTHING:
        parts.append(_ahead(standing))
        if (eta_s := _eta_s(standing)) is not None:
            parts.append(f"it starts {in_about(eta_s)}")
    return f"{standing.lane}: {'; '.join(parts)}"


def _ahead(standing: Standing) -> str:
    least = "at least " if standing.is_at_least else ""
    whose = (
        (standing.others_ahead, f"{least}{_calls(standing.others_ahead)} of other callers"),
        (standing.own_ahead, _own(standing)),
    )
    told = " and ".join(words for count, words in whose if count)
    verb = "goes" if standing.ahead == 1 else "go"
    return f"{told} {verb} before it" if told else "it is next"


def _own(standing: Standing) -> str:
    count = _calls(standing.own_ahead)
    return count if standing.is_fifo else f"{count} of its own caller"


def _busy(standing: Standing) -> str:
    slots = standing.max_concurrent
    if not slots:
        return "the lane has no slots"
    if standing.running < slots:
        return "the free slots go to calls before it"
    return "the only slot is busy" if slots == 1 else f"all {slots} slots are busy"


def _closing(standing: Standing) -> str:
    what = "its result is being written, or it moves on"
    if not standing.workers:
        what = "no worker serves the lane, to write its result and what hangs on it"
    return f"it neither waits nor runs here any more; {what}"


def _calls(count: int) -> str:
    return "1 call" if count == 1 else f"{count} calls"


_WHY: dict[Hold, Callable[[Standing], str]] = {
    Hold.RUNNING: lambda _: "it runs",
    Hold.CLOSING: _closing,
    Hold.DELAYED: lambda s: f"it is due in {rounded(s.due_in_ms / 1000)}",
    Hold.PAUSED: lambda _: "the lane is paused",
    Hold.CALLER_PAUSED: lambda _: "its caller is paused",
    Hold.NO_WORKER: lambda _: "no worker serves the lane",
    Hold.PROVIDER_WAIT: lambda s: (
        f"the provider asked to wait for {rounded(s.provider_wait_ms / 1000)}"
    ),
    Hold.CALLER_RATE: lambda _: "its caller's rate is used up",
    Hold.LANE_RATE: lambda _: "the lane's rate is used up",
    Hold.LANE_TOKENS: lambda _: "the lane's tokens are used up",
    Hold.NOTHING: lambda _: "a slot is free for it; it starts as soon as a worker has room",
    Hold.SHARE: lambda s: f"{_busy(s)}, and other callers have their share",
    Hold.CAP: _busy,
}
