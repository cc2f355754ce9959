"""Who starts next, a worker's call or a ticket; as in ``redis/lua/_grants.lua``."""

from __future__ import annotations

from celery_lanes.fairness.callers import Place
from celery_lanes.store.base import MAX_BATCH_BYTES
from celery_lanes.store.calls import State
from celery_lanes.store.memory.ledger import ASIDE_AT_ONCE, Ledger
from celery_lanes.store.memory.preemption import may_be_stopped
from celery_lanes.store.memory.record import Record

PASSED_OVER, COMING_MS = 50, 100


def serve_tickets(ledger: Ledger) -> float | None:
    """Grant the tickets whose turn it is, where no worker asks.

    Every verb that may free a slot, or bring a ticket to the head, ends with it. Says until when
    the lane's bucket lets nothing pass.
    """
    if not ledger.tickets.waiting or ledger.rules is None:
        return None
    ledger.tick()
    _, blocked_until = grant(ledger, "", "", 0)
    return blocked_until


def grant(
    ledger: Ledger, worker: str, token: str, want: int
) -> tuple[tuple[str, ...], float | None]:
    """Grant up to what a worker wants, and to its holder each ticket before that or next after it.

    Says also until when the lane's bucket lets nothing pass: now, if it is enough for one answer.
    """
    granted: list[str] = []
    size, tries = 0, want + ASIDE_AT_ONCE
    while ledger.free_slots and (len(granted) < want or ledger.tickets.waiting):
        if (found := _next_to_serve(ledger, want, len(granted))) is None:
            break
        (account, place), is_passing = found
        tries -= 1
        if tries < 0:
            return tuple(granted), ledger.now
        record = ledger.records[place[2]]
        if record.is_ticket and ledger.is_gone(record.call.holder):
            ledger.stop_waiting(record)
            del ledger.records[record.call.id]
        elif (at := ledger.buckets.account_ready_at(account, ledger.now)) > ledger.now:
            ledger.queue.set_aside(account, place, at)
        elif (at := ledger.buckets.lane_ready_at(record.call.cost)) > ledger.now:
            return tuple(granted), at
        elif granted and size + len(record.call.envelope) > MAX_BATCH_BYTES:
            return tuple(granted), ledger.now
        elif record.is_ticket:
            _hand_over(ledger, found[0], record, is_passing=is_passing)
        else:
            _start(ledger, found[0], worker, token)
            granted.append(place[2])
            size += len(record.call.envelope)
    return tuple(granted), None


def _next_to_serve(ledger: Ledger, want: int, count: int) -> tuple[tuple[str, Place], bool] | None:
    """Find who is next; say whether it is a ticket that passes over calls nobody asks for.

    A worker that has all the calls it wanted may soon ask for more: then none passes.
    """
    first = ledger.queue.first()
    if first is None or count < want or ledger.records[first[1][2]].is_ticket:
        return first and (first, False)
    passing = None if want else _ticket_behind(ledger)
    return passing and (passing, True)


def _ticket_behind(ledger: Ledger) -> tuple[str, Place] | None:
    """Find the first ticket behind calls that no worker is there to run."""
    if not _are_passed_over(ledger):
        return None
    line = ledger.queue.line(PASSED_OVER)
    return next((at for at in line if ledger.records[at[1][2]].is_ticket), None)


def _are_passed_over(ledger: Ledger) -> bool:
    """Say whether tickets pass over calls that no worker is there to run.

    None is idle, and none has been woken, or has asked, just now. The calls keep their tags, and
    so their turn. A slot that is promised to the highest level is none to take so.
    """
    is_coming = abs(ledger.now - ledger.coming_ms) < COMING_MS
    return not (ledger.queue.promised or ledger.idle or is_coming)


def will_pass(ledger: Ledger, record: Record) -> bool:
    """Say whether a ticket that is admitted now finds a slot that those before it leave empty."""
    if not record.is_ticket or ledger.free_slots <= ledger.tickets.waiting:
        return False
    before = ledger.queue.count_before_new(record.account, record.place)
    return before is not None and before < PASSED_OVER and _are_passed_over(ledger)


def _hand_over(
    ledger: Ledger, first: tuple[str, Place], record: Record, *, is_passing: bool
) -> None:
    """Grant a ticket; it is leased once at most, so its admit and its grant name the lease."""
    holder = record.call.holder
    ledger.tickets.waiting -= 1
    _start(ledger, first, holder, f"{record.seq}-{ledger.now}", is_passing=is_passing)
    ledger.tickets.tell(holder, record.call.id)


def _start(
    ledger: Ledger,
    first: tuple[str, Place],
    worker: str,
    token: str,
    *,
    is_passing: bool = False,
) -> None:
    account, place = first
    record = ledger.records[place[2]]
    record.charge = ledger.queue.take(account, place, record.call.cost, is_passing=is_passing)
    ledger.buckets.spend(account, record.call.cost, ledger.now)
    record.state = State.RUNNING
    record.attempts += 1
    record.is_reported = False
    record.is_early = ledger.acks_early.get(record.call.task, False)
    record.is_victim = may_be_stopped(ledger, record)
    ledger.lease(record, worker, token)
