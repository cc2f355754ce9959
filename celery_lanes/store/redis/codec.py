"""How values are written as a script's arguments, and read from its answers; see ``lua/``."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any
from urllib.parse import unquote

from celery_lanes.store.attempts import (
    Claim,
    Closing,
    Grant,
    Lease,
    Outcome,
    Reason,
    Release,
    Turn,
)
from celery_lanes.store.base import Snapshot
from celery_lanes.store.calls import (
    MOVED_AGAIN_MS,
    Busy,
    Call,
    Cancelled,
    DeadLetter,
    Delayed,
    Duplicate,
    Parked,
    State,
    Verdict,
)
from celery_lanes.store.keys import account_of, quoted
from celery_lanes.store.live import CallerStatus
from celery_lanes.store.quota import Quota
from celery_lanes.store.redis.line import Argument
from celery_lanes.store.rules import Bucket, LaneRules, Policy, Preemption, Unlimited
from celery_lanes.store.standing import Standing


def call_fields(call: Call, policy: Policy) -> tuple[Argument, ...]:
    """Write a call."""
    account = account_of(policy, call.caller)
    names = (call.id, quoted(call.task_id), call.task, account, call.caller)
    flags = int(call.remember) + 2 * int(call.preemptible) + 4 * int(call.has_waited)
    numbers = (call.priority, number_field(call.cost), call.due_ms, flags)
    holder = quoted(call.holder)
    return (*names, *numbers, call.redelivery_ms, call.arrival, holder, call.envelope)


def release_fields(release: Release) -> tuple[Argument, ...]:
    """Write a release."""
    cost = "" if release.cost is None else number_field(release.cost)
    outcome = Outcome(release.outcome).value
    return (release.call, release.token, outcome, cost, release.wait_ms, release.envelope)


def rule_fields(rules: LaneRules) -> list[Argument]:
    """Write a lane's rules."""
    times = [rules.max_concurrent, rules.lease_ttl_ms, rules.max_leases, rules.dedupe_ttl_ms]
    callers = [
        (quoted(name), number_field(caller.weight), bucket_field(caller.rate))
        for name, caller in rules.callers.items()
    ]
    limits = [bucket_field(rules.rate), bucket_field(rules.tokens), _preemption(rules.preemption)]
    given: list[Argument] = [*times, int(rules.adaptive), *limits, len(callers)]
    return [*given, *(part for caller in callers for part in caller)]


def bucket_field(bucket: Bucket | Unlimited | None) -> str:
    """Write a bucket; of ``None`` an empty text."""
    if not isinstance(bucket, Bucket):
        return "" if bucket is None else "-"
    interval_ms = bucket.period_ms / bucket.count
    numbers = map(number_field, (interval_ms, bucket.burst, bucket.count))
    return f"{' '.join(numbers)} {bucket.period_ms:d}"


def number_field(number: float) -> str:
    """Write a number with all its digits; one of another type, as NumPy's, may call itself else."""
    return repr(float(number))


def _bucket(field: bytes) -> Bucket | None:
    if not field:
        return None
    _, burst, count, period_ms = field.split()
    return Bucket(float(count), int(period_ms), float(burst))


def caller_status(account: bytes, *fields: bytes, waiting: int) -> CallerStatus:
    """Read what holds for a caller."""
    weight, rate, *own = fields
    return CallerStatus(
        caller=unquote(account.decode()),
        weight=float(weight),
        rate=_bucket(rate),
        paused=bool(own[-1]),
        live=tuple(name for name, is_set in zip(_STEERED, own, strict=True) if is_set),
        waiting=waiting,
    )


_STEERED = ("weight", "rate", "paused")


def _preemption(rules: Preemption | None) -> str:
    if rules is None:
        return ""
    return f"{rules.min_runtime_ms} {rules.most} {int(rules.fails)}"


def verdicts(answer: bytes) -> list[Verdict]:
    """Read what became of admitted calls."""
    words = answer.split()
    return [_verdict(*pair) for pair in zip(words[::2], words[1::2], strict=True)]


def _verdict(kind: bytes, value: bytes) -> Verdict:
    if kind == b"duplicate":
        return Duplicate(value.decode())
    if kind == b"cancelled":
        return Cancelled()
    if kind == b"busy":
        return Busy(*map(int, value.split(b":")))
    return Parked(int(value)) if kind == b"parked" else Delayed(int(value))


def turn(answer: bytes | list[Any]) -> Turn:
    """Read the answer to ``next``."""
    parts: list[Any] = [answer] if isinstance(answer, bytes) else answer
    told, *others = parts
    due_in_ms, _, grants = told.partition(b"\n")
    preempted = [fields for fields in others if len(fields) == _LEASE]
    return Turn(
        tuple(_grants(grants)),
        tuple(_closing(*fields) for fields in others if len(fields) > _LEASE),
        tuple((call.decode(), token.decode()) for call, token in preempted),
        None if due_in_ms == b"-1" else int(due_in_ms),
    )


