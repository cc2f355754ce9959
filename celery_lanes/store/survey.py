"""Where a call of the memory store stands: what goes before it in fair order, what holds it up."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from math import ceil

from celery_lanes.fairness import starts_before
from celery_lanes.store.buckets import RATE, TOKENS
from celery_lanes.store.calls import State
from celery_lanes.store.keys import EVERYBODY
from celery_lanes.store.ledger import Ledger, Record
from celery_lanes.store.standing import Standing

LOOKED_AT = 250
"""Accounts, those first that are served first."""

RUNNING_LOOKED_AT = 100


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


def _ahead(ledger: Ledger, record: Record) -> Ahead:
    queue, account = ledger.queue, record.account
    own = bisect_left(queue.waiting.get(account, []), record.place)
    own_cost = own * _first_cost(ledger, account)
    tag = queue.start(account) + own_cost / queue.weight(account)
    others, cost, beyond = _others_before(ledger, record, tag)
    return Ahead(own, others + beyond, cost + own_cost, beyond)


def _others_before(ledger: Ledger, record: Record, tag: float) -> tuple[int, float, int]:
    """Count the others' calls, their cost, and the accounts that were not looked at.

    Those all start before the tag: at least one call of each goes first.
    """
    queue = ledger.queue
    near = sorted(
        (start, queue.waiting[name][0][1], name)
        for name, start in queue.ring.items()
        if start <= tag
    )[:LOOKED_AT]
    names = [name for _, _, name in near]
    others, cost = 0, 0.0
    for name in names:
        if name != record.account:
            count, their_cost = _count_before(ledger, record, name, tag)
            others, cost = others + count, cost + their_cost
    below = sum(start < tag for start in queue.ring.values())
    unseen = record.account not in names
    return others, cost, max(0, below - LOOKED_AT - unseen)


def _count_before(ledger: Ledger, record: Record, account: str, tag: float) -> tuple[int, float]:
    """Count an account's calls that start before a tag, or with it and came first; and their cost.

    Each is taken to cost what the account's first one does.
    """
    queue, cost = ledger.queue, _first_cost(ledger, account)
    start, step, places = queue.ring[account], cost / queue.weight(account), queue.waiting[account]
    count = min(len(places), starts_before(tag, start=start, step=step))
    is_tie = count < len(places) and start + count * step == tag
    count += is_tie and places[count][1] < record.seq
    return count, count * cost


def _first_cost(ledger: Ledger, account: str) -> float:
    places = ledger.queue.waiting.get(account)
    return float(ledger.records[places[0][2]].call.cost) if places else 0.0


def _passes_in(ledger: Ledger, name: str, *, after: float, cost: float = 1.0) -> int:
    at = ledger.buckets.passes_at(name, after=after, cost=cost, now=ledger.now)
    return max(0, ceil(at - ledger.now))


def _running_ms(ledger: Ledger) -> tuple[int, ...]:
    calls = sorted(ledger.leases, key=lambda call: (ledger.leases[call], call))[:RUNNING_LOOKED_AT]
    return tuple(max(0, ledger.now - ledger.records[call].granted_at_ms) for call in calls)
