"""What the demo says at the end."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from celery_lanes.demo.figures import Figures, percentile
from celery_lanes.demo.options import LIGHT, DemoOptions


def faults(runs: Sequence[Figures], options: DemoOptions) -> list[str]:
    """Say what went wrong; nothing if the demo has shown what it promises."""
    return [fault for run in runs for fault in _faults(run, options)]


def summary(fair: Figures, fifo: Figures, options: DemoOptions) -> RenderableType:
    """Draw the waits side by side, the cap, and the verdict."""
    waits = Padding(_waits(fair, fifo, options), (0, 0, 0, 2))
    facts = Padding(_facts(fair, fifo, options), (0, 0, 1, 2))
    return Group(
        Text("  How long a call waited", style="bold"), waits, facts, _verdict(fair, fifo, options)
    )


def _waits(fair: Figures, fifo: Figures, options: DemoOptions) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("caller", min_width=8)
    table.add_column("calls", justify="right")
    for policy in ("fair", "fifo"):
        for figure in ("p50", "p95"):
            table.add_column(f"{policy} {figure}", justify="right", min_width=9)
    for caller, calls in options.load.items():
        cells = [_seconds(run, caller, q) for run in (fair, fifo) for q in (50, 95)]
        table.add_row(caller, str(calls), *cells, style="bold" if caller in LIGHT else "")
    return table


def _facts(fair: Figures, fifo: Figures, options: DemoOptions) -> Table:
    table = Table.grid(padding=(0, 2))
    highest = max(fair.highest, fifo.highest)
    is_kept = highest <= options.cap
    cap = f"{highest} of {options.cap}, with {options.workers * options.processes} processes ready"
    table.add_row("most calls at once, seen by the HTTP server", _mark(cap, is_good=is_kept))
    table.add_row("Jain's index of the fair run (1 = equal shares)", f"{fair.jain:.3f}")
    answered = len(fair.served) + len(fifo.served)
    total = 2 * options.total
    is_all = answered == total == fair.requests + fifo.requests
    table.add_row("calls answered", _mark(f"{answered} of {total}", is_good=is_all))
    table.add_row("a run took", f"fair {fair.elapsed_s:.1f} s, fifo {fifo.elapsed_s:.1f} s")
    return table


def _verdict(fair: Figures, fifo: Figures, options: DemoOptions) -> Text:
    if wrong := faults((fair, fifo), options):
        return Text("\n".join(f"  FAILED: {fault}" for fault in wrong), style="bold red")
    light_fair, light_fifo = (_light_p95(run) for run in (fair, fifo))
    return Text(
        f"  Light callers waited {light_fair:.1f} s under fair, {light_fifo:.1f} s under fifo; "
        f"the cap held.",
        style="bold green",
    )


def _faults(run: Figures, options: DemoOptions) -> list[str]:
    found = []
    if run.highest > options.cap:
        found.append(f"{run.policy}: {run.highest} calls at once, the cap is {options.cap}")
    if run.failed:
        found.append(f"{run.policy}: {run.failed} of {options.total} calls failed")
    if run.requests > options.total:
        found.append(f"{run.policy}: {run.requests} requests for {options.total} calls")
    return found


def _light_p95(run: Figures) -> float:
    return percentile(sorted(wait for caller in LIGHT for wait in run.waits_s(caller)), 95)


def _seconds(run: Figures, caller: str, percent: float) -> str:
    return f"{percentile(run.waits_s(caller), percent):.2f} s"


def _mark(text: str, *, is_good: bool) -> Text:
    return Text(text, style="green" if is_good else "bold red")
