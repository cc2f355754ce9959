"""How long an attempt waits for its lane, where whoever serves it takes the slot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Queueing:
    """One attempt's. ``seconds``: how long it has waited."""

    seconds: float = 0.0


_here: ContextVar[Queueing | None] = ContextVar("celery_lanes_queueing", default=None)


@contextmanager
def queueing(noted: Queueing) -> Iterator[None]:
    """Learn how long an attempt waits that is made in this block."""
    token = _here.set(noted)
    try:
        yield
    finally:
        _here.reset(token)


def note_queued(seconds: float) -> None:
    """Say how long the attempt that is being made here has waited; outside one, nobody hears it."""
    if (noted := _here.get()) is not None:
        noted.seconds += seconds
