"""Where a call of the memory store stands: what goes before it in fair order, what holds it up."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from math import inf

from celery_lanes.fairness.callers import FairQueue, starts_before
from celery_lanes.fairness.levels import Levels
from celery_lanes.store.calls import State
from celery_lanes.store.keys import EVERYBODY
from celery_lanes.store.memory.buckets import RATE, TOKENS
from celery_lanes.store.memory.ledger import Ledger
from celery_lanes.store.memory.record import Record
from celery_lanes.store.standing import Standing

LOOKED_AT = 250
"""Accounts, those first that are served first."""

RUNNING_LOOKED_AT = 100

Standpoint = tuple[int, float, int, str]
"""Where an account stands in the ring: rank, start tag, number of its first call, name."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """Calls that go before one, of its own account and of others; and what they all cost.

    ``beyond``: how many of the others' were counted once for each account, not looked at.
    """

    own: int = 0
    others: int = 0
    cost: float = 0.0
    beyond: int = 0


def survey(lane: str, ledger: Ledger, record: Record) -> Standing:
    """Read where a call stands."""
    waits = record.state in (State.WAITING, State.DELAYED)
    ahead = _ahead(ledger, record) if waits else Ahead()
    due_ms = ledger.delayed.get(record.call.id, ledger.now)
    return Standing(
        lane=lane,
        state=record.state,
        own_ahead=ahead.own,
        others_ahead=ahead.others,
        is_at_least=ahead.beyond > 0,
        is_fifo=record.account == EVERYBODY,
        paused=ledger.is_paused,
        provider_wait_ms=ledger.learned.left_ms(ledger.now),
        caller_paused=record.account in ledger.queue.paused,
        max_concurrent=ledger.cap,
        running=len(ledger.leases),
        workers=sum(ledger.now - at <= ledger.lease_ttl_ms for at in ledger.workers.values()),
        due_in_ms=max(0, due_ms - ledger.now),
        caller_rate_in_ms=_passes_in(ledger, record.account, after=ahead.own),
        lane_rate_in_ms=_passes_in(ledger, RATE, after=ahead.own + ahead.others),
        lane_tokens_in_ms=_passes_in(ledger, TOKENS, after=ahead.cost, cost=record.call.cost),
        running_ms=_running_ms(ledger),
        served_ms=tuple(ledger.times_ms),
    )


def buckets_pass_in_ms(ledger: Ledger, record: Record) -> int:
    """Say in how many ms the buckets let a call pass with nothing before it."""
    return max(
        _passes_in(ledger, record.account, after=0),
        _passes_in(ledger, RATE, after=0),
        _passes_in(ledger, TOKENS, after=0, cost=record.call.cost),
    )


def _ahead(ledger: Ledger, record: Record) -> Ahead:
    """Count by fair order; of higher levels all that waits, and none of what lower ones may get."""
    levels, account = ledger.queue, record.account
    rank = levels.rank(record.place)
    level = levels.queues.get(rank) or FairQueue(weights=dict(levels.weights))
    own = bisect_left(level.waiting.get(account, []), record.place)
    own_cost = own * _first_cost(ledger, level, account)
    tag = level.start(account) + own_cost / level.weight(account)
    more = _before(ledger, record, rank, tag)
    return Ahead(own + more.own, more.others, own_cost + more.cost, more.beyond)


def _before(ledger: Ledger, record: Record, rank: int, tag: float) -> Ahead:
    """Count those that start before the tag at a rank, and those of higher ranks.

    Of the accounts that are not looked at, one call of each goes first.
    """
    own, others, cost = 0, 0, 0.0
    near = _near(ledger.queue, record.account, rank, tag)
    for at, _, _, name in near[:LOOKED_AT]:
        count, their_cost = _count_before(ledger, record, (at, name), tag if at == rank else inf)
        cost += their_cost
        if name == record.account:
            own += count
        else:
            others += count
    beyond = sum(stand[:3] < (rank, tag, record.place[1]) for stand in near[LOOKED_AT:])
    return Ahead(own, others + beyond, cost, beyond)


def _near(levels: Levels, account: str, rank: int, tag: float) -> list[Standpoint]:
    """List who but the account is in the ring, up to a tag at a rank, in the order of service."""
    return sorted(
        (at, start, queue.waiting[name][0][1], name)
        for at, queue in levels.queues.items()
        for name, start in queue.ring.items()
        if (at, start) <= (rank, tag) and (at, name) != (rank, account)
    )


def _count_before(
    ledger: Ledger, record: Record, whose: tuple[int, str], tag: float
) -> tuple[int, float]:
    """Count an account's calls that start before a tag, or with it and came first; and their cost.

    Each is taken to cost what the account's first one does.
    """
    rank, account = whose
    queue = ledger.queue.queues[rank]
    places, cost = queue.waiting[account], _first_cost(ledger, queue, account)
    if tag == inf:
        return len(places), len(places) * cost
    start, step = queue.ring[account], cost / queue.weight(account)
    count = min(len(places), starts_before(tag, start=start, step=step))
    is_tie = count < len(places) and start + count * step == tag
    count += is_tie and places[count][1] < record.place[1]
    return count, count * cost


def _first_cost(ledger: Ledger, queue: FairQueue, account: str) -> float:
    places = queue.waiting.get(account)
    return float(ledger.records[places[0][2]].call.cost) if places else 0.0


def _passes_in(ledger: Ledger, name: str, *, after: float, cost: float = 1.0) -> int:
    at = ledger.buckets.passes_at(name, after=after, cost=cost, now=ledger.now)
    return max(0, ledger.ms_until(at))


def _running_ms(ledger: Ledger) -> tuple[int, ...]:
    calls = sorted(ledger.leases, key=lambda call: (ledger.leases[call], call))[:RUNNING_LOOKED_AT]
    return tuple(max(0, ledger.now - ledger.records[call].granted_at_ms) for call in calls)
