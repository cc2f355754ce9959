"""How attempts of the memory store end, and their calls; as in ``redis/lua/_releases.lua``."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from celery_lanes.store.attempts import Outcome, Reason, Release
from celery_lanes.store.calls import State
from celery_lanes.store.memory.ledger import Ledger
from celery_lanes.store.memory.record import Record

MINUTE_S = 60
TIMES_APART_MS, LONGEST_MS = 20, 2**32 - 1
DEFAULT_MAX_LEASES = 5


def release(ledger: Ledger, end: Release) -> None:
    """End an attempt as its worker says; nothing happens if the token is not the holder's."""
    record = ledger.records.get(end.call)
    if record is None or record.state is not State.RUNNING or record.token != end.token:
        return
    was_marked, was_established = record.is_marked, record.is_established
    ledger.unlease(record)
    match end.outcome:
        case Outcome.DONE if not was_established:  # else it has told its time already
            _note_end(ledger, record)
            _finish(ledger, record, end.cost)
        case Outcome.DONE | Outcome.FAILED:
            _finish(ledger, record, end.cost)
        case Outcome.MOVED:
            _move_on(ledger, record, end)
        case Outcome.BACK:
            _return(ledger, record, end)
        case Outcome.PREEMPTED if was_marked:
            _make_room(ledger, record)
        case Outcome.PREEMPTED:
            ledger.put_back(record)
        case Outcome.LOST:
            lose(ledger, record)
        case Outcome.STRANGE:
            _estrange(ledger, record)


def establish(ledger: Ledger, record: Record) -> None:
    """Take the slot of a running call, and leave it its lease, beside those that bound the cap."""
    expires_ms, worker, token = ledger.leases[record.call.id], record.worker, record.token
    ledger.unlease(record)
    record.worker, record.token, record.is_established = worker, token, True
    ledger.closing[record.call.id] = expires_ms
    _note_end(ledger, record)


def lose(ledger: Ledger, record: Record) -> bool:
    """Deal with a call whose body died; true if it waits again."""
    if record.is_early or record.is_ticket:
        _give_up(ledger, record, Reason.LOST)
        return False
    if _is_dead(ledger, record, Outcome.LOST):
        return False
    ledger.put_back(record)
    return True


def _finish(ledger: Ledger, record: Record, cost: float | None) -> None:
    if cost is not None:
        ledger.recharge(record, max(1.0, cost))
    ledger.queue.finish(record.charge)
    ledger.settle(record)
    _count(ledger.done, ledger.now)


def _move_on(ledger: Ledger, record: Record, end: Release) -> None:
    """Let a call go on in another lane: here it only waits for the worker that admits it there.

    What it took of this lane, it has been served.
    """
    if end.cost is not None:
        ledger.recharge(record, max(1.0, end.cost))
    record.call = replace(record.call, envelope=end.envelope)
    _give_up(ledger, record, Reason.MOVED)
    _count(ledger.moved, ledger.now)


def _return(ledger: Ledger, record: Record, end: Release) -> None:
    """Put back what its body has given back, perhaps with word of how far it has come."""
    if end.envelope:
        record.call = replace(record.call, envelope=end.envelope)
    if record.is_ticket or not end.wait_ms:
        ledger.put_back(record)
        return
    ledger.recharge(record, 0)
    ledger.delay(record, ledger.now + end.wait_ms)


def _make_room(ledger: Ledger, record: Record) -> None:
    record.preemptions += 1
    if ledger.rules and ledger.rules.preemption and ledger.rules.preemption.fails:
        _give_up(ledger, record, Reason.PREEMPTED)
    else:
        ledger.put_back(record)


def _estrange(ledger: Ledger, record: Record) -> None:
    if _is_dead(ledger, record, Outcome.STRANGE):
        return
    ledger.recharge(record, 0)
    ledger.delay(record, ledger.now + 1000 * 2 ** min(record.losses - 1, 12))


def _is_dead(ledger: Ledger, record: Record, end: Outcome) -> bool:
    record.losses += 1
    record.last_end = end
    if record.losses < (ledger.rules.max_leases if ledger.rules else DEFAULT_MAX_LEASES):
        return False
    _give_up(ledger, record, Reason.DEAD)
    return True


def _give_up(ledger: Ledger, record: Record, reason: Reason) -> None:
    ledger.queue.finish(record.charge)
    ledger.to_closing(record, reason)


def _note_end(ledger: Ledger, record: Record) -> None:
    """Learn from a slot that a call has left in a good way."""
    _note_time(ledger, record)
    _note_success(ledger, record)


def _note_time(ledger: Ledger, record: Record) -> None:
    """Keep how long a call held its slot; where many calls end, some of them tell enough."""
    if abs(ledger.now - ledger.timed_ms) >= TIMES_APART_MS:
        ledger.times_ms.append(min(max(0, ledger.now - record.granted_at_ms), LONGEST_MS))
        ledger.timed_ms = ledger.now


def _note_success(ledger: Ledger, record: Record) -> None:
    if ledger.rules is None or ledger.ceiling is None or record.is_reported:
        return
    ledger.learned.note_success(
        record.granted_at_ms,
        ledger.now,
        running=len(ledger.leases) + 1,
        ceiling=ledger.ceiling,
        usual=ledger.rules.max_concurrent,
    )


def _count(seconds: Counter[int], now_ms: int) -> None:
    """Count what happens in this second, and forget all that are not of the minute before it."""
    second = now_ms // 1000
    seconds[second] += 1
    for other in [at for at in seconds if not second - MINUTE_S < at <= second]:
        del seconds[other]
