"""The lane store in Redis or Valkey: one Lua script per verb, see ``lua/``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from hashlib import sha1
from itertools import accumulate, pairwise
from typing import Any
from urllib.parse import unquote

from redis.client import PubSub
from redis.exceptions import OutOfMemoryError

from celery_lanes.errors import LaneNotConfigured, NotQueued
from celery_lanes.store import health
from celery_lanes.store.base import (
    MAX_BATCH,
    Bucket,
    Call,
    Closing,
    DeadLetter,
    Delayed,
    Duplicate,
    Grant,
    LaneRules,
    Outcome,
    Parked,
    Policy,
    Reaped,
    Reason,
    Release,
    Renewal,
    Snapshot,
    Turn,
    Verdict,
)
from celery_lanes.store.checks import (
    check_calls,
    check_limit,
    check_real_cost,
    check_releases,
    check_rules,
    check_slots,
    chunks,
)
from celery_lanes.store.ears import RedisEar
from celery_lanes.store.keys import Keys, account_of, checked_name, quoted, random_token
from celery_lanes.store.line import Argument
from celery_lanes.store.wire import Client, Wire

NO_REQUEST = 0
"""A request number that ``next`` gives nothing to: for releases beyond one batch."""


class RedisStore:
    """The verbs over scripts.

    Args:
        client: with time-outs, and redis-py's own retries off, as ``open_store`` makes it.
        prefix: what every key begins with; two apps on one server need two.
        durability: ``store``, ``aof`` or ``replicas:n``: what must have a call before it counts
            as admitted.
        token: makes lease tokens; tests pass their own.
    """

    def __init__(
        self,
        client: Client,
        prefix: str = "lanes",
        durability: str = "store",
        token: Callable[[], str] = random_token,
    ) -> None:
        self._keys = Keys(prefix)
        self._wire = Wire(client, self._keys, durability)
        self._token = token
        self._known_lanes: set[str] = set()

    def __repr__(self) -> str:
        return f"RedisStore(prefix={self._keys.prefix!r})"

    def admit(self, lane: str, calls: Sequence[Call], *, policy: Policy) -> list[Verdict]:
        """Park calls, once each, and wake one idle worker."""
        check_calls(calls)
        self._note_lane(lane)
        verdicts: list[Verdict] = []
        for batch in chunks(calls):
            arguments = [field for call in batch for field in _call_fields(call, policy)]
            answer = self._wire.admit(lane, arguments).split()
            verdicts += [_verdict(*pair) for pair in zip(answer[::2], answer[1::2], strict=True)]
        return verdicts

    def next(
        self,
        lane: str,
        *,
        worker: str,
        request: int,
        want: int,
        releases: Sequence[Release] = (),
        closings: int = 0,
    ) -> Turn:
        """Release, then grant; a repeated request gets the same grants again."""
        check_releases(releases)
        checked_name(lane, "the lane's name")
        *early, last = list(chunks(releases)) or [()]
        for batch in early:
            self._next(lane, worker, NO_REQUEST, batch)
        wants = (min(want, MAX_BATCH), min(closings, MAX_BATCH))
        answer = self._next(lane, worker, request, last, wants)
        if not answer:
            raise LaneNotConfigured
        return _turn(answer)

    def renew(self, lane: str, *, worker: str, held: Sequence[tuple[str, str]]) -> Renewal:
        """Extend exactly the named leases; put back what the worker has not named for 5 s."""
        checked_name(lane, "the lane's name")
        *early, last = list(chunks(held)) or [()]
        answers = [self._renew(lane, worker, batch, is_last=False) for batch in early]
        answers.append(self._renew(lane, worker, last, is_last=True))
        lost = [call.decode() for _, *calls in answers for call in calls]
        return Renewal(tuple(lost), answers[-1][0])

    def reap(self, lane: str) -> Reaped:
        """Deal with expired leases, unless the clock has stood still."""
        checked_name(lane, "the lane's name")
        return Reaped(*self._wire.run_waking("reap", lane))

    def cancel(self, lane: str, task_id: str) -> int:
        """Move the waiting and delayed calls of a task id to closing."""
        checked_name(lane, "the lane's name")
        cancelled = int(self._wire.run_waking("cancel", lane, quoted(task_id)))
        if not cancelled:
            raise NotQueued
        return cancelled

    def close(self, lane: str, *, call: str, token: str) -> bool:
        """Settle a closing call, its result being written."""
        checked_name(lane, "the lane's name")
        return bool(self._wire.run("close", lane, call, token))

    def dead_letters(self, lane: str, limit: int) -> list[DeadLetter]:
        """Read the youngest dead letters, the youngest first."""
        check_limit(limit)
        checked_name(lane, "the lane's name")
        return [_letter(*fields) for fields in self._wire.run("dead_letters", lane, limit)]

    def bury(self, lane: str, call: str) -> bool:
        """Forget a dead letter by its call's id."""
        checked_name(lane, "the lane's name")
        return bool(self._wire.run("bury", lane, call))

    def settle(self, lane: str, *, call: str, token: str, cost: float) -> bool:
        """Charge the caller what a running call really cost; the last word wins."""
        check_real_cost(cost, call)
        checked_name(lane, "the lane's name")
        return bool(self._wire.run("settle", lane, call, token, repr(cost)))

    def configure(self, lane: str, rules: LaneRules) -> None:
        """Write a lane's rules."""
        check_rules(rules)
        self._note_lane(lane)
        fields = _rule_fields(rules)
        version = sha1(repr(fields).encode(), usedforsecurity=False).hexdigest()
        early = [part for task, acks in rules.acks_early.items() for part in (task, int(acks))]
        self._wire.run_waking("configure", lane, version, *fields, *early)

    def set_max_concurrent(self, lane: str, slots: int | None) -> None:
        """Change the cap for the whole cluster at once."""
        if slots is not None:
            check_slots(slots, least=0)
        self._note_lane(lane)
        self._wire.run_waking("resize", lane, "" if slots is None else slots)

    def set_paused(self, lane: str, *, paused: bool) -> None:
        """Stop or resume grants."""
        self._note_lane(lane)
        self._wire.run_waking("pause", lane, int(paused))

    def snapshot(self, lane: str) -> Snapshot:
        """Read a lane."""
        checked_name(lane, "the lane's name")
        cap, paused, *counts = self._wire.run("snapshot", lane)
        return Snapshot(
            lane=lane,
            max_concurrent=None if cap < 0 else cap,
            paused=bool(paused),
            **dict(zip(_COUNTS, counts, strict=True)),
        )

    def lanes(self) -> list[str]:
        """Name every lane that has been used."""
        names = self._wire.ask(self._keys.lanes, lambda server: server.smembers(self._keys.lanes))
        return sorted(name.decode() for name in names)

    def listen(self, worker: str) -> RedisEar:
        """Open this worker's ear."""
        return RedisEar(lambda: self._subscribe(worker))

    def warnings(self) -> list[str]:
        """Say what in the server's settings endangers the promises."""
        return self._wire.ask(self._keys.lanes, health.warnings)

    def prove_durability(self) -> None:
        """Raise ``ConfigError`` if the server cannot do what ``durability`` asks of it."""
        self._wire.prove_durability(self._keys.lanes)

    def disconnect(self) -> None:
        """Close all connections; the next verb opens them again."""
        self._wire.close()

    def _note_lane(self, lane: str) -> None:
        checked_name(lane, "the lane's name")
        if lane in self._known_lanes:
            return
        self._wire.ask(self._keys.lanes, lambda server: self._note_at(server, lane))

    def _note_at(self, server: Any, lane: str) -> None:
        with suppress(OutOfMemoryError):  # rules must go in all the same
            server.sadd(self._keys.lanes, lane)
            self._known_lanes.add(lane)

    def _next(
        self,
        lane: str,
        worker: str,
        request: int,
        releases: Sequence[Release],
        wants: tuple[int, int] = (0, 0),
    ) -> Any:
        ends = [field for release in releases for field in _release_fields(release)]
        asked = (quoted(worker), request, self._token(), *wants)
        return self._wire.run_waking("next", lane, *asked, *ends)

    def _renew(
        self, lane: str, worker: str, held: Sequence[tuple[str, str]], *, is_last: bool
    ) -> Any:
        names = [part for pair in held for part in pair]
        return self._wire.run_waking("renew", lane, quoted(worker), int(is_last), *names)

    def _subscribe(self, worker: str) -> PubSub:
        """Subscribe at one server: in a cluster, each hears what is published at any."""
        channel = self._keys.channel + quoted(worker)

        def subscribe(server: Any) -> PubSub:
            pubsub: PubSub = server.pubsub()
            pubsub.subscribe(channel)
            return pubsub

        return self._wire.ask(channel, subscribe)