def claim(due_in_ms: int, marked: list[list[bytes]], *told: bytes) -> Claim:
    """Read the answer to ``claim``."""
    calls, tokens = told[::2], told[1::2]
    news = [(call.decode(), token.decode()) for call, token in zip(calls, tokens, strict=True)]
    return Claim(
        tuple((call, token) for call, token in news if token),
        tuple(call for call, token in news if not token),
        tuple((call.decode(), token.decode()) for call, token in marked),
        None if due_in_ms < 0 else due_in_ms,
    )


def _grants(told: bytes) -> Iterator[Grant]:
    at = 0
    while at < len(told):
        head_end = told.index(b"\n", at) + 1
        attempt, wait_ms, granted_ms, *lengths = map(int, told[at:head_end].split())
        ends = list(accumulate(lengths, initial=head_end))
        call, token, caller, envelope = (told[a:b] for a, b in pairwise(ends))
        names = (call.decode(), token.decode(), caller.decode())
        yield Grant(*names, attempt, wait_ms, envelope, granted_ms)
        at = ends[-1]


def _closing(
    call: bytes, token: bytes, reason: bytes, envelope: bytes, *facts: bytes | int
) -> Closing:
    onward = _onward(call, envelope, *facts) if facts else None
    return Closing(call.decode(), token.decode(), Reason(reason.decode()), envelope, onward)


def _onward(call: bytes, envelope: bytes, *facts: Any) -> Call:
    task_id, task, caller, priority, preemptible, cost = facts
    return Call(
        id=call.decode(),
        task_id=unquote(task_id.decode()),
        task=task.decode(),
        caller=caller.decode(),
        priority=priority,
        cost=float(cost),
        preemptible=bool(preemptible),
        has_waited=True,
        redelivery_ms=MOVED_AGAIN_MS,
        envelope=envelope,
    )


def lease(texts: list[bytes], numbers: list[int], head: bytes) -> Lease:
    """Read who has a running call."""
    call, task_id, task, caller, worker = (text.decode() for text in texts)
    priority, attempt, ran_ms, is_established = numbers
    return Lease(
        call=call,
        task_id=unquote(task_id),
        task=task,
        caller=caller,
        priority=priority,
        worker=unquote(worker),
        attempt=attempt,
        ran_ms=ran_ms,
        is_established=bool(is_established),
        head=head,
    )


def letter(died_ms: int, texts: list[bytes], *fields: Any) -> DeadLetter:
    """Read a dead letter."""
    priority, attempts, preemptible, cost, envelope = fields
    call, task_id, task, caller, reason = (text.decode() for text in texts)
    message = Call(
        id=call,
        task_id=unquote(task_id),
        task=task,
        caller=caller,
        priority=priority,
        cost=float(cost),
        preemptible=bool(preemptible),
        envelope=envelope,
    )
    return DeadLetter(message, attempts, Outcome(reason), died_ms)


def snapshot(lane: str, cap: int, paused: int, *facts: Any) -> Snapshot:
    """Read a reading of a lane."""
    *counts, effective, provider_wait_ms, rate, tokens, quota, quota_age_ms = facts
    return Snapshot(
        lane=lane,
        max_concurrent=None if cap < 0 else cap,
        effective=None if effective < 0 else effective,
        provider_wait_ms=provider_wait_ms,
        paused=bool(paused),
        rate=_bucket(rate),
        tokens=_bucket(tokens),
        quota=_quota(quota),
        quota_age_ms=quota_age_ms,
        **dict(zip(_COUNTS, counts, strict=True)),
    )


def quota_fields(quota: Quota | None) -> str:
    """Write what a provider said of its limits; "" of nothing."""
    if quota is None:
        return ""
    told = (quota.name, quota.left, quota.of, quota.resets_ms)
    return " ".join("-" if field is None else str(field) for field in told)


def _quota(packed: bytes) -> Quota | None:
    if not packed:
        return None
    name, left, *rest = packed.decode().split()
    of, resets_ms = (None if number == "-" else int(number) for number in rest)
    return Quota(name, int(left), of, resets_ms)


def standing(
    lane: str, state: bytes, facts: list[int], running_ms: list[int], served_ms: bytes
) -> Standing:
    """Read where a call stands."""
    *counts, is_at_least, is_fifo, paused, caller_paused, cap = facts
    return Standing(
        lane=lane,
        state=State(state.decode()),
        is_at_least=bool(is_at_least),
        is_fifo=bool(is_fifo),
        paused=bool(paused),
        caller_paused=bool(caller_paused),
        max_concurrent=None if cap < 0 else cap,
        running_ms=tuple(running_ms),
        served_ms=struct.unpack(f">{len(served_ms) // 4}I", served_ms),
        **dict(zip(_FACTS, counts, strict=True)),
    )


_LEASE = len(("call", "token"))

_FACTS = (
    "own_ahead",
    "others_ahead",
    "running",
    "workers",
    "due_in_ms",
    "caller_rate_in_ms",
    "lane_rate_in_ms",
    "lane_tokens_in_ms",
    "provider_wait_ms",
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
    "moved_last_minute",
    "workers",
    "established",
)
