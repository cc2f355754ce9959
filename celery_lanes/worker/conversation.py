"""What a worker and the store say to each other about one lane: one turn, one renewal."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from celery.utils.log import get_logger

from celery_lanes.errors import LaneNotConfigured, StoreError, StoreUnavailable
from celery_lanes.journeys.journey import destination
from celery_lanes.store.attempts import Reason, Turn
from celery_lanes.store.base import Store
from celery_lanes.worker.attempt import Attempt
from celery_lanes.worker.hands import Hands, LaneSource
from celery_lanes.worker.malformed import MALFORMED
from celery_lanes.worker.share import Ask, LaneShare, Move

logger = get_logger(__name__)

LOST_AFTER_S = 5.0
MOVE_AGAIN_S = 1.0


class Owner(Protocol):
    """Whose attempts they are."""

    is_open: bool

    def released(self, attempt: Attempt) -> None:
        """Give an attempt's lease back."""


class Conversation:
    """The worker's words; every one may be said again after a lost reply."""

    def __init__(self, incarnation: str, source: LaneSource, hands: Hands, owner: Owner) -> None:
        self._incarnation = incarnation
        self._source = source
        self._hands = hands
        self._owner = owner
        self._no_moves_until: dict[str, float] = {}

    def take_turn(self, store: Store, share: LaneShare, *, want: int) -> None:
        """Tell the store all news of the lane, and ask for calls."""
        if want or share.must_ask:
            ask = share.ask(want, now=time.monotonic(), can_close=self._owner.is_open)
            self._ask(store, share, ask)
        self._send_written(store, share)
        self._send_arrivals(store, share)  # late: a store at maxmemory refuses these alone
        self._finish_moves(store, share)  # last: another lane's node may be away

    def renew(self, store: Store, share: LaneShare) -> None:
        """Renew what can be proven alive; stop the bodies of leases that are gone."""
        if share.is_served and not share.is_configured:
            self._configure(store, share)
        share.settle_the_vanished(LOST_AFTER_S)
        sent_at = time.monotonic()
        if not (held := share.held()) and sent_at >= share.named_until:
            return
        for call in store.renew(share.lane, worker=self._incarnation, held=held).lost:
            share.closings.pop(call, None)
            if (attempt := share.lose(call)) is not None:
                logger.warning("celery_lanes: the lease of %s in %s is gone", call, share.lane)
                self._hands.stop_body(attempt)
        share.trust_leases(sent_at)

    def _configure(self, store: Store, share: LaneShare) -> None:
        rules = self._source.rules(share.lane)
        store.configure(share.lane, rules)
        share.patience_s = rules.lease_ttl_ms / 3000
        share.is_configured = True

    def _send_arrivals(self, store: Store, share: LaneShare) -> None:
        while share.must_admit:
            calls = share.arrivals.batch()
            policy, scope = self._source.policy(share.lane), self._source.scope(share.lane)
            store.admit(share.lane, calls, policy=policy, scope=scope)
            share.arrivals.took(len(calls))
            share.is_ready = True  # perhaps for one of these

    def _send_written(self, store: Store, share: LaneShare) -> None:
        while share.written:
            closing = share.written[0]
            store.close(share.lane, call=closing.call, token=closing.token)
            share.written.pop(0)
            share.closings.pop(closing.call, None)

    def _ask(self, store: Store, share: LaneShare, ask: Ask) -> None:
        try:
            turn = store.next(
                share.lane,
                worker=self._incarnation,
                request=ask.request,
                want=ask.want,
                releases=ask.releases,
                closings=ask.closings,
            )
        except LaneNotConfigured:
            self._configure(store, share)
            return
        share.answered(ask, turn)
        self._take(share, turn, sent_at=ask.sent_at)

    def _take(self, share: LaneShare, turn: Turn, *, sent_at: float) -> None:
        """Dispatch what was granted; a late reply may name leases that are no longer ours."""
        is_fresh = time.monotonic() - sent_at < share.patience_s
        for grant in turn.grants:
            good_until = sent_at + share.certain_s
            attempt = Attempt(share.lane, grant, self._owner.released, good_until)
            share.take(attempt)
            if is_fresh and self._owner.is_open:
                self._hands.dispatch(attempt)
            elif attempt.claim():
                attempt.end()
        for call, token in turn.preempted:
            running = share.attempts.get(call)
            if running is not None and running.grant.token == token:
                self._hands.make_room(running)
        for closing in turn.closings:
            share.closings[closing.call] = closing
            if closing.reason is Reason.MOVED:
                share.moves.append(Move(closing, sent_at))
            else:
                self._hands.close(share.lane, closing)

    def _finish_moves(self, store: Store, share: LaneShare) -> None:
        for move in share.due_moves:
            try:
                is_over = not self._is_ours(store, share, move) or self._finish_move(
                    store, share, move
                )
            except StoreUnavailable:
                raise
            except StoreError:
                logger.exception("celery_lanes: %s cannot be moved now", move.closing.call)
                share.closings.pop(move.closing.call, None)  # its lease lapses: another will try
                is_over = True
            if is_over:
                share.moves.remove(move)

    def _is_ours(self, store: Store, share: LaneShare, move: Move) -> bool:
        """Make sure that no other worker has the closing: it may have finished the move long ago.

        So a worker that was paused cannot bring a call again that its next lane has forgotten.
        """
        now = time.monotonic()
        if now - move.proven_at >= share.patience_s:
            self.renew(store, share)
            move.proven_at = now
        return share.closings.get(move.closing.call) is move.closing

    def _finish_move(self, store: Store, share: LaneShare, move: Move) -> bool:
        """Let the next lane have a call, then let go of it here; each may be done again.

        False if it has to wait for the next lane, whose node may be away; this one goes on.
        """
        closing = move.closing
        try:
            lane, call = destination(closing)
            policy, scope = self._source.policy(lane), self._source.scope(lane)
            admit = partial(store.admit, lane, [call], policy=policy, scope=scope)
        except MALFORMED:
            logger.exception("celery_lanes: nobody can read where %s goes", closing.call)
            self._hands.close(share.lane, closing)
            return True
        if not self._is_admitted(lane, admit):
            move.rests_until = self._no_moves_until[lane]
            return False
        if store.close(share.lane, call=closing.call, token=closing.token):
            store.confirm(lane, call.id)
        share.closings.pop(closing.call, None)
        return True

    def _is_admitted(self, lane: str, admit: Callable[[], object]) -> bool:
        """Let another lane have a call; one that is away is not tried with each call that waits."""
        began = time.monotonic()
        if began < self._no_moves_until.get(lane, began):
            return False
        try:
            admit()
        except StoreUnavailable as error:
            logger.warning("celery_lanes: calls wait to move to %s: %s", lane, error)
            now = time.monotonic()
            self._no_moves_until[lane] = now + MOVE_AGAIN_S + 3 * (now - began)
            return False
        return True
