"""One publish on its way out: what it says, what it inherits, and what a lane is told of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from celery.utils.functional import maybe_list

from celery_lanes.callinfo import HEADER, CallInfo, said_here
from celery_lanes.config.tables import LaneSettings
from celery_lanes.parts import Parts
from celery_lanes.priority import (
    PREEMPTIBLE,
    PRIORITY,
    checked,
    checked_answer,
    clamped,
    first_said,
    preemptible_of,
    priority_of,
)
from celery_lanes.publish.lineage import Lineage, new_nonce
from celery_lanes.publish.options import OPTIONS, check_cost, check_max_wait
from celery_lanes.publish.submission import TELL
from celery_lanes.router import MODEL_OPTION
from celery_lanes.store.standing import Standing


class Outgoing:
    """A message that Celery has made and nobody has taken yet.

    Attributes:
        task: the task, ``None`` if this process does not know it.
        args: its positional arguments.
        kwargs: its keyword arguments.
        meta: its id, ETA and so on: the message's headers, or the body of protocol 1.
        options: what else Celery's sender is to be told; our own options are taken out.
    """

    def __init__(self, parts: Parts, name: str, message: Any, options: dict[str, Any]) -> None:
        """Take our own options out. Raises ``ValueError`` for one that is nothing it can be."""
        self._given = {key: options.pop(key, None) for key in (*OPTIONS, TELL, MODEL_OPTION)}
        checked(self._given[PRIORITY], PRIORITY)
        checked_answer(self._given[PREEMPTIBLE], PREEMPTIBLE)
        check_max_wait(self.max_wait_s)
        check_cost(self._given["cost"])
        self._parts, self.name, self.options = parts, name, options
        self.task = parts.task(name)
        headers, _, body, _ = message
        self.meta = headers if "id" in headers else body
        if self._given["caller"] is None:
            self._given["caller"] = _stamped_caller(self.meta)
        self.args, self.kwargs = _arguments(body)
        self._headers = options.get("headers") or {}
        self._lineage = Lineage(parts.app, self._headers.get(HEADER), self.meta)
        self._before = self._lineage.before()

    @property
    def header(self) -> Any:
        """Our header as it came: a retry's, say."""
        return self._headers.get(HEADER)

    @property
    def model(self) -> str | None:
        """The model that the router has found; ``None`` if it was not asked."""
        model: str | None = self._given[MODEL_OPTION]
        return model

    @property
    def max_wait_s(self) -> float | None:
        """How long the call may have to wait; ``None``: as long as it takes."""
        seconds: float | None = self._given["max_wait"]
        return seconds

    @property
    def tell(self) -> Callable[[Standing], None] | None:
        """Who is told where the call stands."""
        tell: Callable[[Standing], None] | None = self._given[TELL]
        return tell

    def attribute(self, lane: str | None) -> CallInfo:
        """Say whose it is, and all that its lane is told of it."""
        caller, run_id = self._given["caller"], self._given["run_id"]
        of_lane = {} if lane is None else self.of_lane(lane, self._model(), self._given["cost"])
        return self._lineage.attribute(caller=caller, run_id=run_id, **of_lane)

    def of_lane(self, lane: str, model: str, cost: float | None) -> dict[str, Any]:
        """Give what CallInfo says of a lane's call beyond whose it is.

        ``cost``: in the lane's unit; ``None``: as it was before, or as the task estimates it.
        """
        return {
            "lane": lane,
            "model": model,
            "priority": self._priority(),
            "preemptible": self._is_preemptible(),
            "cost": self._usual_cost(lane) if cost is None else float(cost),
        }

    def elsewhere(self, info: CallInfo, lane: str, model: str) -> CallInfo:
        """Say the same of a call in another lane: a cost that was given is in this one's unit."""
        unit = self._parts.settings.lane
        cost = self._given["cost"] if unit(lane).cost == unit(info.lane).cost else None
        return replace(info, **self.of_lane(lane, model, cost), nonce=new_nonce())

    def check_is_alone(self) -> None:
        """Refuse to publish some calls of a group, and then find that others would wait too long.

        One that comes again is alone by then. Raises ``TypeError``.
        """
        group = self.meta.get("group") or self.meta.get("taskset")
        if group and not self._lineage.is_again:
            raise TypeError(
                "expected max_wait on a call by itself, got it on one of a group or a chord's"
                " header, of which some might be published, and others refused"
            )

    def stamp(self, info: CallInfo) -> None:
        """Write our header."""
        header = {**info.to_header(), **self._lineage.kept()}
        self.options["headers"] = {**self._headers, HEADER: header}

    def _model(self) -> str:
        if self.model is not None:
            return self.model
        route = self._parts.router.route
        routed = route(self.name, self.args, self.kwargs, self.options, self.task)
        return routed.model if routed else ""

    def _priority(self) -> int | None:
        """Find how urgent a call is; the first that says so counts.

        The publish itself; the context around it; the call before it, if it comes again; the task;
        Celery's own option ``priority``.
        """
        celerys = self.options.get("priority")
        return first_said(
            self._given[PRIORITY],
            said_here().get("priority"),
            clamped(self._before.priority),
            priority_of(self.task),
            clamped(None if celerys is None else int(celerys)),
        )

    def _is_preemptible(self) -> bool | None:
        """Find whether a call makes room: as the publish says, the call before it, the task."""
        given: bool | None = self._given[PREEMPTIBLE]
        if given is not None:
            return given
        before = self._before.preemptible
        return preemptible_of(self.task) if before is None else before

    def _usual_cost(self, lane: str) -> float | None:
        """Find what a call costs that does not say so: a retry what its publish has said."""
        before = self._lineage.cost(lane)
        if before is not None:
            return before
        return estimate(self._parts.settings.lane(lane), self.task, self.args, self.kwargs)


def estimate(lane: LaneSettings, task: Any, args: Any, kwargs: Any) -> float | None:
    """Ask a task what a call of it costs in a lane's unit; ``None`` if it cannot say."""
    if lane.cost != "tokens":
        return None
    estimated = getattr(task, "estimate_cost", None)
    return float(estimated(*args, **kwargs)) if callable(estimated) else None


def _stamped_caller(meta: Mapping[str, Any]) -> str | None:
    """Read whose call it is from its stamps: such a stamp takes the place of the option."""
    stamps = meta.get("stamps")
    callers = maybe_list(stamps.get("caller")) if stamps else None
    return callers[0] if callers and len(callers) == 1 else None


def _arguments(body: Any) -> tuple[Any, Any]:
    return (body[0], body[1]) if isinstance(body, tuple) else (body["args"], body["kwargs"])
