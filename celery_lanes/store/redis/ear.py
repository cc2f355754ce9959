"""How a worker hears from Redis that a lane may have work for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from redis.client import PubSub
from redis.exceptions import TimeoutError as RedisTimeoutError

from celery_lanes.store.redis.faults import translated


class RedisEar:
    """A subscription on a connection of its own.

    A forked child must not read its parent's connection: it listens anew.
    """

    def __init__(self, subscribe: Callable[[], PubSub]) -> None:
        self._subscribe = subscribe
        self._pid = os.getpid()
        self._pubsub = subscribe()

    def fileno(self) -> int:
        """Give a descriptor for ``select``; it may change after ``drain``."""
        connection = self._pubsub.connection
        sock = connection._sock if connection is not None else None  # noqa: SLF001 # no public way
        return int(sock.fileno()) if sock is not None else -1

    def drain(self) -> set[str]:
        """Take what has come, without blocking, also out of the parser's own buffer.

        Raises ``StoreUnavailable`` if the connection is lost; then ``listen`` again.
        """
        if self._pid != os.getpid():
            self._pid, self._pubsub = os.getpid(), self._subscribe()
        heard: set[str] = set()
        connection: Any = self._pubsub.connection  # get_message() takes five times as long
        with translated(), suppress(RedisTimeoutError):  # half a message: the rest comes later
            while connection.can_read():
                kind, *_, told = connection.read_response(
                    disconnect_on_error=False, push_request=True
                )
                if kind == b"message":
                    heard.add(told.decode())
        return heard

    def close(self) -> None:
        """Stop listening."""
        if self._pid == os.getpid():
            self._pubsub.close()
