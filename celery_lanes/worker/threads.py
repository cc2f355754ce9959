"""A native thread, also where gevent has turned ``threading`` into greenlets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from kombu.utils.compat import detect_environment


class Joinable(Protocol):
    """A thread that can be waited for."""

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended."""


def start_native_thread(run: Callable[[], None], *, name: str) -> Joinable:
    """Start a daemon thread that a busy greenlet cannot hold up."""
    if detect_environment() == "gevent":
        return _gevent_thread(run)
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def _gevent_thread(run: Callable[[], None]) -> Joinable:
    from gevent.threadpool import ThreadPool  # noqa: PLC0415 # optional dependency

    pool = ThreadPool(1)
    return _GeventThread(pool.spawn(run))


class _GeventThread:
    def __init__(self, result: Any) -> None:
        self._result = result

    def join(self, timeout: float | None = None) -> None:
        """Wait within the main hub, so that other greenlets go on."""
        self._result.wait(timeout)
