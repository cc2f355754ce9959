"""What ``lanes status`` shows: one row for each lane, from the store's own readings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from celery_lanes.cli.console import fits
from celery_lanes.config.durations import rounded, written_rate
from celery_lanes.store.base import Snapshot
from celery_lanes.store.quota import Quota

if TYPE_CHECKING:
    from celery_lanes.app import Lanes

_WORDS = {"lane", "state"}
_RARE = {"established", "moved/min", "limit", "delayed", "dead", "state"}
Row = tuple[Snapshot, dict[str, Text]]
"""A lane, and what stands in its row."""


def read(lanes: Lanes) -> list[Snapshot]:
    """Read every lane that is configured or has been used, by name."""
    names = sorted({*lanes.settings.lanes, *lanes.parts.store.lanes()})
    return [_with_cap(lanes, lanes.parts.store.snapshot(name)) for name in names]


def caps(lanes: Lanes, snapshots: Sequence[Snapshot]) -> dict[str, int]:
    """Give what the file says of the lanes' caps, which may have been set by hand since."""
    return {now.lane: lanes.settings.lane(now.lane).max_concurrent for now in snapshots}


def to_json(snapshots: Sequence[Snapshot]) -> str:
    """Write a list of objects; counts are calls, times are milliseconds."""
    return json.dumps([asdict(snapshot) for snapshot in snapshots], indent=2, ensure_ascii=False)


def show(console: Console, snapshots: Sequence[Snapshot], caps: Mapping[str, int]) -> None:
    """Print the lanes, with their states below where the terminal is too narrow for that column.

    ``caps``: what the file says of each lane.
    """
    rows = [(now, _cells(now, caps.get(now.lane))) for now in snapshots]
    drawn = _table(rows)
    if fits(console, drawn):
        console.print(drawn)
        return
    console.print(_table(rows, without="state"))
    for now, cells in rows:
        if cells["state"]:
            console.print(Text.assemble(f" {now.lane}: ", cells["state"]))


def _table(rows: Sequence[Row], without: str = "") -> Table:
    """Draw the lanes; ``callers`` have calls waiting, ``oldest`` is the longest wait so far.

    What is rare (streams that run on without a slot, delayed, dead and moved calls, limits,
    states) has a column only if there is any.
    """
    drawn = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))
    columns = [cells for _, cells in rows] or [{"lane": Text()}]
    shown = [name for name in columns[0] if name not in _RARE or any(c[name] for c in columns)]
    shown = [name for name in shown if name != without]
    for name in shown:
        drawn.add_column(name, justify="left" if name in _WORDS else "right", no_wrap=True)
    for snapshot, cells in rows:
        drawn.add_row(*(cells[n] for n in shown), style="" if _is_busy(snapshot) else "dim")
    return drawn


def _with_cap(lanes: Lanes, snapshot: Snapshot) -> Snapshot:
    """Show the file's cap of a lane that no worker has brought to the store yet."""
    if snapshot.max_concurrent is not None:
        return snapshot
    slots = lanes.settings.lane(snapshot.lane).max_concurrent
    return replace(snapshot, max_concurrent=slots, effective=slots)


def _cells(snapshot: Snapshot, file_cap: int | None) -> dict[str, Text]:
    """Write the row; what is empty is nothing worth a column."""
    is_full = snapshot.effective is not None and snapshot.running >= snapshot.effective
    oldest = rounded(snapshot.oldest_wait_ms / 1000) if snapshot.waiting else "-"
    return {
        "lane": Text(snapshot.lane),
        "cap": _cap(snapshot),
        "running": Text(str(snapshot.running), style="green" if is_full else ""),
        "established": Text(str(snapshot.established or "")),
        "waiting": Text(str(snapshot.waiting)),
        "oldest": Text(oldest),
        "callers": Text(str(snapshot.callers_waiting)),
        "done/min": Text(str(snapshot.done_last_minute)),
        "moved/min": Text(str(snapshot.moved_last_minute or "")),
        "limit": Text(_limit(snapshot)),
        "delayed": Text(str(snapshot.delayed or "")),
        "dead": Text(str(snapshot.dead or ""), style="bold red"),
        "state": Text("; ").join(_state(snapshot, file_cap)),
    }


def _cap(snapshot: Snapshot) -> Text:
    """Write the cap; of a lane that has learned to keep below it, 3/8."""
    if snapshot.effective == snapshot.max_concurrent:
        return Text(str(snapshot.max_concurrent))
    return Text(f"{snapshot.effective}/{snapshot.max_concurrent}", style="yellow")


def _limit(snapshot: Snapshot) -> str:
    """Write the lane's own buckets, as they hold: 120/m, 100k/m tokens."""
    rate = [written_rate(snapshot.rate)] if snapshot.rate else []
    tokens = [f"{written_rate(snapshot.tokens)} tokens"] if snapshot.tokens else []
    return ", ".join(rate + tokens)


def _state(snapshot: Snapshot, file_cap: int | None) -> Iterator[Text]:
    """Say what holds the lane up, first what somebody must do something about."""
    if snapshot.waiting and not snapshot.workers:
        yield Text("no worker", style="bold red")
    if snapshot.paused:
        yield Text("paused", style="bold yellow")
    if snapshot.provider_wait_ms:
        wait = rounded(snapshot.provider_wait_ms / 1000)
        yield Text(f"asked to wait {wait}", style="yellow")
    if file_cap is not None and snapshot.max_concurrent != file_cap:
        yield Text(f"the file's cap is {file_cap}", style="yellow")
    if snapshot.quota is not None:
        yield Text(_left(snapshot.quota, snapshot.quota_age_ms))


def _left(quota: Quota, age_ms: int) -> str:
    """Write what the provider said last of its limits: 12 of 60 requests left, 4s ago."""
    of = "" if quota.of is None else f" of {quota.of}"
    return f"{quota.left}{of} {quota.name} left, {rounded(age_ms / 1000)} ago"


def _is_busy(snapshot: Snapshot) -> bool:
    counts = (snapshot.running, snapshot.waiting, snapshot.delayed, snapshot.closing, snapshot.dead)
    is_held = snapshot.paused or snapshot.provider_wait_ms
    ended = snapshot.done_last_minute + snapshot.moved_last_minute
    return any(counts) or bool(snapshot.established or is_held or ended)
