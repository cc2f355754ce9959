"""One streamed call's way out of its worker: the body adds pieces, the press prints them."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from dataclasses import dataclass
from threading import Event as Signal

from celery_lanes.llm.http.hangup import CallCancelled, Hangup
from celery_lanes.store.transcripts import Draft, Entry, Heard, Mark, Stop
from celery_lanes.streams.events import (
    Began,
    Cancelled,
    Ending,
    Piece,
    What,
    merged,
    to_json,
)

BATCH_S = 0.05
"""How long pieces are collected after others have gone out; the first goes at once."""

BATCH_PIECES = 20
"""So many are not collected any longer."""

ENTRY_PIECES = 500
"""So many go into one entry at most: after an outage there may be a hundred times as many."""

MAX_BYTES = 4 * 1024 * 1024
"""What is kept of one transcript; the oldest goes first."""

ENTRY_BYTES = 100
"""What an entry takes beside its events, more or less; so there are 40,000 at most."""

LOOK_S = 0.5
"""How often a silent call asks whether it is to stop, and is looked at for its silence."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a provider may be silent, in seconds: until its first piece, and after it."""

    first_token_s: float
    idle_s: float


class Pump:
    """What one call has to say, and what it is told.

    The body's thread calls ``add``, ``end`` and ``leave``; the press's thread everything else.

    ``granted_ms``: when its attempt was granted, which orders the runs of a call; ``None`` outside
    a lane, where the one that comes last is the last one. ``asked_at``: the monotonic time at which
    the store last heard of it.
    """

    def __init__(
        self, task_id: str, hangup: Hangup, patience: Patience, granted_ms: int | None = None
    ) -> None:
        self.task_id = task_id
        self.hangup = hangup
        self.is_over = Signal()
        self.is_unheard = False
        self._rests_until = -math.inf
        self._patience, self._granted_ms = patience, granted_ms
        self._said: deque[Piece | Ending] = deque()
        self._has_ended = self._is_mute = False
        self._stop: Stop = ""
        self._run = Mark()
        self._number = 1
        self._kept: deque[tuple[Mark, int]] = deque()
        self._bytes = 0
        self._draft: Draft | None = None
        self.asked_at = self._printed_at = -math.inf

    @property
    def is_drained(self) -> bool:
        """Whether its reply is read to its end for its cost only."""
        return self._stop == "drain"

    def add(self, piece: Piece) -> bool:
        """Take a piece; say whether the press should hear of it now."""
        if self._is_mute:
            return False
        self._said.append(piece)
        return len(self._said) in {1, BATCH_PIECES}

    def end(self, ending: Ending) -> None:
        """Take the last event; ``is_over`` tells when it has been printed."""
        self._said.append(ending)
        self._has_ended = True

    def leave(self) -> None:
        """Say no more, not even that it is the end: the call runs again, or somebody else says."""
        self.is_over.set()

    @property
    def has_begun(self) -> bool:
        """Whether its run has been opened."""
        return self._run.run > 0

    def due_at(self) -> float:
        """Say at which monotonic time the press must see to it."""
        count = 0 if self._is_mute else len(self._said)
        is_now = self._has_ended or not self.has_begun or self._draft is not None
        if is_now or count >= BATCH_PIECES:
            return self._rests_until
        due_at = min(self._printed_at + BATCH_S if count else math.inf, self.asked_at + LOOK_S)
        return max(due_at, self._rests_until)

    def rest(self, seconds: float) -> None:
        """Learn that the store did not take the draft; it is tried again after a while."""
        self.is_unheard = True
        self._rests_until = time.monotonic() + seconds

    def draft(self) -> Draft:
        """Give what is to be printed: again the same, until ``hear`` says that it has been.

        At first that is the question after what the transcript has already.
        """
        if not self.has_begun:
            return Draft(self.task_id, is_opening=True)
        if self._draft is None and self._said and not self._is_mute:
            self._compose(self._take())
        return self._draft or Draft(self.task_id)

    def hear(self, heard: Heard) -> None:
        """Learn that the draft has been printed, and whether the call is to stop."""
        self.is_unheard = False
        self.asked_at = time.monotonic()
        if not self.has_begun:
            self._stop = heard.stop
            self._begin(heard.last)
            return
        if self._draft is not None:
            self._printed_at, self._draft = self.asked_at, None
        self._stop = heard.stop
        if heard.is_superseded:
            self._fall_silent()
        if self._has_ended and (self._is_mute or not self._said):
            self.is_over.set()
        elif self.is_drained and not self._is_mute:
            self._compose([Cancelled()])
            self._fall_silent()

    def look(self) -> None:
        """End the call if it is to stop, and its attempt if the provider has been silent."""
        hangup, patience = self.hangup, self._patience
        silent_s = hangup.silent_s
        if self._stop == "abort":
            hangup.cut(CallCancelled())
        elif hangup.has_begun and silent_s > patience.idle_s:
            hangup.lapse(f"was silent for {patience.idle_s:g} s")
        elif not hangup.has_begun and silent_s > patience.first_token_s:
            hangup.lapse(f"began no answer within {patience.first_token_s:g} s")

    def _begin(self, before: Entry | None) -> None:
        """Open a run, after what the transcript has; but not if the call has left meanwhile.

        It may run elsewhere by now. If it does, and has begun there, this run was granted before
        that one: the store refuses its first entry.
        """
        if self.is_over.is_set():
            return
        self._run = Mark(self._granted_ms or self._next_run(before))
        self._number = before.number + 1 if before else 1
        began = Began(type="restart" if before else "start", attempt=self._number)
        self._compose([began, *self._take()])

    def _next_run(self, before: Entry | None) -> int:
        return max(round(time.time() * 1000), before.last.run + 1 if before else 0)

    def _fall_silent(self) -> None:
        """Print nothing more, and keep nothing of it."""
        self._is_mute = True
        self._said.clear()

    def _take(self) -> list[What]:
        """Take what has been said by now, up to the end, or as much as goes into one entry."""
        pieces: list[Piece] = []
        ending: list[What] = []
        for _ in range(min(len(self._said), ENTRY_PIECES)):
            said = self._said.popleft()
            if isinstance(said, Piece):
                pieces.append(said)
            else:
                ending.append(said)
        return [*merged(pieces), *ending]

    def _compose(self, events: list[What]) -> None:
        payload = json.dumps([to_json(event) for event in events])
        self._run = Mark(self._run.run, self._run.index + len(events))
        self._keep(self._run, len(payload) + ENTRY_BYTES)
        entry = Entry(self._run, self._number, payload)
        self._draft = Draft(self.task_id, self._kept[0][0], entry)

    def _keep(self, last: Mark, size: int) -> None:
        """Keep an entry and, of the older ones of this run, as many as there is room for."""
        self._kept.append((last, size))
        self._bytes += size
        while self._bytes > MAX_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popleft()[1]
