"""How verbs are sent: their keys, the server's dialect, and how sure an admit must be to count."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from redis import Redis
from redis.cluster import RedisCluster
from redis.exceptions import ResponseError

from celery_lanes.errors import ConfigError, StoreError, StoreUnavailable
from celery_lanes.store.keys import Keys
from celery_lanes.store.redis import lua
from celery_lanes.store.redis.dialect import Dialect, Functions, is_not_spoken
from celery_lanes.store.redis.faults import is_out_of_office, is_passing, translated
from celery_lanes.store.redis.homes import at_any, at_home
from celery_lanes.store.redis.line import Argument, Line, pack, packed

Client = Redis | RedisCluster
T = TypeVar("T")

WAIT_MS = 800
"""Less than the socket's own patience, so that a late replica is told from a dead server."""

LESSONS = 4
"""A server may have no functions, not know the script, and not take it."""


@dataclass(frozen=True, slots=True)
class Durability:
    """The command that waits until an admit is durable, and how many must say that it is."""

    command: tuple[Argument, ...]
    acks: int


def parse_durability(durability: str) -> Durability | None:
    """Read ``store``, ``aof`` or ``replicas:n``."""
    if durability == "store":
        return None
    if durability == "aof":
        return Durability(("WAITAOF", 1, 0, WAIT_MS), 1)
    found = re.fullmatch(r"replicas:([1-9]\d?)", durability)
    if found is None:
        raise ValueError(
            f'expected durability to be "store", "aof" or "replicas:n", got {durability!r}'
        )
    return Durability(("WAIT", int(found[1]), WAIT_MS), int(found[1]))


@dataclass(frozen=True, slots=True)
class Head:
    """What every command for one verb of one lane begins with: ``count`` arguments, packed."""

    count: int
    packed: bytes


@dataclass(frozen=True, slots=True)
class Speech:
    """A dialect, and the heads of commands that are in it; replaced as one."""

    dialect: Dialect
    heads: dict[tuple[str, str], Head] = field(default_factory=dict)


