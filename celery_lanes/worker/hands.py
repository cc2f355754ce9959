"""What the store thread asks of the rest of the worker."""

from __future__ import annotations

from typing import Protocol

from celery_lanes.store.attempts import Closing
from celery_lanes.store.rules import LaneRules, Policy, Scope
from celery_lanes.worker.attempt import Attempt


class Hands(Protocol):
    """What the agent asks of the thread that owns the pool. Each returns at once."""

    def free(self) -> int:
        """Count the calls that could start now."""

    def dispatch(self, attempt: Attempt) -> None:
        """Start a call."""

    def close(self, lane: str, closing: Closing) -> None:
        """Write the result of a call that no body will write, then ``closed``."""

    def stop_body(self, attempt: Attempt) -> None:
        """Stop a body whose lease is gone."""

    def make_room(self, attempt: Attempt) -> None:
        """Have a call end for a more urgent one; said again at each turn until it has ended."""

    def finished(self, attempt: Attempt) -> None:
        """See to an attempt that has ended, before its lease goes back."""

    def grow(self) -> None:
        """Make room, if the pool may grow: calls wait and no process is free."""

    def hold_intake(self, lanes: frozenset[str]) -> None:
        """Consume the queues of just these lanes no more, and those of all others.

        While the store is away their messages could only fill the prefetch window, and would
        block the worker's plain queues.
        """


class LaneSource(Protocol):
    """What the agent must know of a lane's configuration."""

    def rules(self, lane: str) -> LaneRules:
        """Give the rules to write into the store."""

    def policy(self, lane: str) -> Policy:
        """Give the order in which the lane serves its callers."""

    def scope(self, lane: str) -> Scope:
        """Say whose calls a priority orders."""
