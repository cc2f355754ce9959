"""``lanes check``: what in configuration, store, tasks and workers would break a promise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from kombu.exceptions import OperationalError

from celery_lanes.cli.findings import Finding, error, warning
from celery_lanes.cli.served import check_served
from celery_lanes.config.durations import written
from celery_lanes.errors import ConfigError, StoreUnavailable
from celery_lanes.priority import priority_of
from celery_lanes.publish.options import nearest
from celery_lanes.router import is_lane_task

if TYPE_CHECKING:
    from celery_lanes.app import Lanes

_EXCUSE = "celery."


def check_app(lanes: Lanes, *, timeout_s: float = 1.0) -> list[Finding]:
    """Look at everything; what cannot be asked is itself a finding."""
    try:
        lanes.settings  # noqa: B018 # reads the file
    except ConfigError as refused:
        return [error(line) for line in str(refused).splitlines()]
    if not lanes.settings.enabled:
        return [warning("lanes are off (enabled = false): every call goes straight to the broker")]
    findings = [*check_rules(lanes), *_guarded(check_store, lanes), *check_tasks(lanes)]
    served = _guarded(lambda lanes: check_served(lanes, timeout_s=timeout_s), lanes)
    return [*findings, *(finding for finding in served if finding not in findings)]


def check_rules(lanes: Lanes) -> Iterator[Finding]:
    """Look for rules that lead to a lane without a table; it has the settings of [defaults]."""
    settings = lanes.settings
    tables = [*settings.lanes, *settings.families]
    for position, rule in enumerate(settings.rules, 1):
        if not any(fnmatchcase(rule.lane, table) for table in tables):
            meant = nearest(rule.lane, settings.lanes)
            hint = f"; did you mean {meant}?" if meant else ""
            yield warning(
                f'rule {position} (match = "{rule.match}") leads to lane {rule.lane}, which has no'
                f" table [lanes.{rule.lane}], so it has the settings of [defaults]{hint}"
            )


def check_store(lanes: Lanes) -> Iterator[Finding]:
    """Ask the store whether it may lose what it holds, or cannot hold it as it should."""
    lanes.parts.store.prove_durability()
    yield from map(warning, lanes.parts.store.warnings())


def check_tasks(lanes: Lanes) -> Iterator[Finding]:
    """Look for limits of lane tasks that do not hold or are out of order."""
    for name, task in sorted(lanes.app.tasks.items()):
        if not name.startswith(_EXCUSE) and is_lane_task(task):
            yield from _check_task(lanes, task)


def _check_task(lanes: Lanes, task: Any) -> Iterator[Finding]:
    try:
        priority_of(task)
    except ValueError as odd:
        yield error(str(odd))
    hard_s, soft_s = task.time_limit, task.soft_time_limit
    if task.rate_limit:
        yield error(
            f"task {task.name}: rate_limit {task.rate_limit!r} does not hold in a lane; "
            f'set the lane\'s: rate = "{task.rate_limit}"'
        )
    if hard_s and soft_s and soft_s >= hard_s:
        yield error(
            f"task {task.name}: limits out of order: soft_time_limit ({written(soft_s)}) is not "
            f"shorter than time_limit ({written(hard_s)})"
        )
    if limit_s := min((limit for limit in (hard_s, soft_s) if limit), default=None):
        yield from _check_against_lane(lanes, task, float(limit_s))


def _check_against_lane(lanes: Lanes, task: Any, limit_s: float) -> Iterator[Finding]:
    """Compare a task's own limit, which goes first, with what its lane allows."""
    lane, allowed_s = _longest(lanes, task)
    if limit_s < allowed_s:
        yield warning(
            f"task {task.name}: its own time limit ({written(limit_s)}) ends a call before the "
            f"exec_timeout of lane {lane} ({written(allowed_s)})"
        )


def _longest(lanes: Lanes, task: Any) -> tuple[str, float]:
    settings = lanes.settings
    if lane := getattr(task, "lane", None):
        return lane, settings.lane(lane).exec_timeout_s
    every = {**settings.families, **settings.lanes}
    allowed = {name: lane.exec_timeout_s for name, lane in every.items()}
    return max(allowed.items(), key=lambda item: item[1], default=("", 0.0))


def _guarded(check: Callable[[Lanes], Iterator[Finding]], lanes: Lanes) -> list[Finding]:
    """Run a check that talks to a server."""
    try:
        return list(check(lanes))
    except StoreUnavailable as away:
        return [error(str(away))]
    except OperationalError as away:
        return [error(f"the broker cannot be reached: {away}")]
    except ConfigError as refused:
        return [error(str(refused))]
