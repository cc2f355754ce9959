"""Transcripts in Redis or Valkey: a stream for each task id, whose ids are the entries' names."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from redis.cluster import RedisCluster
from redis.exceptions import RedisError

from celery_lanes.errors import StoreError, StoreUnavailable
from celery_lanes.store.keys import Keys
from celery_lanes.store.redis.faults import is_out_of_office, is_passing, of_answer, translated
from celery_lanes.store.redis.homes import look_anew
from celery_lanes.store.redis.line import Argument, packed
from celery_lanes.store.redis.wire import Client, Wire
from celery_lanes.store.transcripts import (
    PAGE,
    TTL_MS,
    Draft,
    Entry,
    Heard,
    Mark,
    Stop,
    is_readable,
    known_stop,
)

MAX_WAIT_S = 5.0
"""The longest that a reader lets a server keep it waiting."""

GRACE_S = 1.0
"""How much later an answer may come before the server is taken for gone."""


class RedisTranscripts:
    """Streams under a prefix, each with a hash tag of its own: they spread over a cluster.

    XADD with the entry's name as its id writes each once, and none of a run that another has
    followed; with MINID it drops what is not to be kept.
    """

    def __init__(self, client: Client, prefix: str) -> None:
        self._client: Any = client
        self._keys = Keys(prefix)
        self._wire = Wire(client, self._keys, "store")

    def __repr__(self) -> str:
        return f"RedisTranscripts(prefix={self._keys.prefix!r})"

    def write(self, drafts: Sequence[Draft]) -> list[Heard | StoreError]:
        """Write entries: in one round trip, or in a cluster in one for each.

        There a node that is away is asked once, so that it holds up the others' entries no longer.
        """
        if not self._is_cluster:
            return self._write(drafts) if drafts else []
        away: dict[str, StoreError] = {}
        return [self._write_at_home(draft, away) for draft in drafts]

    def last(self, task_id: str) -> Entry | None:
        """Read the last entry."""
        key, _ = self._keys.of_reply(task_id)
        found = self._wire.ask(key, lambda server: server.xrevrange(key, count=1))
        return _entry(*found[0]) if found else None

    def stop(self, task_id: str, how: Stop) -> None:
        """Have a call end."""
        _, key = self._keys.of_reply(task_id)
        self._wire.ask(key, lambda server: server.set(key, how, px=TTL_MS))

    def follow(self, task_id: str) -> RedisFollower:
        """Make a reader's ear."""
        key, _ = self._keys.of_reply(task_id)
        return RedisFollower(key, partial(self._connect, key), self._look_anew)

    def disconnect(self) -> None:
        """Close all connections."""
        self._wire.close()

    @property
    def _is_cluster(self) -> bool:
        return isinstance(self._client, RedisCluster)

    def _write_at_home(self, draft: Draft, away: dict[str, StoreError]) -> Heard | StoreError:
        key, _ = self._keys.of_reply(draft.task_id)
        try:
            with translated():
                home = self._client.get_node_from_key(key).name
        except StoreError as error:  # nobody has its slot
            return error
        if home in away:
            return away[home]
        (told,) = self._write([draft])
        if isinstance(told, StoreUnavailable):
            away[home] = told
        return told

    def _write(self, drafts: Sequence[Draft]) -> list[Heard | StoreError]:
        key, _ = self._keys.of_reply(drafts[0].task_id)
        commands = [command for draft in drafts for command in self._commands(draft)]
        try:
            answers = iter(self._wire.ask(key, partial(_exchange, commands=commands)))
            return [self._heard(draft, answers) for draft in drafts]
        except StoreError as error:
            return [error] * len(drafts)

    def _commands(self, draft: Draft) -> list[tuple[Argument, ...]]:
        log, stop = self._keys.of_reply(draft.task_id)
        ask: list[tuple[Argument, ...]] = [("GET", stop)]
        if draft.is_opening:
            return [*ask, ("XREVRANGE", log, "+", "-", "COUNT", 1)]
        if (entry := draft.entry) is None:
            return ask
        fields = ("n", entry.number, "e", entry.payload)
        keep, name = str(draft.keep_from), str(entry.last)
        return [*ask, ("XADD", log, "MINID", "=", keep, name, *fields), ("PEXPIRE", log, TTL_MS)]

    def _heard(self, draft: Draft, answers: Iterator[Any]) -> Heard | StoreError:
        own = [next(answers) for _ in self._commands(draft)]
        for answer in own:
            if isinstance(answer, RedisError) and not _is_superseded(answer):
                return of_answer(answer)
        stop = known_stop((own[0] or b"").decode())
        if draft.entry is None:
            found = own[1] if draft.is_opening else None
            return Heard(stop, last=_entry(*found[0]) if found else None)
        is_refused = isinstance(own[1], RedisError)
        return Heard(stop, is_superseded=is_refused and not self._is_there(draft))

    def _is_there(self, draft: Draft) -> bool:
        """Tell the repetition of what had been written, its reply being lost, from a later run."""
        newest = self.last(draft.task_id)
        return newest is not None and draft.entry is not None and newest.last == draft.entry.last

    def _connect(self, key: str) -> Any:
        """Open a connection of a reader's own to the server that has a key."""
        client = self._client
        if self._is_cluster:
            client = client.get_redis_connection(client.get_node_from_key(key))
        pool = client.connection_pool
        connection = pool.connection_class(**pool.connection_kwargs)
        connection.connect()
        return connection

    def _look_anew(self) -> None:
        """See where the servers are now, after one has been lost."""
        if self._is_cluster:
            look_anew(self._client)


