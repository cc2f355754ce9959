"""Where a process asks for slots: it finds the lane, and whose and how urgent the wish is."""

from __future__ import annotations

import os

from celery_lanes.callinfo import said_here
from celery_lanes.errors import SpecError
from celery_lanes.parts import Parts
from celery_lanes.priority import PREEMPTIBLE, checked, checked_answer, first_said
from celery_lanes.publish.lineage import Lineage
from celery_lanes.publish.options import check_max_wait
from celery_lanes.slots.holder import Holder
from celery_lanes.slots.slot import Keeper, Slot
from celery_lanes.slots.ticket import Ticket
from celery_lanes.store.attempts import Outcome
from celery_lanes.store.calls import Call
from celery_lanes.store.checks import check_calls


class Office:
    """Gives an app's slots, by one holder for each process."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._holders: dict[int, Holder] = {}

    def slot(
        self,
        model: str | None,
        lane: str | None,
        *,
        caller: str | None,
        priority: int | None,
        max_wait_s: float | None,
        cost: float,
        preemptible: bool,
    ) -> Slot:
        """Check a wish, and make it a slot to enter."""
        check_max_wait(max_wait_s)
        name = self._lane(model, lane)
        info = Lineage(self._parts.app).attribute(caller=caller)
        urgency = first_said(checked(priority, "priority"), said_here().get("priority"))
        call = Call(
            id=info.nonce,
            task_id=info.nonce,
            task="",
            caller=info.caller,
            priority=urgency or 0,
            cost=cost,
            preemptible=bool(checked_answer(preemptible, PREEMPTIBLE)),
        )
        check_calls([call])
        return Slot(self._keeper, self._ticket(name, call, max_wait_s))

    def _ticket(self, lane: str, call: Call, max_wait_s: float | None) -> Ticket:
        return Ticket(
            lane=lane,
            call=call,
            policy=self._parts.policy(lane),
            scope=self._parts.scope(lane),
            lease_ttl_s=self._parts.settings.lane(lane).lease_ttl_s,
            max_wait_s=max_wait_s,
        )

    def _lane(self, model: str | None, lane: str | None) -> str:
        settings = self._parts.settings
        if (model is None) == (lane is None):
            raise ValueError('expected a model, slot("ollama/llama3.1:8b"), or slot(lane="ollama")')
        if lane is not None:
            return self._parts.known_lane(lane)
        return settings.lane_for(self._first_model(model)).lane

    def _first_model(self, spec: object) -> str:
        try:
            return self._parts.router.first_model(spec)
        except SpecError as error:
            raise ValueError(f'{error}; a lane has a name: slot(lane="ollama")') from None

    def _keeper(self) -> Keeper:
        """Give this process's holder; a forked child makes its own."""
        if not self._parts.settings.enabled:
            return _Nobody()
        return self._holders.get(os.getpid()) or self._new_holder()

    def _new_holder(self) -> Holder:
        """Make a holder, unless another thread does; a lock might be inherited by a child."""
        new = Holder(self._parts.open_store, self._parts)
        holder = self._holders.setdefault(new.pid, new)
        for pid in set(self._holders) - {holder.pid}:
            if (parents := self._holders.pop(pid, None)) is not None:
                parents.forsake()
        if holder is not new:
            new.forsake()
        return holder


class _Nobody:
    """Where lanes are switched off, every slot is free."""

    def __init__(self) -> None:
        self.pid = os.getpid()

    def want(self, ticket: Ticket) -> None:
        ticket.grant("")

    def give_up(self, ticket: Ticket) -> None:
        pass

    def give_back(self, ticket: Ticket, outcome: Outcome, cost: float | None) -> None:  # noqa: ARG002
        ticket.end()
