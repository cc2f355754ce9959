"""What a store refuses before anything is sent: odd numbers would lose calls or starve callers.

A cost of 0 gives one caller nearly every grant, 1e18 makes ``V + 1 == V``, NaN sorts nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TypeVar

from celery_lanes.priority import LEAST, MOST
from celery_lanes.store.attempts import Outcome, Release
from celery_lanes.store.base import MAX_BATCH
from celery_lanes.store.calls import MAX_CALLER_BYTES, Call
from celery_lanes.store.quota import Quota
from celery_lanes.store.rules import MAX_CALLERS, Bucket, LaneRules, Limit, Unlimited

MAX_COST = 1e9
MAX_TIME_MS = 2**52
MAX_SLOTS = 100_000
MAX_LEASES = 100
"""Leases in one answer, of calls with a slot; for an operator's screen."""

MAX_LETTERS = 50
"""Dead letters in one answer: they hold whole messages, and a socket waits for a second."""

_QUOTA_NAME = re.compile(r"[a-z][a-z0-9-]{0,59}")

Item = TypeVar("Item")


def chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Cut into batches that one script may take."""
    for at in range(0, len(items), MAX_BATCH):
        yield items[at : at + MAX_BATCH]


def check_calls(calls: Sequence[Call]) -> None:
    """Refuse a batch with any call that the store could not keep; none of it is sent."""
    for call in calls:
        _check_call(call)


def check_releases(releases: Sequence[Release]) -> None:
    """Refuse releases whose real cost is no sensible number."""
    for release in releases:
        _check_onward(release)
        if release.cost is not None:
            check_real_cost(release.cost, release.call)


def _check_onward(release: Release) -> None:
    """Refuse word of how to go on for a call that does not; one that moves must have some."""
    outcome = Outcome(release.outcome)
    what = f"wait_ms of call {release.call!r}"
    _check_number(release.wait_ms, 0, MAX_TIME_MS, what, is_whole=True)
    goes_on = outcome in (Outcome.BACK, Outcome.MOVED)
    if (outcome is Outcome.MOVED and not release.envelope) or (release.envelope and not goes_on):
        raise ValueError(f"expected a message with a call that goes on, and no other: {release}")
    if release.wait_ms and outcome is not Outcome.BACK:
        raise ValueError(f"expected a call to wait that goes back, got {release}")


def check_real_cost(cost: float, call: str) -> None:
    """Refuse a real cost outside 0 to 1e9; less than 1 will count as 1."""
    _check_number(cost, 0, MAX_COST, f"the real cost of call {call!r}")


def check_rules(rules: LaneRules) -> None:
    """Refuse rules that would break the arithmetic."""
    check_slots(rules.max_concurrent, least=1)
    _check_number(rules.lease_ttl_ms, 1, MAX_TIME_MS, "lease_ttl_ms")
    _check_number(rules.max_leases, 1, 1_000_000, "max_leases")
    _check_number(rules.dedupe_ttl_ms, 0, MAX_TIME_MS, "dedupe_ttl_ms")
    _check_bucket(rules.rate, "rate")
    _check_bucket(rules.tokens, "tokens")
    if rules.preemption is not None:
        _check_number(rules.preemption.min_runtime_ms, 0, MAX_TIME_MS, "min_runtime_ms")
        _check_number(rules.preemption.most, 0, 1_000_000, "max_preemptions")
    _check_number(len(rules.callers), 0, MAX_CALLERS, "the number of callers in the rules")
    for caller, caller_rules in rules.callers.items():
        check_weight(caller, caller_rules.weight)
        check_rate(caller, caller_rules.rate)


def check_weight(caller: str, weight: float | None) -> None:
    """Refuse a weight that would starve somebody; ``None`` = as configured."""
    check_caller(caller)
    if weight is not None:
        _check_number(weight, 1e-3, 1e3, f"the weight of caller {caller!r}")


def check_rate(caller: str, rate: Bucket | Unlimited | None) -> None:
    """Refuse an odd bucket of a caller."""
    check_caller(caller)
    _check_bucket(rate, f"the rate of caller {caller!r}")


def check_limit(limit: Limit, bucket: Bucket | Unlimited | None) -> None:
    """Refuse an odd bucket of a lane."""
    _check_bucket(bucket, Limit(limit).value)


def check_slots(slots: int, *, least: int) -> None:
    """Refuse a cap that is no whole number from ``least`` on."""
    _check_number(slots, least, MAX_SLOTS, "max_concurrent", is_whole=True)


def check_wait(max_wait_ms: int | None) -> None:
    """Refuse a longest wait that is no time."""
    if max_wait_ms is not None:
        _check_number(max_wait_ms, 0, MAX_TIME_MS, "max_wait_ms", is_whole=True)


def check_asked(wait_ms: int, quota: Quota | None = None) -> None:
    """Refuse what a provider cannot have asked to wait, or said of its limits."""
    _check_number(wait_ms, 0, MAX_TIME_MS, "wait_ms", is_whole=True)
    if quota is None:
        return
    if not _QUOTA_NAME.fullmatch(quota.name):
        raise ValueError(f"expected a quota's name such as 'requests', got {quota.name!r:.100}")
    for field in ("left", "of", "resets_ms"):
        value = getattr(quota, field)
        if field == "left" or value is not None:
            what = f"{field} of quota {quota.name!r}"
            _check_number(value, 0, MAX_TIME_MS, what, is_whole=True)


def check_page(limit: int, before_ms: int | None) -> None:
    """Refuse to read fewer dead letters than one, or more than one answer should hold."""
    _check_number(limit, 1, MAX_LETTERS, "the number of dead letters", is_whole=True)
    if before_ms is not None:
        check_died(before_ms)


def check_leases(limit: int) -> None:
    """Refuse to read fewer leases than one, or more than anybody reads."""
    _check_number(limit, 1, MAX_LEASES, "the number of leases", is_whole=True)


def check_died(died_ms: int) -> None:
    """Refuse what is no time of death."""
    _check_number(died_ms, 0, MAX_TIME_MS, "the time of death", is_whole=True)


def check_caller(caller: str) -> None:
    """Refuse a caller's name that is too long to keep."""
    size = len(caller.encode())
    if size > MAX_CALLER_BYTES:
        raise ValueError(
            f"expected a caller of up to {MAX_CALLER_BYTES} bytes, got {size}: {caller[:40]!r}"
        )


