"""What a worker and the store say to each other about one lane: one turn, one renewal."""

from __future__ import annotations

import time
from typing import Protocol

from celery.utils.log import get_logger

from celery_lanes.errors import LaneNotConfigured
from celery_lanes.store.attempts import Turn
from celery_lanes.store.base import Store
from celery_lanes.worker.attempt import Attempt
from celery_lanes.worker.hands import Hands, LaneSource
from celery_lanes.worker.share import Ask, LaneShare

logger = get_logger(__name__)

LOST_AFTER_S = 5.0


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

    def take_turn(self, store: Store, share: LaneShare, *, want: int) -> None:
        """Tell the store all news of the lane, and ask for calls."""
        if want or share.must_ask:
            ask = share.ask(want, now=time.monotonic(), can_close=self._owner.is_open)
            self._ask(store, share, ask)
        self._send_written(store, share)
        self._send_arrivals(store, share)  # last: a store at maxmemory refuses these alone

    def renew(self, store: Store, share: LaneShare) -> None:
        """Renew what can be proven alive; stop the bodies of leases that are gone."""
        if share.is_served and not share.is_configured:
            self._configure(store, share)
        share.settle_the_vanished(LOST_AFTER_S)
        if not (held := share.held()):
            return
        for call in store.renew(share.lane, worker=self._incarnation, held=held).lost:
            share.closings.pop(call, None)
            if (attempt := share.attempts.pop(call, None)) is not None:
                logger.warning("celery_lanes: the lease of %s in %s is gone", call, share.lane)
                self._hands.stop_body(attempt)

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
        self._take(share, turn, is_fresh=time.monotonic() - ask.sent_at < share.patience_s)

    def _take(self, share: LaneShare, turn: Turn, *, is_fresh: bool) -> None:
        """Dispatch what was granted; a late reply may name leases that are no longer ours."""
        for grant in turn.grants:
            attempt = Attempt(share.lane, grant, self._owner.released)
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
            self._hands.close(share.lane, closing)
