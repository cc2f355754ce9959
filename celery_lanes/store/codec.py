"""How values are written as a script's arguments, and read from its answers; see ``lua/``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any
from urllib.parse import unquote

from celery_lanes.store.attempts import Closing, Grant, Outcome, Reason, Release, Turn
from celery_lanes.store.base import Snapshot
from celery_lanes.store.calls import (
    Call,
    Cancelled,
    DeadLetter,
    Delayed,
    Duplicate,
    Parked,
    Verdict,
)
from celery_lanes.store.keys import account_of, quoted
from celery_lanes.store.line import Argument
from celery_lanes.store.rules import Bucket, LaneRules, Policy


def call_fields(call: Call, policy: Policy) -> tuple[Argument, ...]:
    """Write a call."""
    account = account_of(policy, call.caller)
    names = (call.id, quoted(call.task_id), call.task, account, call.caller)
    numbers = (call.priority, repr(call.cost), call.due_ms, int(call.remember))
    return (*names, *numbers, call.redelivery_ms, call.arrival, call.envelope)


def release_fields(release: Release) -> tuple[Argument, ...]:
    """Write a release."""
    cost = "" if release.cost is None else repr(release.cost)
    return (release.call, release.token, Outcome(release.outcome).value, cost)


def rule_fields(rules: LaneRules) -> list[Argument]:
    """Write a lane's rules."""
    times = [rules.max_concurrent, rules.lease_ttl_ms, rules.max_leases, rules.dedupe_ttl_ms]
    callers = [
        (quoted(name), repr(caller.weight), _bucket_field(caller.rate))
        for name, caller in rules.callers.items()
    ]
    buckets = [_bucket_field(rules.rate), _bucket_field(rules.tokens)]
    return [*times, *buckets, len(callers), *(part for caller in callers for part in caller)]


def _bucket_field(bucket: Bucket | None) -> str:
    return "" if bucket is None else f"{bucket.period_ms / bucket.count!r} {bucket.burst!r}"


def verdicts(answer: bytes) -> list[Verdict]:
    """Read what became of admitted calls."""
    words = answer.split()
    return [_verdict(*pair) for pair in zip(words[::2], words[1::2], strict=True)]


def _verdict(kind: bytes, value: bytes) -> Verdict:
    if kind == b"duplicate":
        return Duplicate(value.decode())
    if kind == b"cancelled":
        return Cancelled()
    return Parked(int(value)) if kind == b"parked" else Delayed(int(value))


def turn(answer: bytes | list[Any]) -> Turn:
    """Read the answer to ``next``."""
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


def letter(
    died_ms: int, texts: list[bytes], priority: int, attempts: int, cost: bytes, envelope: bytes
) -> DeadLetter:
    """Read a dead letter."""
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


def snapshot(lane: str, cap: int, paused: int, *counts: int) -> Snapshot:
    """Read a reading of a lane."""
    return Snapshot(
        lane=lane,
        max_concurrent=None if cap < 0 else cap,
        paused=bool(paused),
        **dict(zip(_COUNTS, counts, strict=True)),
    )


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