_COUNTS = (
    "running",
    "waiting",
    "delayed",
    "closing",
    "dead",
    "callers_waiting",
    "oldest_wait_ms",
    "done_last_minute",
    "workers",
)


def _call_fields(call: Call, policy: Policy) -> tuple[Argument, ...]:
    account = account_of(policy, call.caller)
    names = (call.id, quoted(call.task_id), call.task, account, call.caller)
    numbers = (call.priority, repr(call.cost), call.due_ms, int(call.remember))
    return (*names, *numbers, call.redelivery_ms, call.arrival, call.envelope)


def _release_fields(release: Release) -> tuple[Argument, ...]:
    cost = "" if release.cost is None else repr(release.cost)
    return (release.call, release.token, Outcome(release.outcome).value, cost)


def _rule_fields(rules: LaneRules) -> list[Argument]:
    times = [rules.max_concurrent, rules.lease_ttl_ms, rules.max_leases, rules.dedupe_ttl_ms]
    callers = [
        (quoted(name), repr(caller.weight), _bucket_field(caller.rate))
        for name, caller in rules.callers.items()
    ]
    buckets = [_bucket_field(rules.rate), _bucket_field(rules.tokens)]
    return [*times, *buckets, len(callers), *(part for caller in callers for part in caller)]


def _bucket_field(bucket: Bucket | None) -> str:
    return "" if bucket is None else f"{bucket.period_ms / bucket.count!r} {bucket.burst!r}"


