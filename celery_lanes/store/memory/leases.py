"""What happens to leases of the memory store that are renewed, forgotten or expired."""

from __future__ import annotations

from celery_lanes.store.calls import State
from celery_lanes.store.memory.endings import lose
from celery_lanes.store.memory.ledger import Ledger
from celery_lanes.store.memory.record import Record

UNNAMED_AFTER_MS = 5_000
REAP_AT_ONCE = 500
FORGET_WORKER_MS = 600_000
DEAD_LETTERS = 1_000
DEAD_LETTER_MS = 7 * 86_400_000


def extend(ledger: Ledger, worker: str, call: str, token: str) -> bool:
    """Extend a lease, of a running or a closing call; false if it is not this worker's.

    Without a token: of a ticket, which may wait still.
    """
    record = ledger.records.get(call)
    if record is None:
        return False
    is_ticket = not token and record.call.holder == worker
    if is_ticket and record.state is State.WAITING:
        return True
    if not is_ticket and (record.worker != worker or record.token != token):
        return False
    ledger.extend(record)
    return True


def take_back_unnamed(ledger: Ledger, worker: str) -> int:
    """Put back the leases that this worker has not named for 5 s; count them."""
    named_since = ledger.lease_now - UNNAMED_AFTER_MS + ledger.lease_ttl_ms
    held = [*ledger.leases.items(), *ledger.closing.items()]
    records = [ledger.records[call] for call, until in held if until < named_since]
    unnamed = [record for record in records if record.worker == worker][:REAP_AT_ONCE]
    for record in unnamed:
        _take_back(ledger, record)
    return len(unnamed)


def reap(ledger: Ledger) -> tuple[list[bool], int]:
    """Deal with expired leases: running calls are lost, closing ones other workers may have.

    Says of each lost one whether it waits again, and counts the closing ones.
    """
    held = {call: until for call, until in ledger.closing.items() if until}
    beside = [ledger.records[call] for call in _expired(held, ledger.lease_now)]
    lapsed = [ledger.records[call] for call in _expired(ledger.leases, ledger.lease_now)]
    lapsed += [record for record in beside if record.is_established]
    unheld = [record for record in beside if not record.is_established]
    for record in lapsed:
        ledger.unlease(record)
    waits = [lose(ledger, record) for record in lapsed]
    for record in unheld:
        _let_go(ledger, record)
    return waits, len(unheld)


def trim(ledger: Ledger) -> None:
    """Forget old settled calls, workers not seen for long, and dead letters beyond the bounds."""
    trim_settled(ledger, REAP_AT_ONCE)
    for worker in _expired(ledger.workers, ledger.now - FORGET_WORKER_MS):
        del ledger.workers[worker]
        ledger.replies.pop(worker, None)
        ledger.idle.pop(worker, None)
    ledger.tickets.forget_holders(ledger.lease_now - FORGET_WORKER_MS, REAP_AT_ONCE)
    oldest = ledger.now - DEAD_LETTER_MS
    ledger.dead = [letter for letter in ledger.dead if letter[0] > oldest][-DEAD_LETTERS:]


def trim_settled(ledger: Ledger, limit: int) -> None:
    """Forget calls that settled long ago, up to a limit."""
    for call in _expired(ledger.settled, ledger.now)[:limit]:
        del ledger.settled[call]


def _take_back(ledger: Ledger, record: Record) -> None:
    if record.state is State.CLOSING:
        _let_go(ledger, record)
    else:
        ledger.unlease(record)
        ledger.put_back(record)


def _let_go(ledger: Ledger, record: Record) -> None:
    ledger.unlease(record)
    ledger.closing[record.call.id] = 0


def _expired(times: dict[str, int], now: int) -> list[str]:
    return sorted((name for name, at in times.items() if at <= now), key=lambda n: (times[n], n))[
        :REAP_AT_ONCE
    ]
