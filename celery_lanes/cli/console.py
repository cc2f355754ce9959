"""Where tables are printed: a terminal, or what is read by a program or kept in a file."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

MIN_WIDTH = 200
"""Where there is no terminal, so that each row is one line."""

_UNBOUNDED = 10_000


def open_console(*, is_plain: bool) -> Console:
    """Give the terminal, or a sheet that is wide enough for all columns."""
    console = Console(no_color=is_plain or None, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, MIN_WIDTH)
    return console


def print_table(drawn: Table, *, is_plain: bool) -> None:
    """Print a table."""
    open_console(is_plain=is_plain).print(drawn)


def fits(console: Console, drawn: Table) -> bool:
    """Say whether a table can be printed as wide as it is."""
    unbounded = console.options.update(width=_UNBOUNDED)
    return console.measure(drawn, options=unbounded).maximum <= console.width
