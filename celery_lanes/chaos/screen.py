"""What the run shows while it lasts: a line that changes; without a terminal, one now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

LINE_EVERY_S = 10.0
DRAW_EVERY_S = 0.5


@contextmanager
def lines_on(console: Console) -> Iterator[Callable[[Callable[[], str]], None]]:
    """Give what is called all the time with the line's maker, and shows it when it is due."""
    if not console.is_terminal:
        yield _Due(LINE_EVERY_S, lambda line: console.print(line, soft_wrap=True))
        return
    with console.status("") as status:
        yield _Due(DRAW_EVERY_S, status.update)


class _Due:
    def __init__(self, every_s: float, show: Callable[[str], None]) -> None:
        self._every_s = every_s
        self._show = show
        self._due_s = 0.0

    def __call__(self, line: Callable[[], str]) -> None:
        now_s = time.monotonic()
        if now_s >= self._due_s:
            self._due_s = now_s + self._every_s
            self._show(line())
