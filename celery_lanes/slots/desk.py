"""What one process has of one lane without a worker: tickets that wait, slots that it holds.

Every word to the store may be said again after a lost reply; nothing is dropped here before the
store has answered.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Protocol

from celery_lanes.busy import refused, timed_out
from celery_lanes.errors import (
    LaneNotConfigured,
    NotQueued,
    StoreError,
    StoreUnavailable,
    WaitCancelled,
)
from celery_lanes.slots.ticket import Ticket
from celery_lanes.store.attempts import Claim, Outcome, Release
from celery_lanes.store.base import MAX_BATCH, Store
from celery_lanes.store.calls import Busy, Verdict
from celery_lanes.store.rules import LaneRules

logger = logging.getLogger(__name__)

TICK_S = 1.0

WITHDRAWN_AT_ONCE = 100
"""Each is a question of its own, and leases must be renewed meanwhile."""

_NEVER = float("inf")


class RuleBook(Protocol):
    """Who knows a lane's rules."""

    def rules(self, lane: str) -> LaneRules:
        """Give what the store must know of a lane."""


class Desk:
    """The tickets of one lane; touched by the holder's thread only.

    ``worked_at``: the monotonic time of its last turn, or of the last try.
    """

    def __init__(self, lane: str, holder: str, book: RuleBook, lease_ttl_s: float) -> None:
        self.lane = lane
        self._holder, self._book = holder, book
        self._patience_s = lease_ttl_s / 3
        self.worked_at = 0.0
        self._arrivals: list[Ticket] = []
        self._waiting: dict[str, Ticket] = {}
        self._leaving: dict[str, Ticket] = {}
        self._held: dict[str, Ticket] = {}
        self._releases: dict[str, Release] = {}
        self._ending: dict[str, Ticket] = {}
        self._known: dict[str, str] = {}
        self._is_called = False
        self._ticked_at = self._asked_at = self._rests_until = 0.0
        self._due_at = _NEVER

    # -- what the waiters say --------------------------------------------------------------------

    def take_in(self, ticket: Ticket) -> None:
        """Begin to wait."""
        if not ticket.is_given_up:
            self._arrivals.append(ticket)

    def give_up(self, ticket: Ticket) -> None:
        """Wait no more; a slot that has come meanwhile goes back unused."""
        ticket.is_given_up = True
        if ticket in self._arrivals:
            self._arrivals.remove(ticket)
        elif self._waiting.pop(ticket.call.id, None):
            self._leaving[ticket.call.id] = ticket
        else:
            self.give_back(ticket, Outcome.BACK)

    def give_back(self, ticket: Ticket, outcome: Outcome, cost: float | None = None) -> None:
        """Give a slot back, unless its lease is gone."""
        if self._held.pop(ticket.call.id, None):
            self._ending[ticket.call.id] = ticket
            self._release(ticket.call.id, ticket.token, outcome, cost)

    def hear(self) -> None:
        """Note that the store has called."""
        self._is_called = True

    # -- when ------------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether anybody waits for a slot, has one, or the store has not heard of an end."""
        return bool(
            self._arrivals or self._waiting or self._leaving or self._held or self._releases
        )

    @property
    def due_at(self) -> float:
        """Say at which monotonic time there is something to do."""
        if not self.is_busy:
            return _NEVER
        if self._arrivals or self._leaving or self._releases or self._is_called:
            return self._rests_until
        deadlines = (ticket.deadline for ticket in self._waiting.values())
        return min(max(self._rests_until, min(self._tick_at, self._due_at)), *deadlines, _NEVER)

    @property
    def _tick_at(self) -> float:
        """Say when to renew; who waits also looks whether a call of the store's got lost."""
        return self._ticked_at + min(TICK_S if self._waiting else _NEVER, self._patience_s)

    def look_at_clock(self, now: float, *, is_away: bool) -> None:
        """End the wait of those whose time has passed; while the store is away, without a word."""
        for ticket in [t for t in self._waiting.values() if now >= t.deadline]:
            self._leaving[ticket.call.id] = self._waiting.pop(ticket.call.id)
        if is_away:
            for ticket in self._leaving.values():
                if not ticket.is_given_up:
                    ticket.fail(timed_out(self.lane, ticket.max_wait_s or 0))

    # -- what the store is told ------------------------------------------------------------------

    def work(self, store: Store, now: float) -> None:
        """Do what is due, what we have before what is new; after a refusal the lane rests.

        A store that takes nothing new (it is full, its replicas are away) still renews and grants.
        """
        if now < max(self.due_at, self._rests_until):
            return
        self.worked_at = now
        try:
            self._work(store, now)
        except StoreError as error:
            self.turn_away(error)
            if isinstance(error, StoreUnavailable):
                raise
            logger.exception("celery_lanes: %s was refused its turn; again in 1 s", self.lane)
            self._rests_until = time.monotonic() + TICK_S

    def turn_away(self, error: Exception) -> None:
        """Have those raise of whom the store has not been told yet."""
        arrivals, self._arrivals = self._arrivals, []
        for ticket in arrivals:
            ticket.fail(error)

    def _work(self, store: Store, now: float) -> None:
        if now >= self._tick_at:
            self._tick(store, now)
        self._is_called = self._is_called or now >= self._due_at
        self._claim_all(store)
        self._withdraw(store)
        self._admit(store)
        self._claim_all(store)

    def _admit(self, store: Store) -> None:
        """Let all in who are equally patient, at once."""
        while self._arrivals:
            wait_s = self._arrivals[0].max_wait_s
            batch = [ticket for ticket in self._arrivals if ticket.max_wait_s == wait_s]
            self._arrivals = [ticket for ticket in self._arrivals if ticket.max_wait_s != wait_s]
            try:
                verdicts = self._admitted(store, batch)
            except Exception as error:
                self._refuse(batch, error)
                raise
            for ticket, verdict in zip(batch, verdicts, strict=True):
                self._judge(ticket, verdict)

    def _admitted(self, store: Store, batch: list[Ticket]) -> list[Verdict]:
        first = batch[0]
        return store.admit(
            self.lane,
            [ticket.call for ticket in batch],
            policy=first.policy,
            scope=first.scope,
            max_wait_ms=None if first.max_wait_s is None else round(first.max_wait_s * 1000),
        )

    def _judge(self, ticket: Ticket, verdict: Verdict) -> None:
        if isinstance(verdict, Busy):
            ticket.fail(refused(self.lane, verdict, ticket.max_wait_s or 0))
        else:
            self._waiting[ticket.call.id] = ticket
            self._is_called = True

    def _refuse(self, batch: list[Ticket], error: Exception) -> None:
        """Have waiters raise, as the store is away; it may have let them in, so they leave."""
        for ticket in batch:
            ticket.fail(error)
            self._leaving[ticket.call.id] = ticket

    def _withdraw(self, store: Store) -> None:
        for call, ticket in list(self._leaving.items())[:WITHDRAWN_AT_ONCE]:
            error = None if ticket.is_given_up else self._timed_out(store, ticket)
            token = store.withdraw(self.lane, holder=self._holder, call=call)
            del self._leaving[call]
            if token is None and error is not None:
                ticket.fail(error)
            elif token is not None and ticket.is_given_up:
                self._release(call, token, Outcome.BACK)
            elif token is not None:  # the next claim tells whether that is still so
                ticket.deadline = _NEVER
                self._waiting[call], self._is_called = ticket, True

    def _timed_out(self, store: Store, ticket: Ticket) -> Exception:
        max_wait_s = ticket.max_wait_s or 0
        with suppress(NotQueued):
            standing = store.position(self.lane, ticket.call.task_id)
            facts = {"ahead": standing.ahead, "wait_ms": standing.wait_ms}
            return timed_out(self.lane, max_wait_s, **facts)
        return timed_out(self.lane, max_wait_s)

    def _claim_all(self, store: Store) -> None:
        while self._is_called or self._releases:
            self._claim(store)

    def _claim(self, store: Store) -> None:
        releases, known = dict(self._releases), dict(self._known)
        claim = self._claimed(store, tuple(known.items()), tuple(releases.values()))
        self._is_called = len(claim.granted) + len(claim.gone) == MAX_BATCH
        for call in known:
            del self._known[call]
        for call in releases:
            del self._releases[call]
            if (ticket := self._ending.pop(call, None)) is not None:
                ticket.end()
        self._heed(claim)

    def _claimed(
        self, store: Store, known: tuple[tuple[str, str], ...], releases: tuple[Release, ...]
    ) -> Claim:
        """Ask until an answer comes in time: of an older one, leases may be over by now."""
        while True:
            self._asked_at = time.monotonic()
            try:
                claim = store.claim(self.lane, holder=self._holder, known=known, releases=releases)
            except LaneNotConfigured:
                store.configure(self.lane, self._book.rules(self.lane))
                continue
            if time.monotonic() - self._asked_at < self._patience_s:
                return claim

    def _heed(self, claim: Claim) -> None:
        due_in_ms = claim.due_in_ms
        self._due_at = _NEVER if due_in_ms is None else time.monotonic() + due_in_ms / 1000
        for call, token in claim.granted:
            self._hear_of_grant(call, token)
        for call, _ in claim.preempted:
            if (asked := self._held.get(call)) is not None:
                asked.is_asked = True
        for call in claim.gone:
            self._known[call] = ""
            self._lose(call)

    def _hear_of_grant(self, call: str, token: str) -> None:
        """Take a slot; one that nobody here has asked for goes back.

        Of an admit whose answer was lost, the server may have heard late.
        """
        if call in self._leaving:
            return  # withdrawing it will say the same
        self._known[call] = token
        if (ticket := self._waiting.pop(call, None)) is not None:
            self._held[call] = ticket
            ticket.keep(self._asked_at)
            ticket.grant(token)
        elif call not in self._held and call not in self._releases:
            self._release(call, token, Outcome.BACK)

    def _release(self, call: str, token: str, outcome: Outcome, cost: float | None = None) -> None:
        self._releases[call] = Release(call, token, outcome, cost)

    def _tick(self, store: Store, now: float) -> None:
        """Renew, and see to what is over: there may be no worker to do it."""
        if self._held or self._waiting:
            self._renew(store)
            self._is_called = True  # a call of the store's may have got lost
        store.reap(self.lane)
        self._ticked_at = now

    def _renew(self, store: Store) -> None:
        """Keep what we hold, and prove that we wait."""
        held = [(call, ticket.token) for call, ticket in self._held.items()]
        waiting = [(call, "") for call in self._waiting]
        asked_at = time.monotonic()
        for call in store.renew(self.lane, worker=self._holder, held=[*held, *waiting]).lost:
            self._lose(call)
        for ticket in self._held.values():
            ticket.keep(asked_at)

    def _lose(self, call: str) -> None:
        if (ticket := self._held.pop(call, None)) is not None:
            logger.warning("celery_lanes: the lease of a slot of %s is gone", self.lane)
            ticket.lose()
        elif (ticket := self._waiting.pop(call, None)) is not None:
            ticket.fail(WaitCancelled())
