"""One server's connections, kept at hand: a command without what redis-py adds to each.

The connections are redis-py's own, with its time-outs, TLS, passwords and sentinels; only the
bookkeeping around a command is left out, which takes longer than the command.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from celery_lanes.store.redis.faults import is_out_of_office

Argument = str | bytes | int | float

MAX_IDLE = 50
"""Connections that are kept open; a burst of threads may have had more."""


class Line:
    """Takes one command at a time per connection; may be used from any thread, and after a fork."""

    def __init__(self, client: Redis) -> None:
        self._pool: Any = client.connection_pool
        self._pid = os.getpid()
        self._idle: list[Any] = []

    def ask(self, command: bytes) -> Any:
        """Send one packed command, and give its answer or raise it.

        The server may have closed a connection that lay idle: then the command is sent once more,
        over a new one. So it must be one that may be repeated, as all verbs are.
        """
        connection = self._take()
        is_new = connection._sock is None  # noqa: SLF001 # no public way
        try:
            answer = _exchange(connection, command)
        except RedisConnectionError:
            if is_new:
                raise
            answer = _exchange(connection, command)
        except ResponseError as error:
            if is_out_of_office(error):
                connection.disconnect()
            self._keep(connection)
            raise
        except BaseException:  # a time limit's signal, say: the answer may still come
            connection.disconnect()
            raise
        self._keep(connection)
        return answer

    def close(self) -> None:
        """Close the connections that are not in use; the next command opens one again."""
        with suppress(IndexError):  # another thread may take them meanwhile
            while True:
                self._idle.pop().disconnect()

    def _take(self) -> Any:
        if self._pid != os.getpid():  # a forked child must not use its parent's connections
            self._idle = []
            self._pid = os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            return self._pool.connection_class(**self._pool.connection_kwargs)

    def _keep(self, connection: Any) -> None:
        if len(self._idle) < MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.disconnect()


def packed(command: Sequence[Argument]) -> bytes:
    """Write a whole command."""
    return b"*%d\r\n%b" % (len(command), pack(command))


def pack(arguments: Iterable[Argument]) -> bytes:
    """Write arguments as the protocol wants them."""
    return b"".join(map(_pack_one, arguments))


def _pack_one(argument: Argument) -> bytes:
    if isinstance(argument, str):
        argument = argument.encode()
    elif not isinstance(argument, bytes):
        argument = b"%d" % argument if isinstance(argument, int) else repr(argument).encode()
    return b"$%d\r\n%b\r\n" % (len(argument), argument)


def _exchange(connection: Any, command: bytes) -> Any:
    if connection._sock is None:  # noqa: SLF001 # as above
        connection.connect()  # asks the sentinels, where there are any; sending would not
    connection.send_packed_command([command], check_health=False)
    return connection.read_response(disconnect_on_error=True)
