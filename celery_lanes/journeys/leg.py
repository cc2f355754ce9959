"""A chain in a task: what it asks in this lane, and how the same call goes on in others."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from celery.utils.log import get_logger
from pydantic import ValidationError

from celery_lanes.busy import refused
from celery_lanes.callinfo import CallInfo, Held, held_by
from celery_lanes.errors import StoreError
from celery_lanes.llm.chains.journey import Journey, Leg
from celery_lanes.llm.chains.patience import Wait
from celery_lanes.llm.target import Target
from celery_lanes.store.quota import Quota

if TYPE_CHECKING:
    from celery_lanes.running import Running

MARGIN_S = 1.0
"""How long before the soft time limit the provider must have answered."""

logger = get_logger(__name__)


def leg_of(lanes: Running, request: Any) -> Leg | None:
    """Make the leg of a running call; ``None`` outside a lane."""
    if (held := held_by(request)) is None:
        return None
    ways = _Ways(lanes, request, held)
    info = CallInfo.from_request(request) or CallInfo()
    return Leg(
        lane=held.lane,
        move=ways.move,
        wait=ways.wait,
        refused=ways.refused,
        forewarned=ways.forewarned,
        left_s=left_s(request, _own_limit_s(lanes, request)) or math.inf,
        usual_s=lanes.parts.settings.lane(held.lane).exec_timeout_s,
        queued_s=info.wait_s or 0.0,
        journey=_read(lanes.stage(request)),
    )


def left_s(request: Any, soft_limit_s: float | None = None) -> float | None:
    """Say how long a body may take, so that it ends before Celery stops it; ``None`` = any time.

    ``soft_limit_s`` is the task's own, for a message that says nothing.
    """
    _, soft_s = request.timelimit or (None, None)
    soft_s = soft_s or soft_limit_s
    return max(soft_s - MARGIN_S, soft_s / 2) if soft_s else None


class _Ways:
    """What a call may do in its lane, and the ways out of it."""

    def __init__(self, lanes: Running, request: Any, held: Held) -> None:
        self._lanes, self._request, self._held = lanes, request, held

    def move(self, target: Target, journey: Journey) -> NoReturn:
        if journey.max_wait_s is not None:
            self._check_room(str(target.lane), journey.max_wait_s)
        stage = journey.model_dump(mode="json")
        self._lanes.move(self._request, str(target.lane), stage, model=target.written)

    def _check_room(self, lane: str, max_wait_s: float) -> None:
        """Refuse a lane with too long a line, as far as that can be told before the call is there.

        Raises ``LaneBusy``.
        """
        try:
            wait = self._lanes.foresee(self._request, lane)
        except StoreError as error:
            logger.warning("celery_lanes: nobody can tell the wait in lane %s: %s", lane, error)
            return
        if wait is not None and wait.wait_ms > max_wait_s * 1000:
            raise refused(lane, wait, max_wait_s)

    def wait(self, wait: Wait, journey: Journey) -> NoReturn:
        """Let everybody wait who would be refused as well; else come again on one's own."""
        stage = journey.model_dump(mode="json")
        if wait.is_lanes:
            self._lanes.overloaded(self._request, retry_after=wait.seconds)
            self._lanes.give_back(self._request, stage)
        spread_s = random.uniform(0, wait.seconds)  # noqa: S311 # no secret
        delay_s = min(wait.seconds + spread_s, wait.most_s)
        self._lanes.give_back(self._request, stage, delay=delay_s)

    def refused(self, retry_after_s: float | None) -> None:
        """Let the cap follow; the lane itself waits only if the call has nobody else to ask."""
        is_adaptive = self._lanes.parts.settings.lane(self._held.lane).adaptive
        self._lanes.overloaded(self._request, retry_after=retry_after_s if is_adaptive else None)

    def forewarned(self, quotas: Sequence[Quota]) -> None:
        """Let the lane wait before anybody is refused, if it goes by that."""
        self._lanes.forewarned(self._request, quotas)


def _own_limit_s(lanes: Running, request: Any) -> float | None:
    own: float | None = getattr(lanes.parts.task(request.task), "soft_time_limit", None)
    return own


def _read(stage: Mapping[str, Any] | None) -> Journey | None:
    """Read how far a call has come; what a body of another kind has left is none of ours."""
    if stage is None:
        return None
    try:
        return Journey.model_validate(stage)
    except ValidationError:
        logger.warning("celery_lanes: a stage that is no chain's is passed by")
        return None
