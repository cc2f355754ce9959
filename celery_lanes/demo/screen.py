"""What the demo shows while it runs: a live table, or plain lines where there is no terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

LINE_EVERY_S = 2.0
BAR_WIDTH = 28
TITLES = {
    "fair": "callers take turns",
    "fifo": "first come, first served",
}


@dataclass(frozen=True, slots=True)
class CallerReading:
    """How far one caller's calls are."""

    name: str
    total: int
    running: int
    done: int

    @property
    def waiting(self) -> int:
        """Calls that have not started."""
        return max(0, self.total - self.running - self.done)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One look at a run; ``busy`` and ``highest`` are what the HTTP server sees."""

    policy: str
    elapsed_s: float
    callers: tuple[CallerReading, ...]
    busy: int
    highest: int
    cap: int


class Screen(Protocol):
    """Where readings are shown."""

    def show(self, reading: Reading) -> None:
        """Show a reading in place of the one before."""


class LiveScreen:
    """A table that is drawn anew in place."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, reading: Reading) -> None:
        """Draw the table."""
        self._live.update(drawn(reading), refresh=True)


class LineScreen:
    """A line now and then, for pipes and log files."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_s = 0.0

    def show(self, reading: Reading) -> None:
        """Print a line if the last one is some time ago or all is done."""
        is_over = all(caller.done == caller.total for caller in reading.callers)
        if reading.elapsed_s >= self._next_s or is_over:
            self._next_s = reading.elapsed_s + LINE_EVERY_S
            self._console.print(line(reading), soft_wrap=True)


@contextmanager
def screen_on(console: Console) -> Iterator[Screen]:
    """Open the screen that fits the console."""
    if not console.is_terminal:
        yield LineScreen(console)
        return
    with Live(console=console, auto_refresh=False) as live:
        yield LiveScreen(live)


def line(reading: Reading) -> str:
    """Write a reading in one line."""
    callers = "   ".join(f"{c.name} {c.done}/{c.total}" for c in reading.callers)
    slots = f"slots {reading.busy}/{reading.cap} (highest {reading.highest})"
    return f"  {reading.policy}  {reading.elapsed_s:5.1f} s   {callers}   {slots}"


def drawn(reading: Reading) -> RenderableType:
    """Draw a reading."""
    title = Text.assemble(
        (f"  {reading.policy}", "bold cyan"),
        f"  {TITLES.get(reading.policy, '')}",
        (f"   {reading.elapsed_s:.1f} s", "dim"),
    )
    return Group(title, Padding(_table(reading), (0, 0, 0, 2)), _slots(reading), "")


def _table(reading: Reading) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("caller", min_width=8)
    for name in ("waiting", "running", "done"):
        table.add_column(name, justify="right", min_width=7)
    table.add_column("", width=BAR_WIDTH)
    for caller in reading.callers:
        table.add_row(*_cells(caller))
    return table


def _cells(caller: CallerReading) -> tuple[RenderableType, ...]:
    bar = ProgressBar(total=caller.total, completed=caller.done, width=BAR_WIDTH)
    done = f"{caller.done}/{caller.total}"
    running = Text(str(caller.running), style="green" if caller.running else "dim")
    return caller.name, str(caller.waiting), running, done, bar


def _slots(reading: Reading) -> Text:
    busy = min(reading.busy, reading.cap)
    over = max(0, reading.busy - reading.cap)
    return Text.assemble(
        "  slots  ",
        ("● " * busy, "green"),
        ("○ " * (reading.cap - busy), "dim"),
        ("● " * over, "bold red"),
        (f"  seen by the HTTP server; highest {reading.highest}, cap {reading.cap}", "dim"),
    )
