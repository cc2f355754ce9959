"""Messages between the store thread and the thread that may touch Celery's pool.

The store thread must never touch the pool, and the consumer's thread must never wait for the
store. Each has a mailbox; a pipe makes it selectable.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

logger = logging.getLogger(__name__)

Letter = tuple[Callable[..., None], tuple[Any, ...]]


class Mailbox:
    """Calls for another thread to make; any thread may post, one may open.

    A deque and a pipe instead of ``queue``: under gevent the latter is patched and would not
    work between native threads.
    """

    def __init__(self) -> None:
        self._letters: deque[Letter] = deque()
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._rung = False

    def fileno(self) -> int:
        """Give what to select on."""
        return self._read

    def post(self, call: Callable[..., None], *args: Any) -> None:
        """Leave a call; rings only if nobody has rung since the box was last opened.

        Who is interrupted as he rings (Ctrl-C, a soft time limit) has not rung: the note alone
        would leave the box deaf from then on.
        """
        self._letters.append((call, args))
        if self._rung:
            return
        try:
            self._rung = True
            with suppress(OSError):  # closed at shutdown: the last opening takes the rest
                os.write(self._write, b"\0")
        except BaseException:
            self._rung = False
            raise

    def open(self) -> None:
        """Make every call that has come, in order; one that fails is logged, not raised."""
        with suppress(BlockingIOError):
            os.read(self._read, 4096)
        self._rung = False  # before emptying: a letter posted from here on rings again
        while self._letters:
            call, args = self._letters.popleft()
            try:
                call(*args)
            except Exception:
                logger.exception("celery_lanes: %r failed", call)

    def close(self) -> None:
        """Give the pipe back."""
        os.close(self._read)
        os.close(self._write)


class Ear(Protocol):
    """Becomes readable when the store calls."""

    def fileno(self) -> int:
        """Give what to select on; -1 while it hears nothing."""


class Watch:
    """Waits for letters and for the store's call; one thread's own."""

    def __init__(self, mail: Mailbox) -> None:
        self._mail = mail
        self._polled: int | None = None

    def wait(self, ear: Ear | None, timeout_s: float | None) -> bool:
        """Wait for either; say whether the store has called.

        So it is with an ear that is broken: listening to it will say how.
        """
        reader = -1 if ear is None else ear.fileno()
        try:
            ready = self._poll_of(reader).poll(None if timeout_s is None else timeout_s * 1000)
        except OSError:
            return True
        return any(found == reader for found, _ in ready)

    def _poll_of(self, reader: int) -> select.poll:
        if reader != self._polled:
            self._poll = select.poll()  # select() refuses descriptors from 1024 on
            for each in {self._mail.fileno(), reader} - {-1}:
                self._poll.register(each, select.POLLIN)
            self._polled = reader
        return self._poll


class Postman(Protocol):
    """Brings calls into the thread that owns the pool."""

    def deliver(self, call: Callable[..., None], *args: Any) -> None:
        """Have a call made there, soon; never blocks."""

    def register_with_event_loop(self, hub: Any) -> None:
        """Attach to Celery's event loop; called again after each broker reconnect."""

    def stop(self) -> None:
        """Make the remaining calls, then stop."""


class HubPostman:
    """Delivers within Celery's event loop (prefork and threads on Redis or RabbitMQ)."""

    def __init__(self) -> None:
        self._box = Mailbox()
        self.deliver = self._box.post

    def register_with_event_loop(self, hub: Any) -> None:
        """Read the mailbox whenever the loop turns; the hub forgets readers at a reconnect."""
        hub.add_reader(self._box.fileno(), self._box.open)

    def stop(self) -> None:
        """Make the remaining calls here; the loop has ended."""
        self._box.open()


class PumpPostman:
    """Delivers from a thread of its own, where the worker has no event loop.

    Under gevent this thread is a greenlet of the main hub, which is just what is needed there.
    """

    def __init__(self) -> None:
        self._box = Mailbox()
        self.deliver = self._box.post
        self._stopping = False
        self._thread = threading.Thread(target=self._pump, name="lanes-dispatch", daemon=True)
        self._thread.start()

    def register_with_event_loop(self, hub: Any) -> None:
        """Do nothing: there is no event loop."""

    def stop(self) -> None:
        """Make the remaining calls and end the thread."""
        self.deliver(self._stop)
        self._thread.join(timeout=5)

    def _stop(self) -> None:
        self._stopping = True

    def _pump(self) -> None:
        while not self._stopping:
            select.select([self._box.fileno()], [], [])
            self._box.open()
