"""What one worker has of one lane: its attempts, and its news for the store."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from celery_lanes.store.attempts import Closing, Release, Turn
from celery_lanes.store.base import MAX_BATCH
from celery_lanes.worker.arrivals import Arrivals
from celery_lanes.worker.attempt import Attempt
from celery_lanes.worker.batch import fitting

MAX_CLOSINGS = 4
MAX_RELEASES = 200
LET_GO_WITHIN_S = 8.0
"""The store takes back what we have not named for 5 s, if we name anything, be it nothing."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to the store; repeated under the same number until it is answered.

    ``sent_at``: when it was first sent. What it was granted may be as old as that.
    """

    request: int
    sent_at: float
    want: int
    closings: int
    releases: tuple[Release, ...]


@dataclass(slots=True)
class Move:
    """A call that this worker is to admit to its next lane; see ``journey``.

    ``proven_at``: the monotonic time at which its closing was ours for certain. ``rests_until``:
    not tried again before, for the next lane was away.
    """

    closing: Closing
    proven_at: float
    rests_until: float = 0.0


@dataclass(slots=True)
class LaneShare:
    """The ledger of one lane in one worker; touched by the store thread only, but for arrivals.

    Attributes:
        is_served: the worker consumes the lane's queue.
        is_ready: the store may have a call for us; false once it has registered us as idle.
        is_woken: the store may have something for us; ask, room or no room.
        is_called: it has called us; ask even if the lane is not ours any more, so that it can call
            another.
        has_more_to_close: the store had as many results to write as we asked for.
        due_at: ask again at this monotonic time.
        served_at: the number of the last turn.
        tended_at: when its leases were last renewed, or that was tried.
        named_until: until then also a renewal of nothing says something: what we have let go.
        rests_until: no turn before this monotonic time, for the store has refused one, or was away.
    """

    lane: str
    is_served: bool = False
    is_ready: bool = False
    is_woken: bool = False
    is_called: bool = False
    has_more_to_close: bool = False
    is_configured: bool = False
    due_at: float | None = None
    served_at: int = 0
    tended_at: float = 0.0
    rests_until: float = 0.0
    named_until: float = 0.0
    patience_s: float = 10.0
    attempts: dict[str, Attempt] = field(default_factory=dict)
    closings: dict[str, Closing] = field(default_factory=dict)
    releases: list[Release] = field(default_factory=list)
    arrivals: Arrivals = field(default_factory=Arrivals)
    written: list[Closing] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    _request: int = 0
    _pending: Ask | None = None
    _missing: dict[str, float] = field(default_factory=dict)
    _unplaced: list[Attempt] = field(default_factory=list)

    @property
    def has_news(self) -> bool:
        """Whether the store has something to hear from us, now or soon."""
        return bool(self.arrivals or self.written or self.moves) or self.must_ask

    @property
    def must_speak(self) -> bool:
        """Whether the next turn is due, room or no room."""
        return bool(self.written or self.due_moves) or self.must_ask or self.must_admit

    @property
    def must_admit(self) -> bool:
        """Whether the arrivals go now: they may be all that we could start, or need not wait."""
        return bool(self.arrivals) and (not self.is_ready or self.arrivals.are_due)

    @property
    def due_moves(self) -> list[Move]:
        """Name the moves that may be finished now."""
        if not self.moves:
            return self.moves
        now = time.monotonic()
        return [move for move in self.moves if move.rests_until <= now]

    @property
    def must_ask(self) -> bool:
        """Whether the next turn must be asked for, room or no room."""
        is_told = self.is_called or (self.is_woken and self.is_served)
        can_close_more = self.has_more_to_close and len(self.closings) < MAX_CLOSINGS
        return bool(self.releases or self._pending) or is_told or can_close_more

    @property
    def may_grant(self) -> bool:
        """Whether asking for calls makes sense."""
        return self.is_served and self.is_ready

    @property
    def due_times(self) -> list[float]:
        """Say when a turn will be due by itself."""
        arrivals = [max(self.arrivals.due_at, self.rests_until)] if self.arrivals else []
        moves = [max(move.rests_until, self.rests_until) for move in self.moves]
        return [*arrivals, *moves] if self.due_at is None else [*arrivals, *moves, self.due_at]

    @property
    def undispatched(self) -> int:
        """Count the granted calls that are not in the pool yet."""
        self._unplaced = [a for a in self._unplaced if not (a.is_placed or a.has_ended)]
        return len(self._unplaced)

    def take(self, attempt: Attempt) -> None:
        """Enter a grant."""
        self.attempts[attempt.grant.call] = attempt
        self._unplaced.append(attempt)

    def give_back(self, attempt: Attempt) -> None:
        """Release an attempt, unless its lease is gone and the call perhaps ours anew."""
        if self.attempts.get(attempt.grant.call) is not attempt:
            return
        self.lose(attempt.grant.call)
        self.releases.append(attempt.release())
        self.is_ready = True  # a slot of this lane is free again, if only the one we give back

    def lose(self, call: str) -> Attempt | None:
        """Take an attempt off the ledger, which has ended or whose lease is gone."""
        self._missing.pop(call, None)
        return self.attempts.pop(call, None)

    def shut(self) -> None:
        """Write no more results, which others may; what moves goes on, for we can do it at once."""
        moving = {move.closing.call for move in self.moves}
        kept = {call: c for call, c in self.closings.items() if call in moving}
        if len(kept) < len(self.closings):
            self.named_until = time.monotonic() + LET_GO_WITHIN_S
        self.closings = kept

    def wake(self) -> None:
        """Note that the store may have something for us."""
        self.is_ready = self.is_woken = True

    def hear(self) -> None:
        """Note that the store has called."""
        self.is_called = True
        self.wake()

    def look_at_clock(self, now: float) -> None:
        """Wake when a delayed call or a refilled bucket is due."""
        if self.due_at is not None and now >= self.due_at:
            self.due_at = None
            self.wake()

    def ask(self, want: int, *, now: float, can_close: bool) -> Ask:
        """Compose the next request, or repeat the one that has had no answer."""
        if self._pending is None:
            self._request += 1
            releases = self._releases_to_tell()
            can_close = can_close and self.is_served
            self.has_more_to_close = self.has_more_to_close and can_close
            room = MAX_CLOSINGS - len(self.closings) if can_close else 0
            self._pending = Ask(self._request, now, want, max(0, room), releases)
        return self._pending

    def _releases_to_tell(self) -> tuple[Release, ...]:
        """Take the oldest; those of calls that go on carry their messages."""
        oldest = self.releases[:MAX_RELEASES]
        count = fitting(release.envelope for release in oldest)
        del self.releases[:count]
        return tuple(oldest[:count])

    def answered(self, ask: Ask, turn: Turn) -> None:
        """Take note of an answer: what it says about asking again."""
        self._pending = None
        self.is_woken = self.is_called = False
        if ask.closings:
            ended = {release.call for release in ask.releases}  # what we have moved comes besides
            others = [closing for closing in turn.closings if closing.call not in ended]
            self.has_more_to_close = len(others) == ask.closings
        if ask.want:
            self.is_ready = len(turn.grants) == min(ask.want, MAX_BATCH)
        if turn.due_in_ms is not None:
            self.due_at = time.monotonic() + turn.due_in_ms / 1000

    @property
    def certain_s(self) -> float:
        """Say for how long after the store has given or renewed a lease it cannot be another's."""
        return 2 * self.patience_s

    def trust_leases(self, renewed_at: float) -> None:
        """Note that the leases were renewed."""
        for attempt in self.attempts.values():
            attempt.good_until = renewed_at + self.certain_s

    def held(self) -> list[tuple[str, str]]:
        """Name every lease that this worker holds, of running and closing calls."""
        running = [(call, attempt.grant.token) for call, attempt in self.attempts.items()]
        closing = [(call, closing.token) for call, closing in self.closings.items()]
        return [*running, *closing, *self._unsaid()]

    def _unsaid(self) -> list[tuple[str, str]]:
        """Name what has ended and the store has not heard of: put back, it would run again."""
        pending = self._pending.releases if self._pending else ()
        unsaid = (*self.releases, *pending)
        return [(end.call, end.token) for end in unsaid if end.call not in self.attempts]

    def settle_the_vanished(self, after_s: float) -> None:
        """Release as lost what the pool has silently dropped: its job has been gone for a while."""
        now = time.monotonic()
        for call, attempt in list(self.attempts.items()):
            if not attempt.has_vanished:
                self._missing.pop(call, None)
            elif now - self._missing.setdefault(call, now) > after_s:
                attempt.is_lost, attempt.requeue = True, True
                attempt.end()