class RedisFollower:
    """XREAD on a connection of its own, which a reader of many may have many of."""

    def __init__(self, key: str, connect: Callable[[], Any], lost: Callable[[], None]) -> None:
        self._key, self._connect, self._lost = key, connect, lost
        self._connection: Any = None
        self._answered_by = 0.0

    def ask(self, after: Mark, wait_ms: int) -> None:
        """Send the question."""
        block_ms = max(1, min(wait_ms, round(MAX_WAIT_S * 1000)))  # 0 would be for ever
        words = ("XREAD", "COUNT", PAGE, "BLOCK", block_ms, "STREAMS", self._key, str(after))
        with self._faultless():
            if self._connection is None:
                self._connection = self._connect()
            self._connection.send_packed_command([packed(words)], check_health=False)
        self._answered_by = time.monotonic() + block_ms / 1000 + GRACE_S

    def take(self) -> list[Entry]:
        """Read the answer."""
        if (connection := self._connection) is None:
            return []
        with self._faultless():
            if not is_readable(self.fileno(), max(0.0, self._answered_by - time.monotonic())):
                raise StoreUnavailable("the lane store gave no answer")
            answer = connection.read_response(disconnect_on_error=True)
        return [_entry(name, _pairs(flat)) for _, found in answer or () for name, flat in found]

    def fileno(self) -> int:
        """Give the connection's descriptor."""
        sock = self._connection._sock if self._connection else None  # noqa: SLF001 # no public way
        return int(sock.fileno()) if sock is not None else -1

    def close(self) -> None:
        """Close the connection; the next question opens it again, perhaps to another server."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    @contextmanager
    def _faultless(self) -> Iterator[None]:
        """Close the connection after a fault: what it would bring next is no answer."""
        try:
            with translated():
                yield
        except StoreError:
            self.close()
            self._lost()
            raise
        except BaseException:
            self.close()
            raise


def _exchange(server: Any, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
    """Send commands together; give their answers, with refusals among them.

    Raises what is no matter of one transcript: another server may be the one to ask.
    """
    pipe = server.pipeline(transaction=False)
    for command in commands:
        pipe.execute_command(*command)
    answers: list[Any] = pipe.execute(raise_on_error=False)
    for answer in answers:
        if isinstance(answer, RedisError) and is_passing(answer):
            if is_out_of_office(answer):
                server.connection_pool.disconnect(inuse_connections=False)
            raise answer
    return answers


def _is_superseded(answer: RedisError) -> bool:
    """Tell the refusal of an entry that is not later than the last one."""
    return "equal or smaller" in str(answer)


def _entry(name: bytes, told: Mapping[bytes, bytes]) -> Entry:
    return Entry(Mark.parse(name.decode()), int(told[b"n"]), told[b"e"].decode())


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """Read names and values as the server lists them, where redis-py does not."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
