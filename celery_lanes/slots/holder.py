"""The thread that holds a process's slots: it alone speaks to the store of them.

Waiters wait for a future, in a thread or in an event loop, and it is done when the slot is theirs
or never will be. So nobody wakes for nothing, and whether a grant or the end of somebody's patience
came first is decided in one place.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from math import inf
from socket import gethostname

from celery_lanes.errors import StoreUnavailable
from celery_lanes.slots.desk import Desk, RuleBook
from celery_lanes.slots.ticket import Ticket
from celery_lanes.store.attempts import Outcome
from celery_lanes.store.base import Store, Wakeups
from celery_lanes.worker.postman import Mailbox, Watch
from celery_lanes.worker.threads import unforked

logger = logging.getLogger(__name__)

PAUSE_S = 1.0

LONGEST_SLEEP_S = 3600.0
"""A lease may last for years; the system takes no such time-out."""


class Holder:
    """One process's tickets, in any lane; a forked child makes its own.

    Under gevent the thread is a greenlet, and lives by what the others leave it of the process.
    """

    def __init__(self, open_store: Callable[[], Store], book: RuleBook) -> None:
        self.pid = os.getpid()
        self.incarnation = f"{gethostname()}:{self.pid}/{uuid.uuid4().hex}"
        self._open_store, self._book = open_store, book
        self._mail = Mailbox()
        self._watch = Watch(self._mail)
        self._starting = threading.Lock()
        self._is_started = False
        self._desks: dict[str, Desk] = {}
        self._store: Store | None = None
        self._ears: Wakeups | None = None
        self._is_away = False
        self._retry_at = 0.0

    # -- other threads ---------------------------------------------------------------------------

    def want(self, ticket: Ticket) -> None:
        """Ask for a slot: ``ticket.granted`` tells."""
        ticket.call = replace(ticket.call, holder=self.incarnation)
        if ticket.max_wait_s is not None:
            ticket.deadline = time.monotonic() + ticket.max_wait_s
        self._start()
        self._mail.post(self._take_in, ticket)

    def give_up(self, ticket: Ticket) -> None:
        """Wait no more; if the slot has just come, it goes back."""
        self._mail.post(self._give_up, ticket)

    def give_back(self, ticket: Ticket, outcome: Outcome, cost: float | None) -> None:
        """Give a slot back: ``ticket.ended`` tells when the store knows."""
        self._mail.post(self._give_back, ticket, outcome, cost)

    def forsake(self) -> None:
        """Let go, in a forked child, of what is the parent's."""
        self._mail.close()

    def _start(self) -> None:
        with self._starting:
            if not self._is_started:
                threading.Thread(target=self._run, name="lanes-slots", daemon=True).start()
                self._is_started = True  # not before: there may be no room for a thread

    # -- the thread's mail -----------------------------------------------------------------------

    def _take_in(self, ticket: Ticket) -> None:
        if ticket.lane not in self._desks:
            desk = Desk(ticket.lane, self.incarnation, self._book, ticket.lease_ttl_s)
            self._desks[ticket.lane] = desk
        self._desks[ticket.lane].take_in(ticket)

    def _give_up(self, ticket: Ticket) -> None:
        if (desk := self._desks.get(ticket.lane)) is not None:  # else it was never asked for
            desk.give_up(ticket)

    def _give_back(self, ticket: Ticket, outcome: Outcome, cost: float | None) -> None:
        self._desks[ticket.lane].give_back(ticket, outcome, cost)

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            heard = self._watch.wait(self._ears, self._timeout_s())
            with unforked():
                self._work(heard=heard)

    def _timeout_s(self) -> float | None:
        due_at = min((desk.due_at for desk in self._desks.values()), default=inf)
        if due_at == inf:
            return None
        left_s = max(due_at, self._retry_at) - time.monotonic()
        return min(max(0.0, left_s), LONGEST_SLEEP_S)

    def _work(self, *, heard: bool) -> None:
        """Take one round; whatever goes wrong, the thread goes on."""
        try:
            self._mail.open()
            if heard:
                self._hear()
            self._round()
        except StoreUnavailable as error:
            self._went_away(error)
        except Exception:
            logger.exception("celery_lanes: the thread of slots failed; going on in 1 s")
            self._retry_at = time.monotonic() + PAUSE_S
            self._disconnect()

    def _hear(self) -> None:
        if self._ears is not None:
            for lane in self._ears.drain():
                if lane in self._desks:
                    self._desks[lane].hear()

    def _round(self) -> None:
        now = time.monotonic()
        self._look_at_clock(now)
        if now < self._retry_at or not self._is_busy:
            return
        store = self._connected()
        for desk in sorted(self._desks.values(), key=lambda desk: desk.worked_at):
            desk.work(store, now)  # one whose node of a cluster is away costs the others no lease
        if self._is_away:
            logger.warning("celery_lanes: the lane store is back")
        self._is_away = False

    @property
    def _is_busy(self) -> bool:
        return any(desk.is_busy for desk in self._desks.values())

    def _look_at_clock(self, now: float) -> None:
        for desk in self._desks.values():
            desk.look_at_clock(now, is_away=self._is_away)

    def _connected(self) -> Store:
        """Give the store; who has asked for a slot is told why, if there is none."""
        try:
            return self._connect()
        except Exception as error:
            for desk in self._desks.values():
                desk.turn_away(error)
            raise

    def _connect(self) -> Store:
        if self._store is None:
            self._store = self._open_store()
        if self._ears is None:
            self._ears = self._store.listen(self.incarnation)
            for desk in self._desks.values():
                desk.hear()  # what was published while nobody listened
        return self._store

    # -- outages ---------------------------------------------------------------------------------

    def _went_away(self, error: StoreUnavailable) -> None:
        self._disconnect()
        if not self._is_busy:  # an ear that nobody needed is gone
            return
        if not self._is_away:
            logger.error("celery_lanes: the lane store is away, no slot is granted: %s", error)
        self._is_away = True
        self._look_at_clock(time.monotonic())
        self._retry_at = time.monotonic() + random.uniform(0.2, 0.6)  # noqa: S311 # jitter

    def _disconnect(self) -> None:
        ears, self._ears = self._ears, None
        try:
            if ears is not None:
                ears.close()
            if self._store is not None:
                self._store.disconnect()
        except Exception:
            logger.exception("celery_lanes: cannot close the connections to the store")