def _check_call(call: Call) -> None:
    if not call.id:
        raise ValueError("expected a call to have an id, got ''")
    _ = call.id.encode(), call.task_id.encode(), call.task.encode(), call.arrival.encode()
    check_caller(call.caller)
    _check_number(call.cost, 1, MAX_COST, f"the cost of call {call.id!r}")
    _check_number(call.due_ms, 0, MAX_TIME_MS, f"due_ms of call {call.id!r}", is_whole=True)
    if call.holder and (call.due_ms or call.redelivery_ms):
        raise ValueError(f"expected ticket {call.id!r} to wait from now on, and to have no broker")
    what = f"redelivery_ms of call {call.id!r}"
    _check_number(call.redelivery_ms, 0, MAX_TIME_MS, what, is_whole=True)
    what = f"the priority of call {call.id!r}"
    _check_number(call.priority, LEAST, MOST, what, is_whole=True)


def check_ticket_releases(releases: Sequence[Release]) -> None:
    """Refuse what cannot become of a ticket: a holder that can say so has lost no process."""
    check_releases(releases)
    for release in releases:
        is_end = Outcome(release.outcome) in (Outcome.DONE, Outcome.FAILED, Outcome.BACK)
        if not is_end or release.envelope or release.wait_ms:
            raise ValueError(f"expected a ticket to end done, failed or back, got {release}")


def _check_bucket(bucket: Bucket | Unlimited | None, what: str) -> None:
    if not isinstance(bucket, Bucket):
        return
    _check_number(bucket.count, 1e-9, 1e12, f"{what}: count")
    _check_number(bucket.period_ms, 1, MAX_TIME_MS, f"{what}: period_ms")
    _check_number(bucket.burst, 1, 1e12, f"{what}: burst")


def _check_number(
    value: float, least: float, most: float, what: str, *, is_whole: bool = False
) -> None:
    kinds = int if is_whole else (int, float)
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    if not (is_number and least <= value <= most):  # NaN and infinity fail too
        kind = "a whole number" if is_whole else "a number"
        raise ValueError(f"expected {what} to be {kind} from {least:g} to {most:g}, got {value!r}")