def _verdict(kind: bytes, value: bytes) -> Verdict:
    if kind == b"duplicate":
        return Duplicate(value.decode())
    return Parked(int(value)) if kind == b"parked" else Delayed(int(value))


def _turn(answer: bytes | list[Any]) -> Turn:
    told, *closings = [answer] if isinstance(answer, bytes) else answer
    due_in_ms, _, grants = told.partition(b"\n")
    return Turn(
        tuple(_grants(grants)),
        tuple(_closing(*fields) for fields in closings),
        None if due_in_ms == b"-1" else int(due_in_ms),
    )


def _grants(told: bytes) -> Iterator[Grant]:
    at = 0
    while at < len(told):
        head_end = told.index(b"\n", at) + 1
        attempt, wait_ms, *lengths = map(int, told[at:head_end].split())
        ends = list(accumulate(lengths, initial=head_end))
        call, token, caller, envelope = (told[a:b] for a, b in pairwise(ends))
        yield Grant(call.decode(), token.decode(), caller.decode(), attempt, wait_ms, envelope)
        at = ends[-1]


def _closing(call: bytes, token: bytes, reason: bytes, envelope: bytes) -> Closing:
    return Closing(call.decode(), token.decode(), Reason(reason.decode()), envelope)


def _letter(
    died_ms: int, texts: list[bytes], priority: int, attempts: int, cost: bytes, envelope: bytes
) -> DeadLetter:
    call, task_id, task, caller, reason = (text.decode() for text in texts)
    message = Call(
        id=call,
        task_id=unquote(task_id),
        task=task,
        caller=caller,
        priority=priority,
        cost=float(cost),
        envelope=envelope,
    )
    return DeadLetter(message, attempts, Outcome(reason), died_ms)
