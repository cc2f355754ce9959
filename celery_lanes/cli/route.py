"""Which lane serves a model, and why."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from celery_lanes.cli.exits import USAGE, CommandFailed
from celery_lanes.config.settings import DEFAULT_LANE
from celery_lanes.errors import SpecError
from celery_lanes.publish.options import nearest
from celery_lanes.publish.strangers import oddness

if TYPE_CHECKING:
    from celery_lanes.app import Lanes


@dataclass(frozen=True, slots=True)
class Route:
    """Where a call goes, and the setting that says so."""

    lane: str
    queue: str
    reason: str


def route_of(lanes: Lanes, model: str, task_name: str | None = None) -> Route | None:
    """Ask the app's own router; ``None`` if no lane serves the call."""
    task = _task(lanes, task_name)
    argument = getattr(task, "model_arg", None) or "model"
    route = lanes.parts.router.route
    routed = route(task_name or "", (), {argument: model}, {}, task or _ANY_TASK)
    if routed is None:
        return None
    reason = _alias(model, routed.model) + _reason(lanes, routed.model, task, routed.lane)
    return Route(routed.lane, lanes.settings.queue(routed.lane), reason)


def notes(lanes: Lanes, model: str, route: Route) -> Iterator[str]:
    """Say where the models after the first are asked, and what is odd about any of the lanes."""
    first, *others = _legs(lanes, model) or [model]
    for leg in others:
        lane = lanes.settings.lane_for(leg).lane
        yield f"then   {leg}: lane {lane}, queue {lanes.settings.queue(lane)}"
    places = {route.lane: first, **{lanes.settings.lane_for(leg).lane: leg for leg in others}}
    for lane, leg in places.items():
        if odd := oddness(lanes.settings, lane, leg):
            yield f"note   {odd}"


def unrouted(lanes: Lanes, model: str, task_name: str | None) -> str:
    """Say why no lane serves a call, and what would have one."""
    if task_name is None:
        close = nearest(model, lanes.settings.aliases, alike=0.6)
        hint = f"; did you mean {close}?" if close else ""
        return (
            f"{model!r} is no provider/model, and no alias in [aliases], so it has no lane; a task"
            f" with a model_arg, such as generate, takes it to lane {DEFAULT_LANE}{hint}"
        )
    return (
        f"a call of {task_name} with {model!r} has no lane: {task_name} needs a lane of its own,"
        ' @app.task(lane="..."), or an argument with a model, @app.task(model_arg="...")'
    )


def _legs(lanes: Lanes, spec: str) -> list[str]:
    """List the models of a spec; a task alone with its lane may take what is none."""
    try:
        return ["/".join(name) for name in lanes.registry.names(spec)]
    except SpecError:
        return []


class _AnyTask:
    """Some task with a ``model`` argument."""

    def run(self, model: str) -> None:
        """Take a model."""


_ANY_TASK = _AnyTask()


def _task(lanes: Lanes, name: str | None) -> Any:
    if name is None:
        return None
    if (task := lanes.app.tasks.get(name)) is None:
        close = difflib.get_close_matches(name, lanes.app.tasks)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise CommandFailed(f"the app has no task {name!r}{hint}", USAGE)
    return task


def _alias(said: str, model: str) -> str:
    return "" if said == model else f"alias of {model}; "


def _reason(lanes: Lanes, model: str, task: Any, lane: str) -> str:
    if getattr(task, "lane", None):
        return f"task {task.name} names its lane"
    match = lanes.settings.lane_for(model)
    if match.rule is not None:
        position = lanes.settings.rules.index(match.rule) + 1
        total = len(lanes.settings.rules)
        return f'rule {position} of {total}: match = "{match.rule.match}"'
    if match.lane != lane or "/" not in model:
        return "no provider/model: the lane default"
    return f"no rule matches: the provider's name{_table_of(lanes, lane)}"


def _table_of(lanes: Lanes, lane: str) -> str:
    """Name the table with the lane's settings if that is not its own."""
    if lane in lanes.settings.lanes:
        return ""
    families = (family for family in lanes.settings.families if fnmatchcase(lane, family))
    family = next(families, None)
    return f'; settings of [lanes."{family}"]' if family else "; settings of [defaults]"
