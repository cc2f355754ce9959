"""What chains do, one line each in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from celery_lanes.llm.chains.events import FailoverEvent

logger = logging.getLogger(__name__)

_LOUD = frozenset({"bench", "fail_fast", "exhausted"})


def log(event: FailoverEvent) -> None:
    """Log an event: a warning of what somebody may have to look after, else for information."""
    level = logging.WARNING if event.kind in _LOUD else logging.INFO
    if logger.isEnabledFor(level):
        logger.log(level, "celery_lanes: %s", _printable(", ".join(_words(event))))


def _printable(text: str) -> str:
    """Let no name that a caller has made up begin another line."""
    return text if text.isprintable() else ascii(text)[1:-1]


def _words(event: FailoverEvent) -> Iterator[str]:
    yield f"{event.kind} {event.target or event.spec}"
    if event.error_class is not None:
        yield event.error_class if event.status is None else f"{event.error_class} {event.status}"
    if event.kind == "advance":
        yield f"next is {event.next_target}"
    if event.retry_after_s is not None:
        yield f"again in {event.retry_after_s:.3g} s"
    yield f"call {event.call_id}"
    if event.caller:
        yield f"of {event.caller}"