class Wire:
    """Sends a lane's verbs over one client."""

    def __init__(self, client: Client, keys: Keys, durability: str) -> None:
        self.client: Any = client  # redis-py's commands are typed for sync and async in one
        self.keys = keys
        self._durable = parse_durability(durability)
        self._proven: set[str] = set()
        self._line = None if isinstance(client, RedisCluster) else Line(client)
        self._wake_tries = 10 if self._line else 1  # a cluster cannot say whether a worker heard
        self._speech = Speech(Functions())

    def speak(self, dialect: Dialect) -> None:
        """Ask in this dialect from now on."""
        self._speech = Speech(dialect)

    def run(self, verb: str, lane: str, *arguments: Argument) -> Any:
        """Run a verb; what it returns is its script's header's business."""
        with translated():
            if (line := self._line) is None:
                return self._evaluate(verb, lane, arguments)[0]
            return self._understood(
                verb,
                say=lambda speech: line.ask(self._packed(speech, verb, lane, arguments)),
                teach=lambda lesson: line.ask(packed(lesson)),
            )

    def admit(self, lane: str, arguments: Sequence[Argument]) -> Any:
        """Run the admit; with more durability, wait for it on the same connection."""
        if self._durable is None:
            return self.run("admit", lane, *arguments)
        self.prove_durability(self.keys.of_lane(lane, ("calls",))[0])
        answer, acks = self._evaluate("admit", lane, arguments, self._durable.command)
        _check_acks(acks, self._durable.acks)
        return answer

    def prove_durability(self, key: str) -> None:
        """Have the server of a key wait for its disk once: too late, once a call is in.

        ``ConfigError`` if it knows no WAITAOF or has no append-only file. Every server can WAIT.
        """
        if self._durable is None or self._durable.command[0] == "WAIT" or key in self._proven:
            return
        command = self._durable.command
        try:
            self.ask(key, lambda server: server.execute_command(*command))
        except StoreUnavailable:
            raise
        except StoreError as error:
            raise ConfigError(
                'expected store.durability = "aof" to be served by Redis 7.2 or later or Valkey,'
                f" with appendonly yes: {error}"
            ) from error
        self._proven.add(key)

    def ask(self, key: str, question: Callable[[Any], T]) -> T:
        """Ask the one server that has a key, by its own client."""
        with translated():
            return question(self.client) if self._line else at_home(self.client, key, question)

    def ask_any(self, key: str, question: Callable[[Any], T]) -> T:
        """Ask a server what any can answer; by its key, many clients do not all ask the same."""
        with translated():
            return question(self.client) if self._line else at_any(self.client, key, question)

    def close(self) -> None:
        """Close all connections; the next verb opens them again, perhaps to another server."""
        self._proven.clear()
        if self._line is None:
            self.client.disconnect_connection_pools()
        else:
            self._line.close()
            self.client.connection_pool.disconnect()

    def _evaluate(
        self, verb: str, lane: str, arguments: Sequence[Argument], *then: tuple[Argument, ...]
    ) -> list[Any]:
        """Run a verb and further commands on one connection to the server that has the lane."""

        def say(server: Any, speech: Speech) -> list[Any]:
            return _together(server, (*self._first(speech, verb, lane), *arguments), *then)

        return self.ask(
            self.keys.of_lane(lane, lua.load(verb).kinds)[0],
            lambda server: self._understood(
                verb,
                say=partial(say, server),
                teach=lambda lesson: server.execute_command(*lesson),
            ),
        )

    def _understood(
        self,
        verb: str,
        *,
        say: Callable[[Speech], T],
        teach: Callable[[tuple[Argument, ...]], object],
    ) -> T:
        """Say it, and again when the server has learnt the verb or we speak as it does."""
        for _ in range(LESSONS):
            speech = self._speech
            try:
                return say(speech)
            except ResponseError as error:
                if speech is self._speech:  # else another thread has seen to it
                    self._make_understood(speech.dialect, verb, error, teach)
        return say(self._speech)

    def _make_understood(
        self,
        dialect: Dialect,
        verb: str,
        error: ResponseError,
        teach: Callable[[tuple[Argument, ...]], object],
    ) -> None:
        try:
            if (lesson := dialect.lesson(verb, error)) is not None:
                teach(lesson)
                return
            if not is_not_spoken(error):
                raise error
        except ResponseError as refusal:
            if refusal is error or is_passing(refusal):
                raise
            error = refusal
        if dialect.instead is None:
            raise error
        self.speak(dialect.instead)

    def _packed(self, speech: Speech, verb: str, lane: str, arguments: Sequence[Argument]) -> bytes:
        head = speech.heads.get((verb, lane)) or self._head(speech, verb, lane)
        count = head.count + len(arguments)
        return b"*%d\r\n%b%b" % (count, head.packed, pack(arguments))

    def _head(self, speech: Speech, verb: str, lane: str) -> Head:
        words = self._first(speech, verb, lane)
        head = speech.heads[verb, lane] = Head(len(words), pack(words))
        return head

    def _first(self, speech: Speech, verb: str, lane: str) -> tuple[Argument, ...]:
        """Give what a command for a verb of a lane begins with, whatever it is to say."""
        script = lua.load(verb)
        names = self.keys.of_lane(lane, script.kinds)
        waking = (self.keys.channel, self._wake_tries, lane) if script.wakes else ()
        return (*speech.dialect.words(verb), len(names), *names, *waking)


def _together(server: Any, *commands: tuple[Argument, ...]) -> list[Any]:
    pipe = server.pipeline(transaction=False)
    for command in commands:
        pipe.execute_command(*command)
    answers: list[Any] = pipe.execute(raise_on_error=False)
    for answer in answers:
        if isinstance(answer, Exception):
            if is_out_of_office(answer):
                server.connection_pool.disconnect(inuse_connections=False)
            raise answer
    return answers


def _check_acks(acks: Any, least: int) -> None:
    have = acks[0] if isinstance(acks, list) else acks
    if have < least:
        raise StoreUnavailable(
            f"expected {least} acknowledgements that the calls are durable, got {have}; they may "
            "be in, and sending them again does not double them"
        )
