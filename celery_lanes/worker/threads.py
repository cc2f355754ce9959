"""A native thread, also under gevent, that no fork can catch at work."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from kombu.utils.compat import detect_environment

_at_work = threading.Lock()
os.register_at_fork(
    before=_at_work.acquire,
    after_in_parent=_at_work.release,
    after_in_child=_at_work.release,
)


class Joinable(Protocol):
    """A thread that can be waited for."""

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended."""


def unforked() -> AbstractContextManager[Any]:
    """Keep the process from forking meanwhile.

    A pool process that is forked while another thread imports a module, or holds any other lock,
    inherits that lock and waits for it for ever. So the store thread works inside this, and only
    sleeps outside. gevent's workers do not fork, and its locks do not span native threads.
    """
    return nullcontext() if detect_environment() == "gevent" else _at_work


def start_native_thread(run: Callable[[], None], *, name: str) -> Joinable:
    """Start a daemon thread that a busy greenlet cannot hold up."""
    if detect_environment() == "gevent":
        return _gevent_thread(run)
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def _gevent_thread(run: Callable[[], None]) -> Joinable:
    from gevent.threadpool import ThreadPool  # noqa: PLC0415 # optional dependency

    return _GeventThread(ThreadPool(1).spawn(run))


class _GeventThread:
    def __init__(self, result: Any) -> None:
        self._result = result

    def join(self, timeout: float | None = None) -> None:
        """Wait within the main hub, so that other greenlets go on."""
        self._result.wait(timeout)
