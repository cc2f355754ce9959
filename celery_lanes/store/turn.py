"""One worker's turn with a lane of the memory store: what ``next`` gives after the releases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from celery_lanes.fairness import Place
from celery_lanes.store.attempts import Closing, Grant, Turn
from celery_lanes.store.calls import State
from celery_lanes.store.leases import trim_settled
from celery_lanes.store.ledger import ASIDE_AT_ONCE, Ledger, Record, Reply
from celery_lanes.store.preemption import may_be_stopped, preempt

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
    return _turn(ledger, wish.worker, reply)


def _serve(ledger: Ledger, wish: Wish) -> Reply:
    ledger.promote()
    if wish.request % FORGET_EVERY == 0 or wish.turnover > FORGET_SOON:
        limit = min(FORGET_MOST, max(FORGET_LEAST, 2 * wish.turnover))
        ledger.queue.forget_finishes(limit)
        trim_settled(ledger, limit)
    closings = _hand_out(ledger, wish)
    grants, blocked_until = _grant(ledger, wish)
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


def _grant(ledger: Ledger, wish: Wish) -> tuple[tuple[str, ...], float | None]:
    """Grant up to what is wanted; says also until when the lane's bucket lets nothing pass."""
    granted: list[str] = []
    tries = wish.want + ASIDE_AT_ONCE
    while len(granted) < wish.want and ledger.free_slots and (first := ledger.queue.first()):
        account, place = first
        cost = ledger.records[place[2]].call.cost
        tries -= 1
        if tries < 0:
            return tuple(granted), ledger.now
        if (at := ledger.buckets.account_ready_at(account)) > ledger.now:
            ledger.queue.set_aside(account, place, at)
        elif (at := ledger.buckets.lane_ready_at(cost)) > ledger.now:
            return tuple(granted), at
        else:
            _start(ledger, first, wish)
            granted.append(place[2])
    return tuple(granted), None


def _start(ledger: Ledger, first: tuple[str, Place], wish: Wish) -> None:
    account, place = first
    record = ledger.records[place[2]]
    record.charge = ledger.queue.take(account, place, record.call.cost)
    ledger.buckets.spend(account, record.call.cost, ledger.now)
    record.state = State.RUNNING
    record.attempts += 1
    record.is_reported = False
    record.is_early = ledger.acks_early.get(record.call.task, False)
    record.is_victim = may_be_stopped(ledger, record)
    ledger.lease(record, wish.worker, wish.token)


def _turn(ledger: Ledger, worker: str, reply: Reply) -> Turn:
    room_at = preempt(ledger)
    running = _still_held(ledger, reply.token, reply.grants, State.RUNNING)
    closing = _still_held(ledger, reply.token, reply.closings, State.CLOSING)
    grants, closings = map(_as_grant, running), map(_as_closing, closing)
    marked = ((r.call.id, r.token) for r in ledger.marks if r.worker == worker)
    due_in_ms = ledger.due_in_ms(reply.blocked_until, room_at)
    return Turn(tuple(grants), tuple(closings), tuple(marked), due_in_ms)


def _still_held(ledger: Ledger, token: str, calls: Sequence[str], state: State) -> list[Record]:
    records = [ledger.records.get(call) for call in calls]
    return [r for r in records if r and r.token == token and r.state is state]


def _as_grant(record: Record) -> Grant:
    wait_ms = max(0, record.granted_at_ms - record.since_ms)
    call = record.call
    return Grant(call.id, record.token, call.caller, record.attempts, wait_ms, call.envelope)


def _as_closing(record: Record) -> Closing:
    return Closing(record.call.id, record.token, record.reason, record.call.envelope)
