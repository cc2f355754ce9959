"""What has come of a reply so far, kept for its readers: one append-only log for each task id.

An entry is named ``(run, last)``: which run of the call wrote it, a number that grows, and which
of the run's events, from 1, is the last in it. So whoever reads on after an event finds the rest
by its name alone; a hole shows; an entry that is written twice, after a lost reply, is there
once; and a run that another has followed can write nothing any more.
"""

from __future__ import annotations

import select
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from celery_lanes.errors import StoreError

TTL_MS = 3_600_000
"""How long a transcript is kept after its last entry, and a stop after it was asked for."""

PAGE = 100
"""Entries that are read at once."""

MAX_DIGITS = 19
"""Of the numbers in a name, which the server takes for 64 bits."""

Stop = Literal["", "abort", "drain"]
"""How a call is to end whose reply is not wanted any more; "" while it is."""


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in a transcript: after event ``index`` of a run; 0 and 0 is its beginning."""

    run: int = 0
    index: int = 0

    def __str__(self) -> str:
        return f"{self.run}-{self.index}"

    @classmethod
    def parse(cls, text: str) -> Mark:
        """Read what ``str`` wrote. Raises ``ValueError``."""
        run, dash, index = str(text).partition("-")
        if not (dash and _is_count(run) and _is_count(index)):
            raise ValueError(
                f"expected the id of an event, such as 1764144000000-7, got {text!r:.100}"
            )
        return cls(int(run), int(index))


@dataclass(frozen=True, slots=True)
class Entry:
    """Some events of one run, as JSON.

    Attributes:
        last: the place after them.
        number: which run of the call it is, from 1.
        payload: what is kept; the store does not look into it.
    """

    last: Mark
    number: int
    payload: str


@dataclass(frozen=True, slots=True)
class Draft:
    """What a writer says: an entry, and from where on the transcript is to be kept.

    Without an entry it only asks whether the call is to stop; if ``is_opening``, also for the last
    entry that is there.
    """

    task_id: str
    keep_from: Mark = Mark()
    entry: Entry | None = None
    is_opening: bool = False

    @property
    def size(self) -> int:
        """How many characters its entry has."""
        return len(self.entry.payload) if self.entry else 0


@dataclass(frozen=True, slots=True)
class Heard:
    """What a writer is told. ``is_superseded``: a later run has begun; nothing was written.

    ``last``: the last entry, to one who opens a run.
    """

    stop: Stop = ""
    is_superseded: bool = False
    last: Entry | None = None


class Follower(Protocol):
    """One reader's ear; for one thread at a time."""

    def ask(self, after: Mark, wait_ms: int) -> None:
        """Ask for what comes after a place, to be answered when there is something."""

    def take(self) -> list[Entry]:
        """Read the answer, waiting for it if need be; nothing, if nothing came in time.

        Nothing either, if another thread has closed it meanwhile, or ``StoreUnavailable``.
        """

    def fileno(self) -> int:
        """Give what becomes readable when ``take`` need not wait; -1 for nothing."""

    def close(self) -> None:
        """Stop listening. May be repeated."""


class Transcripts(Protocol):
    """The verbs; all may be repeated. Any but ``write`` may raise ``StoreUnavailable``."""

    def write(self, drafts: Sequence[Draft]) -> list[Heard | StoreError]:
        """Write entries, each once, of transcripts that differ.

        Gives an error in the place of each that could not be written, or may have been: a part of a
        cluster may be away.
        """

    def last(self, task_id: str) -> Entry | None:
        """Read the last entry."""

    def stop(self, task_id: str, how: Stop) -> None:
        """Have a call end that writes, or will."""

    def follow(self, task_id: str) -> Follower:
        """Make a reader's ear; nothing is opened yet."""

    def disconnect(self) -> None:
        """Close all connections; the next verb opens them again."""


def known_stop(word: str) -> Stop:
    """Read how a call is to end; what a newer version may have written ends it at once."""
    if word in {"", "drain"}:
        return "drain" if word else ""
    return "abort"


def is_readable(descriptor: int, wait_s: float) -> bool:
    """Wait so long for something to read."""
    poll = select.poll()  # select() refuses descriptors from 1024 on
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(wait_s * 1000))


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < MAX_DIGITS
