"""``lanes.slot(...)``: a slot of a lane for code that is no task."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as EndedTimeoutError
from contextlib import suppress
from types import TracebackType
from typing import Protocol

from typing_extensions import Self

from celery_lanes.callinfo import Held
from celery_lanes.errors import LanesError, StoreUnavailable
from celery_lanes.slots.ticket import Ticket
from celery_lanes.store.attempts import Outcome
from celery_lanes.store.checks import MAX_TIME_MS, check_real_cost

MARGIN_S = 2.0
"""How much later than ``max_wait`` the holder may say what becomes of a wait."""

RELEASE_PATIENCE_S = 1.0
"""How long the end of a block waits for the store to hear of it: its process may end next."""


class Keeper(Protocol):
    """Who gets tickets their slots: the process's thread, or nobody with lanes switched off."""

    pid: int

    def want(self, ticket: Ticket) -> None:
        """Ask for a slot: ``ticket.granted`` tells."""

    def give_up(self, ticket: Ticket) -> None:
        """Wait no more; if the slot has just come, it goes back."""

    def give_back(self, ticket: Ticket, outcome: Outcome, cost: float | None) -> None:
        """Give a slot back: ``ticket.ended`` tells when the store knows."""


class Slot:
    """A slot, held inside ``with`` or ``async with``; for one block.

    While the block runs, a thread of this process renews the slot's lease. If it cannot (the
    process is paused, or cut off from the store, for longer than ``lease_ttl``), the slot may be
    somebody else's: the block should end soon.
    """

    def __init__(self, keeper: Callable[[], Keeper], ticket: Ticket) -> None:
        self.lane = ticket.lane
        self.caller = ticket.call.caller
        self._find_keeper, self._ticket = keeper, ticket
        self._keeper: Keeper | None = None
        self._is_held = self._is_async = False

    def __del__(self) -> None:
        """Give back what nobody else can: of a stream that was neither read out nor closed."""
        with suppress(Exception):  # it was never made, or the interpreter ends
            self._give_back(Outcome.FAILED)

    def __repr__(self) -> str:
        return f"Slot({self.lane!r}, caller={self.caller!r})"

    @property
    def lease(self) -> Held | None:
        """Which lease it is held by; ``None`` while it is not held, and with lanes switched off."""
        call, token = self._ticket.call.id, self._ticket.token
        return Held(self.lane, call, token) if self._is_held and token else None

    @property
    def is_lost(self) -> bool:
        """Whether the lease was gone before the slot was given back, or may be.

        The latter while the store has not been heard of for ``lease_ttl``; it may say that all is
        well, if it was away itself.
        """
        return self._ticket.is_lost or (self._is_held and self._ticket.is_overdue)

    def should_yield(self) -> bool:
        """Say whether the block should end soon: a more urgent call wants its slot, or has it.

        The former only with ``preemptible=True``, in a lane with ``preemption``.
        """
        return self._ticket.is_asked or self.is_lost

    def release(self, cost: float | None = None, *, failed: bool = False) -> None:
        """Give the slot back before the block ends; after that, nothing happens.

        ``cost``: what it really cost, in the lane's unit, instead of the estimate. ``failed``: its
        time does not tell how long calls take, nor that an adaptive lane bears more of them, as
        when the block raises. Inside ``with``, it returns when the store knows, or after a second
        while the store is away.
        """
        if cost is not None:
            check_real_cost(cost, self._ticket.call.id)
        self._give_back(Outcome.FAILED if failed else Outcome.DONE, cost)
        if not self._is_async:
            self._wait_until_ended()

    def __enter__(self) -> Self:
        """Wait for the slot.

        Raises ``LaneBusy`` if it would wait, or has waited, longer than ``max_wait``;
        ``WaitCancelled``; ``StoreUnavailable`` if the store is away to begin with, or gives no
        answer for 2 s after ``max_wait``.
        """
        keeper = self._begin()
        try:
            keeper.want(self._ticket)
            self._ticket.granted.result(self._longest_s)
            self._is_held = True
        except BaseException as error:
            keeper.give_up(self._ticket)
            if isinstance(error, EndedTimeoutError):
                raise self._unheard from None
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the slot back."""
        self._give_back(_outcome(kind))
        self._wait_until_ended()

    async def __aenter__(self) -> Self:
        """Wait for the slot in the running event loop; see ``__enter__``."""
        self._is_async = True
        keeper = self._begin()
        try:
            keeper.want(self._ticket)
            await _ended(self._ticket.granted, self._longest_s)
            self._ticket.granted.result(0)
            self._is_held = True
        except BaseException as error:
            keeper.give_up(self._ticket)
            if isinstance(error, EndedTimeoutError):
                raise self._unheard from None
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the slot back."""
        self._give_back(_outcome(kind))
        if self._keeper_here is not None:
            await _ended(self._ticket.ended, RELEASE_PATIENCE_S)

    @property
    def _longest_s(self) -> float | None:
        wait_s = self._ticket.max_wait_s
        return None if wait_s is None else min(wait_s + MARGIN_S, MAX_TIME_MS / 1000)

    @property
    def _unheard(self) -> StoreUnavailable:
        """Say that nobody has decided in time: whoever does hangs in a question to the store."""
        return StoreUnavailable(
            f"the lane store gave no answer for {self.lane} within {self._longest_s:g} s"
        )

    def _begin(self) -> Keeper:
        if self._keeper is not None:
            raise LanesError("a slot is for one block; ask for another one: lanes.slot(...)")
        self._keeper = self._find_keeper()
        return self._keeper

    def _give_back(self, outcome: Outcome, cost: float | None = None) -> None:
        if self._is_held and (keeper := self._keeper_here) is not None:
            keeper.give_back(self._ticket, outcome, cost)
        self._is_held = False

    def _wait_until_ended(self) -> None:
        if self._keeper_here is not None:
            with suppress(EndedTimeoutError):
                self._ticket.ended.result(RELEASE_PATIENCE_S)

    @property
    def _keeper_here(self) -> Keeper | None:
        """Give the keeper, if this process has entered the block: a fork within holds nothing."""
        keeper = self._keeper
        return keeper if keeper is not None and keeper.pid == os.getpid() else None


async def _ended(future: Future[None], within_s: float | None) -> None:
    """Wait until a future is done, or for so long.

    Not by ``wait_for``: up to Python 3.11 it swallows a cancellation that comes with the end.
    """
    loop = asyncio.get_running_loop()
    is_done = loop.create_future()

    def tell(_: Future[None]) -> None:
        with suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(is_done.set_result, None)

    future.add_done_callback(tell)
    await asyncio.wait([is_done], timeout=within_s)


def _outcome(kind: type[BaseException] | None) -> Outcome:
    """Tell the store how the block ended: the time of one that failed tells nothing."""
    return Outcome.DONE if kind is None else Outcome.FAILED
