"""One wish for a slot, from the moment it is said until the slot is given back."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field

from celery_lanes.store.calls import Call
from celery_lanes.store.rules import Policy, Scope


def _running() -> Future[None]:
    """Make a future that no waiter can cancel: only the holder's thread says how it ends."""
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()
    return future


@dataclass(slots=True, eq=False, kw_only=True)
class Ticket:
    """A call of the store's that nobody but this process may have; touched by its thread only.

    Attributes:
        lane: whose slot is wanted.
        call: what the store is told.
        policy: how the lane orders its callers.
        scope: whose calls a priority orders.
        lease_ttl_s: how long the store keeps a slot whose holder is silent.
        max_wait_s: how long to wait at most; ``None`` = for ever.
        granted: done when the slot is ours, or with the error that tells why it never will be.
        ended: done when the store knows that the slot is free again.
        deadline: the monotonic time until which it waits.
        token: names the lease.
        leased_until: the monotonic time until which it lasts, as far as we know.
        is_given_up: nobody waits for it any more.
        is_asked: a more urgent call wants the slot.
        is_lost: the lease was gone before the slot was given back.
    """

    lane: str
    call: Call
    policy: Policy
    scope: Scope
    lease_ttl_s: float
    max_wait_s: float | None = None
    granted: Future[None] = field(default_factory=_running)
    ended: Future[None] = field(default_factory=_running)
    deadline: float = float("inf")
    token: str = ""
    leased_until: float = float("inf")
    is_given_up: bool = False
    is_asked: bool = False
    is_lost: bool = False

    @property
    def is_overdue(self) -> bool:
        """Whether the lease may be over: nobody has been able to renew it in time."""
        return time.monotonic() >= self.leased_until

    def keep(self, asked_at: float) -> None:
        """Note that the lease was renewed, by a question of that monotonic time."""
        self.leased_until = asked_at + self.lease_ttl_s

    def grant(self, token: str) -> None:
        """Let the waiter go on: the slot is its own."""
        self.token = token
        self.granted.set_result(None)

    def fail(self, error: Exception) -> None:
        """Have the waiter raise; from then on nobody wants the slot."""
        self.is_given_up = True
        self.granted.set_exception(error)

    def end(self) -> None:
        """Note that the slot is not ours any more."""
        if not self.ended.done():
            self.ended.set_result(None)

    def lose(self) -> None:
        """Note that the lease is gone, while the slot's code runs on."""
        self.is_lost = True
        self.end()
