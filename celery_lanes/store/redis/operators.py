"""What those who run the lanes ask of them."""

from __future__ import annotations

from hashlib import sha1
from operator import attrgetter

from celery_lanes.errors import StoreError
from celery_lanes.store.attempts import HEAD_BYTES, READ_BYTES, Lease
from celery_lanes.store.base import Snapshot
from celery_lanes.store.calls import DeadLetter
from celery_lanes.store.checks import (
    check_caller,
    check_died,
    check_leases,
    check_limit,
    check_page,
    check_rate,
    check_rules,
    check_slots,
    check_weight,
)
from celery_lanes.store.keys import account_of, checked_name, quoted
from celery_lanes.store.live import MAX_LIVE_CALLERS, CallerStatus, too_many
from celery_lanes.store.redis import codec
from celery_lanes.store.redis.prefix import Prefix
from celery_lanes.store.rules import Bucket, LaneRules, Limit, Policy, Unlimited


class Operators(Prefix):
    """An operator's verbs."""

    def cancel_caller(self, lane: str, caller: str) -> int:
        """Move a caller's waiting and delayed calls to closing."""
        checked_name(lane, "the lane's name")
        accounts = [account_of(policy, caller) for policy in Policy]
        places = [("delayed", ""), *(("waiting", account) for account in accounts)]
        return sum(self._cancel_pages(lane, caller, *place) for place in places)

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

    def configure(self, lane: str, rules: LaneRules) -> None:
        """Write a lane's rules."""
        check_rules(rules)
        self._known_lanes.discard(lane)  # a server that has lost the rules has lost the name, too
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
        self._steer(lane, caller, "weight", "" if weight is None else codec.number_field(weight))

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

    def leases(self, lane: str, limit: int) -> list[Lease]:
        """Read who has the running calls."""
        check_leases(limit)
        checked_name(lane, "the lane's name")
        told = self._wire.run("leases", lane, limit, READ_BYTES, HEAD_BYTES)
        return [codec.lease(*fields) for fields in told]

    def snapshot(self, lane: str) -> Snapshot:
        """Read a lane."""
        checked_name(lane, "the lane's name")
        return codec.snapshot(lane, *self._wire.run("snapshot", lane))

    def lanes(self) -> list[str]:
        """Name every lane that has been used."""
        names = self._wire.ask(self._keys.lanes, lambda server: server.smembers(self._keys.lanes))
        return sorted(name.decode() for name in names)

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
