"""Transcripts in plain Python, for one process."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import RLock
from weakref import WeakSet

from celery_lanes.errors import StoreError
from celery_lanes.store.transcripts import PAGE, TTL_MS, Draft, Entry, Heard, Mark, Stop


@dataclass(slots=True)
class _Log:
    entries: list[Entry] = field(default_factory=list)
    expires_at: float = 0.0


class MemoryTranscripts:
    """What one process has written, for readers within it. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = RLock()
        self._logs: dict[str, _Log] = {}
        self._stops: dict[str, tuple[Stop, float]] = {}
        self._followers: WeakSet[MemoryFollower] = WeakSet()

    def write(self, drafts: Sequence[Draft]) -> list[Heard | StoreError]:
        """Write entries, and tell those who wait for them."""
        with self._lock:
            self._forget()
            return [self._write(draft) for draft in drafts]

    def last(self, task_id: str) -> Entry | None:
        """Read the last entry."""
        with self._lock:
            self._forget()
            log = self._logs.get(task_id)
            return log.entries[-1] if log and log.entries else None

    def stop(self, task_id: str, how: Stop) -> None:
        """Have a call end."""
        with self._lock:
            self._stops[task_id] = how, self._clock() + TTL_MS / 1000

    def follow(self, task_id: str) -> MemoryFollower:
        """Make a reader's ear."""
        follower = MemoryFollower(self, task_id)
        with self._lock:
            self._followers.add(follower)
        return follower

    def after(self, task_id: str, place: Mark) -> list[Entry]:
        """Read what comes after a place."""
        with self._lock:
            self._forget()
            log = self._logs.get(task_id) or _Log()
            return [entry for entry in log.entries if entry.last > place][:PAGE]

    def disconnect(self) -> None:
        """Have nothing to close."""

    def _write(self, draft: Draft) -> Heard:
        stop, _ = self._stops.get(draft.task_id, ("", 0.0))
        if draft.entry is None:
            return Heard(stop, last=self.last(draft.task_id) if draft.is_opening else None)
        log = self._logs.setdefault(draft.task_id, _Log())
        newest = log.entries[-1].last if log.entries else Mark()
        if draft.entry.last <= newest:
            return Heard(stop, is_superseded=draft.entry.last != newest)
        log.entries.append(draft.entry)
        log.entries = [entry for entry in log.entries if entry.last >= draft.keep_from]
        log.expires_at = self._clock() + TTL_MS / 1000
        for follower in self._followers:
            follower.hear(draft.task_id)
        return Heard(stop)

    def _forget(self) -> None:
        now = self._clock()
        for task_id in [key for key, log in self._logs.items() if log.expires_at <= now]:
            del self._logs[task_id]
        for task_id in [key for key, (_, until) in self._stops.items() if until <= now]:
            del self._stops[task_id]


class MemoryFollower:
    """A pair of connected sockets: what is written makes the one end readable."""

    def __init__(self, transcripts: MemoryTranscripts, task_id: str) -> None:
        self._transcripts, self._task_id = transcripts, task_id
        self._inner, self._outer = socket.socketpair()
        self._inner.settimeout(0)
        self._outer.settimeout(0)
        self._after = Mark()

    def hear(self, task_id: str) -> None:
        """Note that something was written; called from any thread."""
        if task_id == self._task_id:
            with suppress(BlockingIOError, OSError):  # readable already, or closed
                self._inner.send(b".")

    def ask(self, after: Mark, wait_ms: int) -> None:  # noqa: ARG002 # nobody is kept waiting
        """Begin to wait for what comes after a place; it may be there."""
        self._after = after
        if self._found():
            self.hear(self._task_id)

    def take(self) -> list[Entry]:
        """Read what is there."""
        with suppress(OSError):  # there is no more, or it is closed
            while self._outer.recv(4096):
                pass
        return self._found()

    def fileno(self) -> int:
        """Give what becomes readable."""
        return self._outer.fileno()

    def close(self) -> None:
        """Stop listening."""
        self._inner.close()
        self._outer.close()

    def _found(self) -> list[Entry]:
        return self._transcripts.after(self._task_id, self._after)
