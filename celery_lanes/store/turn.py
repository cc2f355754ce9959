"""One worker's turn with a lane of the memory store: what ``next`` gives after the releases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from celery_lanes.fairness import Place
from celery_lanes.store.attempts import Claim, Closing, Grant, Turn
from celery_lanes.store.calls import State
from celery_lanes.store.leases import trim_settled
from celery_lanes.store.ledger import ASIDE_AT_ONCE, WAKE_AT_ONCE, Ledger, Record, Reply
from celery_lanes.store.preemption import may_be_stopped, preempt
from celery_lanes.store.tickets import FORGET_AT_MOST, TOLD_AT_ONCE

PASSED_OVER, COMING_MS = 50, 100
FORGET_EVERY, FORGET_SOON, FORGET_LEAST, FORGET_MOST = 16, 12, 200, 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a worker asks for: so many calls and results to write, their leases under this token.

    ``ends``: how many releases came with it.
    """

    worker: str
    request: int
    want: int
    closings: int
    token: str
    ends: int

    @property
    def turnover(self) -> int:
        """Say how much it may add to what must be forgotten some time."""
        return self.ends + self.want


def take_turn(ledger: Ledger, wish: Wish) -> Turn:
    """Grant and hand out; repeat the last answer; give nothing to a request older than that."""
    last = ledger.replies.get(wish.worker, Reply())
    if wish.request <= last.request:
        serve_tickets(ledger)
    if wish.request < last.request:
        reply, wanted = Reply(), 0
    elif wish.request == last.request:
        reply, wanted = last, wish.want
    else:
        reply, wanted = _serve(ledger, wish), wish.want
    if wish.request >= last.request and wish.want:  # else it is as idle as it was
        ledger.idle.pop(wish.worker, None)
    is_idle = len(reply.grants) < wanted
    if _is_another_needed(ledger, reply, is_idle=is_idle):
        ledger.wake()
    if is_idle:
        ledger.idle[wish.worker] = ledger.now
    elif wanted:
        ledger.note_coming()
    return _turn(ledger, wish.worker, reply)


def take_claim(ledger: Ledger, holder: str, ends: int) -> Claim:
    """Grant tickets, and tell a holder of its own; ``ends``: how many releases came with it."""
    ledger.promote()
    if ends:
        ledger.queue.forget_finishes(FORGET_AT_MOST)
    blocked_until = serve_tickets(ledger)
    ledger.wake(min(ends, ledger.free_slots, len(ledger.queue), WAKE_AT_ONCE))
    if ledger.tickets.waiting and blocked_until is None and ledger.free_slots:
        ledger.wake()  # for the call before it, if a worker is there; if none is, it may pass then
        blocked_until = ledger.now + COMING_MS
    told = ledger.tickets.news.get(holder, [])[:TOLD_AT_ONCE]
    tokens = {call: _token_of(ledger, holder, call) for call in told}
    granted = tuple((call, token) for call, token in tokens.items() if token)
    for call, _ in granted:  # long ago perhaps, and used from now on
        ledger.extend(ledger.records[call])
    gone = tuple(call for call, token in tokens.items() if not token)
    room_at = preempt(ledger)
    return Claim(granted, gone, _marked(ledger, holder), ledger.due_in_ms(blocked_until, room_at))


def forget_news(ledger: Ledger, holder: str, known: Sequence[tuple[str, str]]) -> None:
    """Drop what a holder knows as it is: a slot that it knows it has may be lost by now."""
    knows = dict(known)
    news = ledger.tickets.news.get(holder, [])
    fresh = [call for call in news if knows.get(call) != _token_of(ledger, holder, call)]
    ledger.tickets.keep(holder, fresh)


def _token_of(ledger: Ledger, holder: str, call: str) -> str:
    """Name the lease of a holder's ticket; "" if it has none."""
    record = ledger.records.get(call)
    is_held = record and record.call.holder == holder and record.state is State.RUNNING
    return record.token if record and is_held else ""


