"""The lane store in Redis or Valkey: one Lua script per verb, see ``lua/``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha1
from operator import attrgetter
from typing import Any

from redis.client import PubSub
from redis.exceptions import OutOfMemoryError

from celery_lanes.errors import AlreadyStarted, LaneNotConfigured, NotQueued, StoreError
from celery_lanes.store.attempts import Claim, Reaped, Release, Renewal, Turn
from celery_lanes.store.base import MAX_BATCH, Snapshot
from celery_lanes.store.calls import Busy, Call, DeadLetter, Verdict
from celery_lanes.store.checks import (
    check_asked,
    check_caller,
    check_calls,
    check_died,
    check_limit,
    check_page,
    check_rate,
    check_real_cost,
    check_releases,
    check_rules,
    check_slots,
    check_ticket_releases,
    check_wait,
    check_weight,
    chunks,
)
from celery_lanes.store.keys import Keys, account_of, checked_name, quoted, random_token
from celery_lanes.store.live import MAX_LIVE_CALLERS, CallerStatus, too_many
from celery_lanes.store.quota import Quota
from celery_lanes.store.redis import codec, dangers
from celery_lanes.store.redis.ear import RedisEar
from celery_lanes.store.redis.line import Argument
from celery_lanes.store.redis.wire import Client, Wire
from celery_lanes.store.rules import Bucket, LaneRules, Limit, Policy, Scope, Unlimited
from celery_lanes.store.standing import NOWHERE, Standing

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

    def admit(
        self,
        lane: str,
        calls: Sequence[Call],
        *,
        policy: Policy,
        scope: Scope = Scope.CALLER,
        max_wait_ms: int | None = None,
    ) -> list[Verdict]:
        """Park calls, once each, and wake one idle worker."""
        check_calls(calls)
        how = _how(scope, max_wait_ms, tells=False)
        self._note_lane(lane)
        verdicts: list[Verdict] = []
        for batch in chunks(calls):
            fields = [field for call in batch for field in codec.call_fields(call, policy)]
            verdicts += codec.verdicts(self._wire.admit(lane, [*how, *fields]))
        return verdicts

    def place(
        self,
        lane: str,
        call: Call,
        *,
        policy: Policy,
        scope: Scope = Scope.CALLER,
        max_wait_ms: int | None = None,
    ) -> tuple[Verdict, Standing | None]:
        """Admit one call, and read where it stands."""
        check_calls([call])
        how = _how(scope, max_wait_ms, tells=True)
        self._note_lane(lane)
        told, (facts,) = self._wire.admit(lane, [*how, *codec.call_fields(call, policy)])
        return codec.verdicts(told)[0], codec.standing(lane, *facts) if facts else None

    def foresee(self, lane: str, call: Call, *, policy: Policy) -> Busy | None:
        """Say how long a call would wait if it were admitted now."""
        check_calls([call])
        fields = (account_of(policy, call.caller), call.priority, repr(call.cost))
        found = self._wire.run("foresee", lane, *fields, int(call.has_waited))
        return Busy(*map(int, found)) if found else None

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
        return codec.turn(answer)

    def claim(
        self,
        lane: str,
        *,
        holder: str,
        known: Sequence[tuple[str, str]] = (),
        releases: Sequence[Release] = (),
    ) -> Claim:
        """Release, grant the tickets whose turn it is, and tell a holder of its own."""
        check_ticket_releases(releases)
        checked_name(lane, "the lane's name")
        *early, last = list(chunks(releases)) or [()]
        for batch in early:
            self._claim(lane, holder, (), batch)
        answer = self._claim(lane, holder, known, last)
        if not answer:
            raise LaneNotConfigured
        return codec.claim(*answer)

    def withdraw(self, lane: str, *, holder: str, call: str) -> str | None:
        """Take back a ticket that waits; if it has been granted, give its token."""
        checked_name(lane, "the lane's name")
        token = self._wire.run("withdraw", lane, quoted(holder), call)
        return token.decode() or None

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
        return Reaped(*self._wire.run("reap", lane))

    def cancel(self, lane: str, task_id: str) -> int:
        """Move the waiting and delayed calls of a task id to closing."""
        checked_name(lane, "the lane's name")
        cancelled = int(self._wire.run("cancel", lane, quoted(task_id)))
        if cancelled < 0:
            raise AlreadyStarted
        if not cancelled:
            raise NotQueued
        return cancelled

    def forbid(self, lane: str, task_id: str, for_ms: int) -> bool:
        """Close as cancelled what a broker brings of a task id within a time."""
        checked_name(lane, "the lane's name")
        return bool(self._wire.run("forbid", lane, quoted(task_id), for_ms))

    def cancel_caller(self, lane: str, caller: str) -> int:
        """Move a caller's waiting and delayed calls to closing."""
        checked_name(lane, "the lane's name")
        accounts = [account_of(policy, caller) for policy in Policy]
        places = [("delayed", ""), *(("waiting", account) for account in accounts)]
        return sum(self._cancel_pages(lane, caller, *place) for place in places)

    def close(self, lane: str, *, call: str, token: str) -> bool:
        """Settle a closing call, its result being written."""
        checked_name(lane, "the lane's name")
        return bool(self._wire.run("close", lane, call, token))

    def confirm(self, lane: str, call: str) -> None:
        """Say that a call has left the lane that it came from."""
        checked_name(lane, "the lane's name")
        self._wire.run("confirm", lane, call)

    def dead_letters(self, lane: str, limit: int, before_ms: int | None = None) -> list[DeadLetter]:
        """Read a page of dead letters, the youngest first."""
        check_page(limit, before_ms)
        checked_name(lane, "the lane's name")
        before = "+inf" if before_ms is None else f"({before_ms}"
        found = self._wire.run("dead_letters", lane, limit, before)
        return [codec.letter(*fields) for fields in found]

    def bury(self, lane: str, call: str, died_ms: int) -> bool:
        """Forget a dead letter."""
        check_died(died_ms)
        checked_name(lane, "the lane's name")
        return bool(self._wire.run("bury", lane, call, died_ms))

    def settle(self, lane: str, *, call: str, token: str, cost: float) -> bool:
        """Charge the caller what a running call really cost; the last word wins."""
        check_real_cost(cost, call)
        checked_name(lane, "the lane's name")
        return bool(self._wire.run("settle", lane, call, token, repr(cost)))

    def report(
        self, lane: str, *, call: str, token: str, wait_ms: int = 0, quota: Quota | None = None
    ) -> bool:
        """Note that a running call's provider was overloaded, or what it said of its limits."""
        check_asked(wait_ms, quota)
        checked_name(lane, "the lane's name")
        said = codec.quota_fields(quota)
        return bool(self._wire.run("report", lane, call, token, wait_ms, said))

    def establish(self, lane: str, *, call: str, token: str) -> bool:
        """Take a running call's slot, and leave it its lease."""
        checked_name(lane, "the lane's name")
        return bool(self._wire.run("establish", lane, call, token))

    def configure(self, lane: str, rules: LaneRules) -> None:
        """Write a lane's rules."""
        check_rules(rules)
        self._note_lane(lane)
        fields = codec.rule_fields(rules)
        version = sha1(repr(fields).encode(), usedforsecurity=False).hexdigest()
        early = [part for task, acks in rules.acks_early.items() for part in (task, int(acks))]
        self._wire.run("configure", lane, version, *fields, *early)

    def set_max_concurrent(self, lane: str, slots: int | None) -> None:
        """Change the cap for the whole cluster at once."""
        if slots is not None:
            check_slots(slots, least=0)
        self._note_lane(lane)
        self._wire.run("resize", lane, "" if slots is None else slots)

    def set_paused(self, lane: str, *, paused: bool) -> None:
        """Stop or resume grants."""
        self._note_lane(lane)
        self._wire.run("pause", lane, int(paused))

    def set_weight(self, lane: str, caller: str, weight: float | None) -> None:
        """Change a caller's share."""
        check_weight(caller, weight)
        self._steer(lane, caller, "weight", "" if weight is None else repr(weight))

    def set_rate(self, lane: str, caller: str, rate: Bucket | Unlimited | None) -> None:
        """Change a caller's bucket of calls."""
        check_rate(caller, rate)
        self._steer(lane, caller, "rate", codec.bucket_field(rate))

    def set_caller_paused(self, lane: str, caller: str, *, paused: bool) -> None:
        """Stop or resume grants of a caller's calls."""
        check_caller(caller)
        self._steer(lane, caller, "paused", "1" if paused else "")

    def set_limit(self, lane: str, limit: Limit, bucket: Bucket | Unlimited | None) -> None:
        """Change one of the lane's own buckets."""
        check_limit(limit, bucket)
        self._note_lane(lane)
        self._wire.run("limit", lane, Limit(limit).value, codec.bucket_field(bucket))

    def callers(self, lane: str) -> list[CallerStatus]:
        """Read what holds for callers that are named or steered, or that wait."""
        checked_name(lane, "the lane's name")
        told = self._wire.run("callers", lane)
        statuses = [codec.caller_status(*fields, waiting=count) for *fields, count in told]
        return sorted(statuses, key=attrgetter("caller"))

    def snapshot(self, lane: str) -> Snapshot:
        """Read a lane."""
        checked_name(lane, "the lane's name")
        return codec.snapshot(lane, *self._wire.run("snapshot", lane))

    def position(self, lane: str, task_id: str) -> Standing:
        """Read where a task id's youngest call stands."""
        checked_name(lane, "the lane's name")
        answer = self._wire.run("position", lane, quoted(task_id))
        if not answer:
            raise NotQueued(NOWHERE)
        return codec.standing(lane, *answer)

    def lanes(self) -> list[str]:
        """Name every lane that has been used."""
        names = self._wire.ask(self._keys.lanes, lambda server: server.smembers(self._keys.lanes))
        return sorted(name.decode() for name in names)

    def listen(self, worker: str) -> RedisEar:
        """Open this worker's ear."""
        return RedisEar(lambda: self._subscribe(worker))

    def warnings(self) -> list[str]:
        """Say what in the server's settings endangers the promises."""
        return self._wire.ask(self._keys.lanes, dangers.warnings)

    def prove_durability(self) -> None:
        """Raise ``ConfigError`` if the server cannot do what ``durability`` asks of it."""
        self._wire.prove_durability(self._keys.lanes)

    def disconnect(self) -> None:
        """Close all connections; the next verb opens them again."""
        self._wire.close()

    def _cancel_pages(self, lane: str, caller: str, state: str, account: str) -> int:
        total, at = 0, b""
        while True:
            words = (caller, state, account, at)
            cancelled, at = self._wire.run("cancel_caller", lane, *words)
            total += int(cancelled)
            if not at:
                return total

    def _steer(self, lane: str, caller: str, what: str, value: str) -> None:
        self._note_lane(lane)
        change = (quoted(caller), what, value, MAX_LIVE_CALLERS)
        if not self._wire.run("steer", lane, *change):
            raise StoreError(too_many())

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
        ends = [field for release in releases for field in codec.release_fields(release)]
        asked = (quoted(worker), request, self._token(), *wants)
        return self._wire.run("next", lane, *asked, *ends)

    def _claim(
        self,
        lane: str,
        holder: str,
        known: Sequence[tuple[str, str]],
        releases: Sequence[Release],
    ) -> Any:
        names = [part for pair in known for part in pair]
        ends = [field for release in releases for field in codec.release_fields(release)]
        return self._wire.run("claim", lane, quoted(holder), len(known), *names, *ends)

    def _renew(
        self, lane: str, worker: str, held: Sequence[tuple[str, str]], *, is_last: bool
    ) -> Any:
        names = [part for pair in held for part in pair]
        return self._wire.run("renew", lane, quoted(worker), int(is_last), *names)

    def _subscribe(self, worker: str) -> PubSub:
        """Subscribe at one server: in a cluster, each hears what is published at any."""
        channel = self._keys.channel + quoted(worker)

        def subscribe(server: Any) -> PubSub:
            pubsub: PubSub = server.pubsub()
            pubsub.subscribe(channel)
            return pubsub

        return self._wire.ask_any(channel, subscribe)


def _how(scope: Scope, max_wait_ms: int | None, *, tells: bool) -> tuple[Argument, ...]:
    """Write what holds for all calls of an admit."""
    check_wait(max_wait_ms)
    return (scope.value, "" if max_wait_ms is None else max_wait_ms, int(tells))
