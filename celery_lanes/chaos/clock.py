"""The wall clock of a worker's machine: it is wrong, and may jump while the worker runs.

``python clock.py FILE MODULE ARGUMENT...`` runs a module as ``python -m`` does, on a clock that is
as far off as the file says at each moment; ``time.monotonic`` stays true. It is run by its path:
with ``-m`` our package, and with it Celery, would be imported before the clock is set.
"""

from __future__ import annotations

import datetime as dt
import mmap
import os
import runpy
import struct
import sys
import time
from pathlib import Path

from typing_extensions import Self

NS = 1_000_000_000
OFFSET = struct.Struct("q")
"""How the offset stands in the file, in ns: one machine word, so that none is read half written."""


class Clock:
    """One machine's clock, as who sets it wrong sees it; ``offset_s`` is its time less the true."""

    def __init__(self, path: Path) -> None:
        self.offset_s = 0.0
        self._path = path

    def set(self, offset_s: float) -> float:
        """Set it, also for a process that runs on it; give how far it jumped, in seconds."""
        self._path.touch()
        with self._path.open("r+b") as file:  # never truncated: the process has it mapped
            file.write(OFFSET.pack(round(offset_s * NS)))
        jump_s, self.offset_s = offset_s - self.offset_s, offset_s
        return jump_s

    def running(self, module: str) -> list[str]:
        """Give the arguments with which Python runs a module on this clock."""
        return [__file__, str(self._path), module]


class ShiftedDatetime(dt.datetime):
    """A datetime that goes by ``time.time``, shifted or not."""

    __module__, __qualname__ = "datetime", "datetime"  # where pickle finds it in such a process

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> Self:
        """Tell the time."""
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> Self:
        """Tell the time in UTC, without saying so."""
        return cls.now(dt.timezone.utc).replace(tzinfo=None)


def shift(path: Path) -> None:
    """Put this process, and all that are forked from it, on the clock in a file."""
    with path.open("rb") as file:
        offset = mmap.mmap(file.fileno(), OFFSET.size, access=mmap.ACCESS_READ)
    true_ns = time.time_ns

    def time_ns() -> int:
        return true_ns() + int(OFFSET.unpack_from(offset)[0])

    time.time_ns = time_ns
    time.time = lambda: time_ns() / NS
    dt.datetime = ShiftedDatetime  # type: ignore[misc] # the class itself is the clock


def main(path: str, module: str, *_arguments: str) -> None:
    """Shift the clock, and run the module."""
    shift(Path(path))
    del sys.argv[:2]
    sys.path[0] = os.getcwd()  # noqa: PTH109 # as with "python -m"; a string
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
