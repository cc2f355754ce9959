"""The store thread: all of a worker's conversation with the lane store.

It belongs to the worker, not to the consumer (that one is rebuilt at every broker reconnect):
a blocked event loop stops neither renewals nor releases, and a store error can never look like a
broker error or end the worker. Nothing in here touches the pool; nothing outside waits for the
store.

One round: wait for mail, a wake-up or a due time; renew and reap if it is time; take one *turn*
with the lane that was served least recently.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from celery_lanes.errors import StoreError, StoreUnavailable
from celery_lanes.store.attempts import Closing
from celery_lanes.store.base import Store
from celery_lanes.store.calls import Call
from celery_lanes.worker.arrivals import Arrivals
from celery_lanes.worker.attempt import Attempt
from celery_lanes.worker.conversation import Conversation
from celery_lanes.worker.hands import Hands, LaneSource
from celery_lanes.worker.link import Link
from celery_lanes.worker.outage import Outage, retry_s
from celery_lanes.worker.postman import Mailbox, Watch
from celery_lanes.worker.share import LaneShare
from celery_lanes.worker.threads import start_native_thread, unforked

logger = logging.getLogger(__name__)

TICK_S = 1.0


class Agent:
    """The store thread and its ledger of attempts."""

    def __init__(
        self, *, node: str, open_store: Callable[[], Store], source: LaneSource, hands: Hands
    ) -> None:
        self.incarnation = f"{node}/{uuid.uuid4().hex}"
        self._link = Link(open_store, self.incarnation)
        self._hands = hands
        self._talk = Conversation(self.incarnation, source, hands, self)
        self._mail = Mailbox()
        self._watch = Watch(self._mail)
        self._arrivals: defaultdict[str, Arrivals] = defaultdict(Arrivals)
        self._shares: dict[str, LaneShare] = {}
        self._outage = Outage(hands)
        self.is_open = False
        self._is_stopping = False
        self._tick_at = 0.0
        self._retry_at = 0.0
        self._turns = 0
        self._is_starved = False
        self._thread: Any = None

    # -- called from any thread ------------------------------------------------------------

    def start(self) -> None:
        """Begin; no call is granted before ``open``."""
        self._thread = start_native_thread(self._run, name="lanes-store")

    def open(self, lanes: Iterable[str]) -> None:
        """Ask for calls of these lanes from now on: the consumer is ready."""
        self._mail.post(self._opened, list(lanes))

    def shut(self) -> None:
        """Ask for no more calls; what was granted and not dispatched goes back."""
        self.is_open = False
        self._mail.post(self._shut)

    def admit(self, lane: str, call: Call, taken: Callable[[], None]) -> None:
        """Park a call that came by the broker; ``taken`` is called once the store has it."""
        arrivals = self._arrivals[lane]
        if arrivals.add(call, taken):
            self._mail.post(self._arrived, lane, arrivals)

    def released(self, attempt: Attempt) -> None:
        """Give an attempt's lease back."""
        self._is_starved = False  # the round that its letter brings looks for room by itself
        try:
            self._hands.finished(attempt)
        finally:
            self._mail.post(self._ended, attempt)

    def holds(self, lane: str, closing: Closing) -> bool:
        """Whether a result is still ours to write: its order may have lain about for long."""
        share = self._shares.get(lane)
        return share is not None and share.closings.get(closing.call) is closing

    def closed(self, lane: str, closing: Closing) -> None:
        """Settle a call whose result has been written."""
        self._mail.post(self._written, lane, closing)

    def left_open(self, lane: str, closing: Closing) -> None:
        """Let a call's closing lease lapse: its result could not be written; another will try."""
        self._mail.post(self._forgotten, lane, closing)

    def nudge(self) -> None:
        """Ask again if there is room at last, as when a plain task ends; called every loop turn."""
        if self._is_starved and self._hands.free() > 0:
            self._is_starved = False
            self._mail.post(_nothing)

    def stop(self, timeout_s: float = 10.0) -> None:
        """Send what is left to the store and end the thread."""
        self.shut()
        self._mail.post(self._stop, time.monotonic() + timeout_s)
        if self._thread is not None:
            self._thread.join(timeout_s + 2.0)

    # -- letters, opened by the store thread -------------------------------------------------

    def _opened(self, lanes: list[str]) -> None:
        for share in self._shares.values():
            share.is_served = False
        for lane in lanes:
            share = self._share(lane)
            share.is_served = share.is_ready = True
        self.is_open = bool(lanes) and not self._is_stopping

    def _shut(self) -> None:
        self.is_open = False
        for share in self._shares.values():
            share.shut()  # what is being written is harmless
            for attempt in list(share.attempts.values()):
                if attempt.claim():
                    attempt.end()

    def _arrived(self, lane: str, arrivals: Arrivals) -> None:
        self._share(lane).arrivals = arrivals

    def _ended(self, attempt: Attempt) -> None:
        self._share(attempt.lane).give_back(attempt)

    def _written(self, lane: str, closing: Closing) -> None:
        self._share(lane).written.append(closing)

    def _forgotten(self, lane: str, closing: Closing) -> None:
        if self.holds(lane, closing):
            del self._share(lane).closings[closing.call]

    def _stop(self, deadline: float) -> None:
        self._is_stopping = True
        self._deadline = deadline

    def _share(self, lane: str) -> LaneShare:
        if lane not in self._shares:
            self._shares[lane] = LaneShare(lane)
        return self._shares[lane]

    # -- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        while self._goes_on():
            continue
        with unforked():
            self._link.close()

    def _goes_on(self) -> bool:
        """Wait and take a round; whatever goes wrong, the thread goes on: it renews the leases."""
        try:
            heard = self._watch.wait(self._link.ears, self._timeout_s())
            with unforked():
                self._work(heard=heard)
            return not self._is_done()
        except Exception:
            logger.exception("celery_lanes: the store thread failed; going on in 1 s")
            self._retry_at = time.monotonic() + TICK_S
            with unforked():
                self._link.close()
            return True

    def _work(self, *, heard: bool) -> None:
        """Take one round."""
        try:
            if heard:
                for lane in self._link.drain():
                    self._share(lane).hear()
            self._mail.open()
            self._round()
        except StoreUnavailable as error:
            self._went_away(error)

    def _is_done(self) -> bool:
        if not self._is_stopping:
            return False
        is_busy = any(share.has_news for share in self._shares.values())
        return not is_busy or time.monotonic() > self._deadline

    def _timeout_s(self) -> float:
        """Say how long there is nothing to do; room that comes from here on is worth a letter."""
        now = time.monotonic()
        if now < self._retry_at:
            return self._retry_at - now
        self._is_starved = self._has_takers
        if self._next_share() is not None:
            self._is_starved = False
            return 0.0
        due = (at for share in self._shares.values() for at in share.due_times)
        rests = (share.rests_until for share in self._due_shares())
        return max(0.0, min([self._tick_at, *due, *rests]) - now)

    def _round(self) -> None:
        now = time.monotonic()
        if now < self._retry_at:
            return
        store = self._connected()
        if now >= self._tick_at:
            self._tick(store, now)
        for known in self._shares.values():
            known.look_at_clock(now)
        if (share := self._next_share()) is not None:
            self._turn(store, share)
        self._outage.store_came()
        self._outage.tell()

    def _connected(self) -> Store:
        if self._link.listen():
            for share in self._shares.values():
                share.wake()  # what was published while nobody listened
        return self._link.store

    def _tick(self, store: Store, now: float) -> None:
        """Look after every lane, first after the one that has waited longest for it.

        So a lane whose node of a cluster is away does not cost the others their leases.
        """
        self._tick_at = now + TICK_S * random.uniform(0.8, 1.2)  # noqa: S311 # jitter, not a secret
        for share in sorted(self._shares.values(), key=lambda share: share.tended_at):
            if self._outage.may_ask(share, now):
                self._look_after(store, share)
        if self._has_takers and self._free() == 0:
            self._hands.grow()

    def _look_after(self, store: Store, share: LaneShare) -> None:
        """Renew and reap; a refusal in one lane must not cost the others their leases."""
        share.tended_at = began = time.monotonic()
        try:
            self._talk.renew(store, share)
            store.reap(share.lane)
        except StoreUnavailable as error:
            self._lane_went(share, error, began)
            return
        except StoreError:
            logger.exception("celery_lanes: cannot renew the leases of %s", share.lane)
        self._outage.lane_came(share.lane)
        share.wake()

    # -- one turn with one lane ------------------------------------------------------------------

    def _next_share(self) -> LaneShare | None:
        """Pick the lane to talk to, of those that need not rest."""
        now = time.monotonic()
        awake = (share for share in self._due_shares() if share.rests_until <= now)
        return min(awake, key=lambda s: s.served_at, default=None)

    def _due_shares(self) -> list[LaneShare]:
        """Name the lanes that have news, or may have calls for a free process."""
        can_take = self.is_open and self._free() > 0
        return [s for s in self._shares.values() if s.must_speak or (can_take and s.may_grant)]

    @property
    def _has_takers(self) -> bool:
        """Whether a free process would be of use."""
        return self.is_open and any(share.may_grant for share in self._shares.values())

    def _free(self) -> int:
        """Count free processes, less the calls that are on their way to one."""
        undispatched = sum(s.undispatched for s in self._shares.values())
        return self._hands.free() - undispatched

    def _want(self, share: LaneShare) -> int:
        """Take all there is room for; one at a time where another lane may want the room too."""
        free = self._free()
        if not (self.is_open and share.may_grant) or free <= 0:
            return 0
        is_alone = not any(s.may_grant for s in self._shares.values() if s is not share)
        return free if is_alone else 1

    def _turn(self, store: Store, share: LaneShare) -> None:
        self._turns += 1
        share.served_at = self._turns
        began = time.monotonic()
        try:
            self._talk.take_turn(store, share, want=self._want(share))
        except StoreUnavailable as error:
            self._lane_went(share, error, began)
        except StoreError:
            logger.exception("celery_lanes: %s was refused its turn; again in 1 s", share.lane)
            share.rests_until = time.monotonic() + TICK_S
        else:
            self._outage.lane_came(share.lane)

    # -- outages -----------------------------------------------------------------------------------

    def _lane_went(self, share: LaneShare, error: StoreUnavailable, began: float) -> None:
        """Go on with the other lanes; raises if there is none left."""
        took_s = time.monotonic() - began
        self._outage.lane_went(share, error, took_s=took_s, lanes=self._shares)

    def _went_away(self, error: StoreUnavailable) -> None:
        self._outage.store_went(self._shares, error)
        for share in self._shares.values():
            share.rests_until = 0.0
        self._retry_at = time.monotonic() + retry_s()
        self._tick_at = 0.0
        self._link.close()


def _nothing() -> None:
    """Wake the store thread; a look around is all that is wanted."""
