"""What workers, and holders of slots, ask of the lanes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.client import PubSub

from celery_lanes.errors import LaneNotConfigured
from celery_lanes.store.attempts import Claim, Reaped, Release, Renewal, Turn
from celery_lanes.store.base import MAX_BATCH
from celery_lanes.store.checks import (
    check_asked,
    check_real_cost,
    check_releases,
    check_ticket_releases,
    chunks,
)
from celery_lanes.store.keys import checked_name, quoted
from celery_lanes.store.quota import Quota
from celery_lanes.store.redis import codec
from celery_lanes.store.redis.ear import RedisEar
from celery_lanes.store.redis.prefix import Prefix

NO_REQUEST = 0
"""A request number that ``next`` gives nothing to: for releases beyond one batch."""


class Workers(Prefix):
    """A worker's verbs, and a holder's."""

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

    def close(self, lane: str, *, call: str, token: str) -> bool:
        """Settle a closing call, its result being written."""
        checked_name(lane, "the lane's name")
        return bool(self._wire.run("close", lane, call, token))

    def confirm(self, lane: str, call: str) -> None:
        """Say that a call has left the lane that it came from."""
        checked_name(lane, "the lane's name")
        self._wire.run("confirm", lane, call)

    def settle(self, lane: str, *, call: str, token: str, cost: float) -> bool:
        """Charge the caller what a running call really cost; the last word wins."""
        check_real_cost(cost, call)
        checked_name(lane, "the lane's name")
        return bool(self._wire.run("settle", lane, call, token, codec.number_field(cost)))

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

    def listen(self, worker: str) -> RedisEar:
        """Open this worker's ear."""
        return RedisEar(lambda: self._subscribe(worker))

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
