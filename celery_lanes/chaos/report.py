"""The report: tables on a terminal, plain lines elsewhere, JSON for machines."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from celery_lanes.chaos.figures import Figures, Percentiles
from celery_lanes.chaos.options import ChaosOptions
from celery_lanes.chaos.promises import breaches, promises

WIDTH = 42


def report(shown: Figures, options: ChaosOptions) -> RenderableType:
    """Draw the tables and the verdict."""
    happened, kept = _new_table(), _new_table()
    for name, value in _happened(shown):
        happened.add_row(name, value)
    for promise in promises(shown, options):
        style = "green" if promise.is_kept else "bold red"
        kept.add_row(promise.name, Text(promise.seen, style=style))
    parts = [_titled("What happened", happened), _titled("What was promised", kept)]
    return Group(*parts, _verdict(breaches(shown, options)))


def lines(shown: Figures, options: ChaosOptions) -> list[str]:
    """Write the same as plain lines."""
    kept = ((promise.name, promise.seen) for promise in promises(shown, options))
    rows = [f"{name:<{WIDTH}}{value}" for name, value in [*_happened(shown), *kept]]
    return [*rows, *_verdict(breaches(shown, options)).plain.splitlines()]


def to_json(shown: Figures, options: ChaosOptions) -> str:
    """Write all figures, the options and the breaches as one object; nan is null."""
    whole = {
        "options": asdict(options),
        "figures": shown.to_dict(),
        "breaches": breaches(shown, options),
    }
    return json.dumps(_plain(whole), indent=2, default=str)


def _happened(shown: Figures) -> Iterator[tuple[str, str]]:
    yield "calls accepted", f"{shown.calls}"
    yield "runs seen by the observer", f"{shown.runs}"
    for name, count in shown.faults.items():
        yield name, f"{count} times"
    off = f"{shown.shifted}, at most {shown.shift_max_s:.1f} s off"
    yield "workers that started with a wrong clock", off
    yield "longest jump of a worker's clock", f"{shown.jump_max_s:.1f} s"
    yield "workers that did not stop when told to", f"{shown.stuck}"
    yield "no worker was there", f"for {shown.deserted_s:.1f} s in all"
    yield "publishes refused", f"{shown.refused}"
    yield "ran again, their worker having been lost", f"{shown.ran_again}"
    yield "early calls that ended as WorkerLostError", f"{shown.lost_early}"
    yield "dead letters", f"{shown.dead_letters}"
    yield "chord bodies that Celery did not publish", f"{shown.dropped}"
    yield "results that a paused process wrote, too", f"{shown.changed_by_paused}"
    yield "calls ended per second", f"{shown.per_second:.1f}"


def _new_table() -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column(min_width=WIDTH)
    table.add_column()
    return table


def _titled(title: str, table: Table) -> RenderableType:
    return Group(Text(f"  {title}", style="bold"), Padding(table, (0, 0, 0, 2)))


def _verdict(wrong: Sequence[str]) -> Text:
    if wrong:
        return Text("\n".join(f"  BREACH  {breach}" for breach in wrong), style="bold red")
    return Text("  All promises were kept.", style="bold green")


def _plain(value: object) -> object:
    if isinstance(value, Percentiles):
        return _plain(asdict(value))
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value
