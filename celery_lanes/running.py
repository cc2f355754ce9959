"""What a running task says of its call to the lane that it runs in."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from celery.utils.log import get_logger

from celery_lanes.callinfo import HEADER, CallInfo, Held, held_by
from celery_lanes.errors import NotInLane, StoreError
from celery_lanes.journeys.journey import moved, returned, stage_in
from celery_lanes.journeys.leg import leg_of
from celery_lanes.llm.chains.journey import Leg
from celery_lanes.once import once
from celery_lanes.parts import Parts
from celery_lanes.publish.outgoing import estimate
from celery_lanes.slots.slot import Slot
from celery_lanes.store.adapting import MAX_PROVIDER_WAIT_MS
from celery_lanes.store.calls import Busy, Call
from celery_lanes.store.quota import Quota, closed_ms, scarcest

TOLD_EVERY_S = 5.0
"""How often a process says what is left of a provider's limits while there is some of each."""

logger = get_logger(__name__)


class Running:
    """Calls from within: each method takes the task's own ``self.request``."""

    parts: Parts

    def settle(self, request: Any, cost: float) -> None:
        """Charge the caller what a running call really cost, in a lane with ``cost = "tokens"``.

        Until then it is charged what was estimated. The last word counts; ``generate`` says it by
        itself. In other lanes, and outside one, it does nothing. If the store is away, the estimate
        stands.

        Args:
            request: the task's own, ``self.request``.
            cost: in tokens; less than 1 counts as 1.
        """
        held = held_by(request)
        if held is None or self.parts.settings.lane(held.lane).cost != "tokens":
            return
        call, token = held.call, held.token
        try:
            self.parts.store.settle(held.lane, call=call, token=token, cost=max(1.0, float(cost)))
        except StoreError as error:
            logger.warning("celery_lanes: the real cost of %s is not charged: %s", call, error)

    def overloaded(self, request: Any, *, retry_after: float | None = None) -> None:
        """Say that a running call's provider refused it for being busy: 429, 503, 529.

        With ``retry_after``, nothing starts in the lane for so many seconds, up to 10 minutes; in
        a lane with ``adaptive = true`` it halves the cap. Outside a lane it does nothing. A call
        says so once for each attempt; ``generate`` does it by itself. If the store is away, so be
        it.

        Args:
            request: the task's own, ``self.request``, or a ``Slot`` that is held.
            retry_after: seconds that the provider asked to wait, if it did.
        """
        held = _lease_of(request)
        wait_ms = round(min(max(0.0, retry_after or 0.0) * 1000, MAX_PROVIDER_WAIT_MS))
        if held is None or not (wait_ms or self.parts.settings.lane(held.lane).adaptive):
            return
        call, token = held.call, held.token
        try:
            self.parts.store.report(held.lane, call=call, token=token, wait_ms=wait_ms)
        except StoreError as error:
            logger.warning("celery_lanes: nobody learns that %s met an overload: %s", call, error)

    def established(self, request: Any) -> None:
        """Say that a running call's stream has been established: its first piece has come.

        In a lane with ``stream_slot = "establish"`` its slot is free from then on, and the call
        runs on without one: leased as before, so that it runs again if its worker dies, and its
        process busy. In other lanes, and outside one, it does nothing. May be repeated;
        ``generate`` does it by itself. If the store is away, the call keeps its slot to its end.
        """
        held = held_by(request)
        if held is None or self.parts.settings.lane(held.lane).stream_slot != "establish":
            return
        call, token = held.call, held.token
        try:
            self.parts.store.establish(held.lane, call=call, token=token)
        except StoreError as error:
            logger.warning("celery_lanes: %s keeps its slot to its end: %s", call, error)

    def forewarned(self, request: Any, quotas: Sequence[Quota]) -> None:
        """Say what the provider that answers a running call says of its own limits.

        In a lane with ``adaptive = true`` nothing starts until one is whole again of which nothing
        is left, up to 10 minutes: the next call would only be refused. ``status`` shows the one of
        which the least is left. Elsewhere it does nothing. While there is some of each, a process
        tells the store of it every 5 s. ``generate`` does so by itself. If the store is away, so
        be it.

        Args:
            request: the task's own, ``self.request``, or a ``Slot`` that is held.
            quotas: as ``Reply.quotas`` has them, or ``[Quota("requests", 0, resets_ms=9_000)]``.
        """
        held, least = _lease_of(request), scarcest(quotas)
        if held is None or least is None or not self.parts.settings.lane(held.lane).adaptive:
            return
        wait_ms = min(closed_ms(quotas), MAX_PROVIDER_WAIT_MS)
        now_s = time.monotonic()
        if not wait_ms and now_s - self._told_s.get(held.lane, -math.inf) < TOLD_EVERY_S:
            return
        self._told_s[held.lane] = now_s
        try:
            self.parts.store.report(
                held.lane, call=held.call, token=held.token, wait_ms=wait_ms, quota=least
            )
        except StoreError as error:
            logger.warning("celery_lanes: nobody learns what %s has left: %s", held.lane, error)

    @once
    def _told_s(self) -> dict[str, float]:
        """When this process last told the store of a lane's limits, on the monotonic clock."""
        return {}

    def move(
        self,
        request: Any,
        lane: str,
        stage: Mapping[str, Any] | None = None,
        *,
        model: str | None = None,
    ) -> NoReturn:
        """End the body of a running call, which goes on as the same task in another lane.

        Its result stays pending, and nobody who waits for it notices. It waits there before its
        caller's other calls of the same priority, for it has waited; its slot here is free at once.
        The body begins anew, as attempt 1 of that lane, and finds its ``stage``.

        Args:
            request: the task's own, ``self.request``.
            lane: where it goes; ``ConfigError`` if there is none of that name.
            stage: what its body is to know then, a JSON object of up to 64 KB, else ``ValueError``.
            model: ``provider/model``, if it is another one now; its lane need not be named yet.

        Raises ``NotInLane`` for a task that runs in none. What it raises else ends the body, as
        Celery's ``Ignore`` does: let it pass.
        """
        held = _held(request)
        is_models = model is not None and self.parts.settings.lane_for(model).lane == lane
        known = lane if is_models else self.parts.known_lane(lane)
        raise moved(known, stage, model=model, cost=self._cost_there(request, held.lane, known))

    def give_back(
        self,
        request: Any,
        stage: Mapping[str, Any] | None = None,
        delay: float | None = None,
    ) -> NoReturn:
        """End the body of a running call, which waits again in its lane, at its place.

        Its result stays pending, and it is charged nothing; no retry is counted.

        Args:
            request: the task's own, ``self.request``.
            stage: what its body is to know when it runs again; ``None`` = what it knows already.
            delay: seconds, ``None`` = none: it waits from then on.

        Raises ``NotInLane`` and ``ValueError`` as ``move`` does, and else ends the body.
        """
        _held(request)
        raise returned(stage, delay)

    def stage(self, request: Any) -> dict[str, Any] | None:
        """Give what a call's body has left for its next run, by ``move`` or ``give_back``."""
        return stage_in(getattr(request, HEADER, None))

    def foresee(self, request: Any, lane: str) -> Busy | None:
        """Say how long a running call would wait in another lane, and behind how many.

        ``None`` if nobody can tell: the lane is paused or new, or no call of it has ended yet.
        """
        held = _held(request)
        info = CallInfo.from_request(request) or CallInfo()
        cost = self._cost_there(request, held.lane, lane) or info.cost or 1.0
        call = Call(
            id=held.call, task_id=request.id, task=request.task, caller=info.caller,
            priority=info.priority or 0, cost=cost, has_waited=True, envelope=b"",
        )  # fmt: skip
        return self.parts.store.foresee(lane, call, policy=self.parts.policy(lane))

    def leg(self, request: Any) -> Leg | None:
        """Let a chain within a task ask each model in its own lane, as ``generate`` does.

        ::

            @app.task(bind=True, acks_late=True, model_arg="model")
            def ask(self, model, text):
                chain = lanes.registry.parse(model)
                asked = Request(model=model, messages=(Message(role="user", content=text),))
                return chain.generate(asked, leg=lanes.leg(self.request)).text

        The body ends, and begins anew in the next lane: what it does before has to bear that. Let
        pass what the chain raises. ``None`` outside a lane: all models are asked here.
        """
        return leg_of(self, request)

    def _cost_there(self, request: Any, here: str, there: str) -> float | None:
        """Estimate what a call costs in a lane that counts in another unit; ``None`` = the same."""
        lane = self.parts.settings.lane(there)
        if lane.cost == self.parts.settings.lane(here).cost:
            return None
        return estimate(lane, self.parts.task(request.task), request.args, request.kwargs) or 1.0


def _lease_of(holder: Any) -> Held | None:
    """Find the lease of a task's request, or of a slot."""
    return holder.lease if isinstance(holder, Slot) else held_by(holder)


def _held(request: Any) -> Held:
    if (held := held_by(request)) is None:
        raise NotInLane
    return held
