"""Where a publish comes from: the task that makes it, and the header that it carries already."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from celery_lanes.callinfo import CallInfo, said_here
from celery_lanes.journeys.journey import kept_in


def new_nonce() -> str:
    """Make the identity of a publish."""
    return os.urandom(16).hex()


class Lineage:
    """What one publish inherits, made in the process and the task that publishes."""

    __slots__ = ("_carried", "_meta", "_parent")

    def __init__(
        self, app: Any, carried: object = None, meta: Mapping[str, Any] | None = None
    ) -> None:
        """Take the header that it carries already, and what the message says of its task."""
        task = app.current_worker_task
        self._parent = task.request if task else None
        self._carried, self._meta = carried, meta or {}

    def attribute(
        self, *, caller: str | None = None, run_id: str | None = None, **of_lane: Any
    ) -> CallInfo:
        """Say whose a new publish is: as given, else as its origin's; with a nonce of its own."""
        said, origin = said_here(), self._origin()
        return CallInfo(
            caller=str(said.get("caller", origin.caller) if caller is None else caller),
            run_id=str(said.get("run_id", origin.run_id) if run_id is None else run_id),
            nonce=new_nonce(),
            **of_lane,
        )

    @property
    def is_again(self) -> bool:
        """Tell a retry or a replacement from a child.

        Celery retries a call of a lost worker while no task is running.
        """
        if self._parent is None:
            return bool(self._meta.get("retries"))
        return bool(self._parent.id == self._meta.get("id"))

    def before(self) -> CallInfo:
        """Find the call that a publish repeats: a retry has its header, a replacement its id.

        A child is none that comes again, and does not inherit how urgent its parent is.
        """
        if self._carried is None and self.is_again:
            return CallInfo.from_request(self._parent) or CallInfo()
        return CallInfo.from_header(self._carried)

    def kept(self) -> dict[str, Any]:
        """Find how far a call has come whose retry this is: it runs in the same lane."""
        kept = kept_in(self._carried)
        return kept if kept and self.is_again else {}

    def cost(self, lane: str) -> float | None:
        """Find what a call has cost in a lane whose retry this is."""
        if self._carried is None or not self.is_again:
            return None
        info = CallInfo.from_header(self._carried)
        return info.cost if info.lane == lane else None

    def _origin(self) -> CallInfo:
        """Find whom a publish is for, unless it is told: as its parent task, else as carried."""
        inherited = None if self._parent is None else CallInfo.from_request(self._parent)
        return inherited or CallInfo.from_header(self._carried)
