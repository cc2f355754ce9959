"""How a worker of this process hears that a lane may have work for it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Lock


class MemoryEar:
    """A pair of connected sockets: what is heard makes the one end readable."""

    def __init__(self, forget: Callable[[], object]) -> None:
        self._forget = forget
        self._lock = Lock()
        self._heard: set[str] = set()
        self._inner, self._outer = socket.socketpair()
        self._inner.settimeout(0)
        self._outer.settimeout(0)

    def hear(self, lane: str) -> None:
        """Note a lane's name; called from any thread."""
        with self._lock:
            self._heard.add(lane)
        with suppress(BlockingIOError, OSError):  # full: readable already; closed: nobody listens
            self._inner.send(b".")

    def fileno(self) -> int:
        """Give a descriptor for ``select``."""
        return self._outer.fileno()

    def drain(self) -> set[str]:
        """Take what has come, without blocking."""
        with suppress(BlockingIOError):
            while self._outer.recv(4096):
                pass
        with self._lock:
            heard, self._heard = self._heard, set()
        return heard

    def close(self) -> None:
        """Stop listening."""
        self._forget()
        self._inner.close()
        self._outer.close()
