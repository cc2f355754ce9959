"""What ``lanes status`` shows: one row for each lane, from the store's own readings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from celery_lanes.store.base import Snapshot

if TYPE_CHECKING:
    from celery_lanes.app import Lanes

_COLUMNS = (
    "cap", "running", "waiting", "oldest wait", "callers waiting", "done last min", "delayed", "dead",
)  # fmt: skip
_MINUTE_S = 60
_HOUR_S = 3600
_MIN_WIDTH = 96


def read(lanes: Lanes) -> list[Snapshot]:
    """Read every lane that is configured or has been used, by name."""
    names = sorted({*lanes.settings.lanes, *lanes.store.lanes()})
    return [_with_cap(lanes, lanes.store.snapshot(name)) for name in names]


def to_json(snapshots: Sequence[Snapshot]) -> str:
    """Write a list of objects; counts are calls, times are milliseconds."""
    return json.dumps([asdict(snapshot) for snapshot in snapshots], indent=2, ensure_ascii=False)


def print_table(snapshots: Sequence[Snapshot], *, is_plain: bool = False) -> None:
    """Print one row for each lane; wide enough for all columns where there is no terminal."""
    console = Console(no_color=is_plain or None, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _MIN_WIDTH)
    console.print(table(snapshots))


def table(snapshots: Sequence[Snapshot]) -> Table:
    """Draw the lanes."""
    drawn = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    drawn.add_column("lane", no_wrap=True)
    for name in _COLUMNS:
        drawn.add_column(name, justify="right")
    drawn.add_column("state")
    for snapshot in snapshots:
        drawn.add_row(*_cells(snapshot), style="" if _is_busy(snapshot) else "dim")
    return drawn


def duration(seconds: float) -> str:
    """Write a time as people read it: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 10:  # noqa: PLR2004 - from here on tenths tell nothing
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min {whole % _MINUTE_S} s"
    return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S} min"


def _with_cap(lanes: Lanes, snapshot: Snapshot) -> Snapshot:
    """Show the file's cap of a lane that no worker has brought to the store yet."""
    if snapshot.max_concurrent is not None:
        return snapshot
    return replace(snapshot, max_concurrent=lanes.settings.lane(snapshot.lane).max_concurrent)


def _cells(snapshot: Snapshot) -> list[Text | str]:
    is_full = snapshot.max_concurrent is not None and snapshot.running >= snapshot.max_concurrent
    oldest = duration(snapshot.oldest_wait_ms / 1000) if snapshot.waiting else "-"
    return [
        snapshot.lane,
        str(snapshot.max_concurrent),
        Text(str(snapshot.running), style="green" if is_full else ""),
        str(snapshot.waiting),
        oldest,
        str(snapshot.callers_waiting),
        str(snapshot.done_last_minute),
        str(snapshot.delayed),
        Text(str(snapshot.dead), style="bold red" if snapshot.dead else ""),
        _state(snapshot),
    ]


def _state(snapshot: Snapshot) -> Text:
    if snapshot.paused:
        return Text("paused", style="bold yellow")
    if snapshot.waiting and not snapshot.workers:
        return Text("no worker", style="bold red")
    return Text("")


def _is_busy(snapshot: Snapshot) -> bool:
    counts = (snapshot.running, snapshot.waiting, snapshot.delayed, snapshot.closing, snapshot.dead)
    return any(counts) or snapshot.paused or bool(snapshot.done_last_minute)
