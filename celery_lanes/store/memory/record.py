"""A call of the memory store, and its story; as ``record_of`` in ``redis/lua/_prelude.lua``."""

from __future__ import annotations

from dataclasses import dataclass, field

from celery_lanes.fairness.callers import Charge, Place
from celery_lanes.store.attempts import Outcome, Reason
from celery_lanes.store.calls import Call, State

HEAD_START = 10**15
"""More than there are calls: what has waited in another lane is numbered before all others."""


@dataclass(slots=True)
class Record:
    """A call and what has become of it. ``since_ms``: when it was admitted, due or put back.

    While it runs, ``is_victim``: it may be marked to be stopped; ``is_marked``: it has been;
    ``is_established``: it runs on without a slot.
    """

    call: Call
    account: str
    seq: int
    since_ms: int
    state: State = State.WAITING
    attempts: int = 0
    losses: int = 0
    preemptions: int = 0
    is_reported: bool = False
    is_early: bool = False
    is_victim: bool = False
    is_marked: bool = False
    is_established: bool = False
    token: str = ""
    worker: str = ""
    granted_at_ms: int = 0
    reason: Reason = Reason.LOST
    last_end: Outcome = Outcome.LOST
    charge: Charge = field(default_factory=lambda: Charge(0, 1, 1))

    @property
    def place(self) -> Place:
        """Give its place in the account's queue: higher priority first, then first come."""
        number = self.seq - HEAD_START if self.call.has_waited else self.seq
        return (-self.call.priority, number, self.call.id)

    @property
    def is_ticket(self) -> bool:
        """Say whether no worker may run it, for its holder keeps the slot itself."""
        return bool(self.call.holder)