def _serve(ledger: Ledger, wish: Wish) -> Reply:
    ledger.promote()
    if wish.request % FORGET_EVERY == 0 or wish.turnover > FORGET_SOON:
        limit = min(FORGET_MOST, max(FORGET_LEAST, 2 * wish.turnover))
        ledger.queue.forget_finishes(limit)
        trim_settled(ledger, limit)
    closings = _hand_out(ledger, wish)
    grants, blocked_until = _grant(ledger, wish.worker, wish.token, wish.want)
    reply = Reply(wish.request, wish.token, grants, closings, blocked_until)
    ledger.replies[wish.worker] = reply
    return reply


def _is_another_needed(ledger: Ledger, reply: Reply, *, is_idle: bool) -> bool:
    """Say whether to wake somebody; never so that two idle workers wake each other for ever."""
    is_closing_left = any(not until for until in ledger.closing.values())
    if is_closing_left and (reply.closings or not is_idle):
        return True
    is_grant_left = bool(ledger.queue.ready and ledger.free_slots)
    return is_grant_left and not is_idle and reply.blocked_until is None


def _hand_out(ledger: Ledger, wish: Wish) -> tuple[str, ...]:
    unheld = sorted(call for call, until in ledger.closing.items() if not until)
    handed = tuple(unheld[: wish.closings])
    for call in handed:
        ledger.lease(ledger.records[call], wish.worker, wish.token)
    return handed


def serve_tickets(ledger: Ledger) -> float | None:
    """Grant the tickets whose turn it is, where no worker asks.

    Every verb that may free a slot, or bring a ticket to the head, ends with it. Says until when
    the lane's bucket lets nothing pass.
    """
    if not ledger.tickets.waiting or ledger.rules is None:
        return None
    ledger.tick()
    _, blocked_until = _grant(ledger, "", "", 0)
    return blocked_until


def _grant(
    ledger: Ledger, worker: str, token: str, want: int
) -> tuple[tuple[str, ...], float | None]:
    """Grant up to what a worker wants, and to its holder each ticket before that or next after it.

    Says also until when the lane's bucket lets nothing pass.
    """
    granted: list[str] = []
    tries = want + ASIDE_AT_ONCE
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
        elif (at := ledger.buckets.account_ready_at(account)) > ledger.now:
            ledger.queue.set_aside(account, place, at)
        elif (at := ledger.buckets.lane_ready_at(record.call.cost)) > ledger.now:
            return tuple(granted), at
        elif record.is_ticket:
            _hand_over(ledger, found[0], record, is_passing=is_passing)
        else:
            _start(ledger, found[0], worker, token)
            granted.append(place[2])
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
    """Find the first ticket behind calls that no worker is there to run.

    None is idle, and none has been woken, or has asked, just now. The calls keep their tags, and
    so their turn. A slot that is promised to the highest level is none to take so.
    """
    if ledger.queue.promised or ledger.idle or abs(ledger.now - ledger.coming_ms) < COMING_MS:
        return None
    line = ledger.queue.line(PASSED_OVER)
    return next((at for at in line if ledger.records[at[1][2]].is_ticket), None)


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


def _turn(ledger: Ledger, worker: str, reply: Reply) -> Turn:
    room_at = preempt(ledger)
    running = _still_held(ledger, reply.token, reply.grants, State.RUNNING)
    closing = _still_held(ledger, reply.token, reply.closings, State.CLOSING)
    grants, closings = map(_as_grant, running), map(_as_closing, closing)
    marked, due_in_ms = _marked(ledger, worker), ledger.due_in_ms(reply.blocked_until, room_at)
    return Turn(tuple(grants), tuple(closings), marked, due_in_ms)


def _marked(ledger: Ledger, worker: str) -> tuple[tuple[str, str], ...]:
    """Name what a worker must stop, or a holder give back."""
    return tuple((r.call.id, r.token) for r in ledger.marks if r.worker == worker)


def _still_held(ledger: Ledger, token: str, calls: Sequence[str], state: State) -> list[Record]:
    records = [ledger.records.get(call) for call in calls]
    return [r for r in records if r and r.token == token and r.state is state]


def _as_grant(record: Record) -> Grant:
    wait_ms = max(0, record.granted_at_ms - record.since_ms)
    call = record.call
    return Grant(call.id, record.token, call.caller, record.attempts, wait_ms, call.envelope)


def _as_closing(record: Record) -> Closing:
    return Closing(record.call.id, record.token, record.reason, record.call.envelope)
