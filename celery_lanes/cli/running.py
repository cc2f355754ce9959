"""What ``lanes running`` shows of a lane's calls that run: whose they are, and who has them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from celery_lanes.config.durations import rounded
from celery_lanes.lane import RunningCall

if TYPE_CHECKING:
    from celery_lanes.app import Lanes

_RARE = {"run", "attempt", "priority", "state"}


def read(lanes: Lanes, lane: str, limit: int) -> list[RunningCall]:
    """Read who has a lane's calls, those first that have run longest."""
    return lanes.lane(lane).running(limit)


def to_json(calls: Sequence[RunningCall]) -> str:
    """Write a list of objects; ``ran_s`` is since the grant."""
    return json.dumps([asdict(call) for call in calls], indent=2, ensure_ascii=False)


def table(calls: Sequence[RunningCall]) -> Table:
    """Draw a row for each call; what is rare has a column only if there is any."""
    drawn = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))
    rows = [_cells(call) for call in calls]
    shown = [name for name in rows[0] if name not in _RARE or any(row[name] for row in rows)]
    for name in shown:
        is_number = name in {"for", "attempt", "priority"}
        drawn.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(row[name] for name in shown))
    return drawn


def rest(lanes: Lanes, lane: str, calls: Sequence[RunningCall]) -> str:
    """Say how many more hold a slot, as the lane is now; "" if none."""
    slots = sum(call.has_slot for call in calls)
    left = lanes.lane(lane).stats().running - slots
    return f" and {left} more with a slot\n" if left > 0 else ""


def _cells(call: RunningCall) -> dict[str, Text]:
    return {
        "caller": Text(call.caller) if call.caller else Text("(none)", style="dim"),
        "run": Text(call.run_id),
        "task": Text(call.task) if call.task else Text("(slot)", style="dim"),
        "model": Text(call.model or "-"),
        "worker": Text(call.worker),
        "for": Text(rounded(call.ran_s)),
        "attempt": Text(str(call.attempt) if call.attempt > 1 else ""),
        "priority": Text(str(call.priority or "")),
        "state": Text("" if call.has_slot else "no slot"),
        "task id": Text(call.task_id),
    }
