"""One worker's turn with a lane of the memory store: what ``next`` gives after the releases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from celery_lanes.store.attempts import Claim, Closing, Grant, Reason, Turn
from celery_lanes.store.base import MAX_BATCH_BYTES
from celery_lanes.store.calls import State, onward_of
from celery_lanes.store.memory.grants import COMING_MS, grant, serve_tickets
from celery_lanes.store.memory.leases import trim_settled
from celery_lanes.store.memory.ledger import WAKE_AT_ONCE, Ledger, Reply
from celery_lanes.store.memory.preemption import preempt
from celery_lanes.store.memory.record import Record
from celery_lanes.store.memory.tickets import FORGET_AT_MOST, TOLD_AT_ONCE

FORGET_EVERY, FORGET_SOON, FORGET_LEAST, FORGET_MOST = 16, 12, 200, 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a worker asks for: so many calls and results to write, their leases under this token.

    ``ends``: how many releases came with it; ``moved``: the calls that go on in another lane by
    them.
    """

    worker: str
    request: int
    want: int
    closings: int
    token: str
    ends: int
    moved: tuple[str, ...]

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
        trim_settled(ledger, FORGET_AT_MOST)
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
    closings, is_cut = _hand_out(ledger, wish)
    grants, blocked_until = grant(ledger, wish.worker, wish.token, wish.want)
    if is_cut:
        blocked_until = ledger.now
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


def _hand_out(ledger: Ledger, wish: Wish) -> tuple[tuple[str, ...], bool]:
    """Hand out what its worker has just moved, which it can finish at once, and so many others.

    Says also whether there was no room in the answer for one of these.
    """
    unheld = sorted(call for call, until in ledger.closing.items() if not until)
    own = [call for call in dict.fromkeys(wish.moved) if call in unheld]
    others = [call for call in unheld if call not in own][: wish.closings]
    sizes = accumulate(len(ledger.records[call].call.envelope) for call in (*own, *others))
    fitting = max(1, sum(size <= MAX_BATCH_BYTES for size in sizes))
    handed = (*own, *others)[: max(len(own), fitting)]
    for call in handed:
        ledger.lease(ledger.records[call], wish.worker, wish.token)
    return handed, len(handed) < len(own) + len(others)


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
    names, granted_ms = (call.id, record.token, call.caller), record.granted_at_ms
    return Grant(*names, record.attempts, wait_ms, call.envelope, granted_ms)


def _as_closing(record: Record) -> Closing:
    call = record.call
    onward = onward_of(call) if record.reason is Reason.MOVED else None
    return Closing(call.id, record.token, record.reason, call.envelope, onward)
