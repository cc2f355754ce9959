"""How a running call goes on: as the same task in another lane, or later in its own.

Its body ends by raising ``Moved`` or ``Returned``. Celery writes no result for these, counts no
chord part and calls no errback, so whoever waits for the task notices nothing. The release of the
attempt carries the call's new message, whose header says where it goes and how far it has come (its
*stage*), and the store does the rest in one step. A lane is left and entered in two:

1. the release frees the slot and leaves the call *closing* in the lane that it was in;
2. the worker that is handed this closing admits it to the next lane, then closes it here. The name
   that it has there is in the message, so another worker may do all of this again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from celery.exceptions import Ignore

from celery_lanes.callinfo import HEADER, CallInfo
from celery_lanes.envelope import Envelope
from celery_lanes.store.attempts import Closing, Grant, Outcome, Release
from celery_lanes.store.calls import Call
from celery_lanes.store.checks import MAX_COST, MAX_TIME_MS

STAGE = "stage"
"""Where the lanes header has it, beside CallInfo's fields."""

LEFT, GRANTED = "left_ms", "granted_ms"
"""In the lanes header: when the attempt before this message was granted, and when this one was."""

MAX_STAGE_BYTES = 64 * 1024

_MARK = '"__type__"'
"""By which kombu's JSON knows dates and the like."""


class Parting(Ignore):  # type: ignore[misc] # celery is not typed
    """Ends a body whose call goes on.

    Not a ``Reject``: Celery would log each with a traceback, and ``autoretry_for`` retry it.

    ``changes``: of the lanes header, by the names of CallInfo's fields; ``None`` = taken out.
    """

    outcome = Outcome.BACK
    changes: Mapping[str, Any] = {}

    def release(self, grant: Grant) -> Release:
        """Say to the store how the attempt ended."""
        return Release(grant.call, grant.token, self.outcome)


class Moved(Parting):
    """The call goes on in another lane, as the same task."""

    outcome = Outcome.MOVED

    def release(self, grant: Grant) -> Release:
        """Name the call anew, for it may come back to a lane that still remembers it."""
        header = _header(grant.envelope)
        first = CallInfo.from_header(header).call_id or grant.call
        names = {"nonce": os.urandom(16).hex(), "origin": first}
        changes = {**self.changes, **names, LEFT: granted_at(grant, header)}
        envelope = _rewritten(grant.envelope, changes)
        return Release(grant.call, grant.token, Outcome.MOVED, envelope=envelope)


class Returned(Parting):
    """The call waits again in its own lane, at its place. ``wait_ms``: from so much later on."""

    wait_ms = 0

    def release(self, grant: Grant) -> Release:
        """Leave its message as it is, if it has come no further."""
        envelope = _rewritten(grant.envelope, self.changes) if self.changes else b""
        wait_ms = self.wait_ms
        return Release(grant.call, grant.token, Outcome.BACK, wait_ms=wait_ms, envelope=envelope)


def moved(
    lane: str,
    stage: Mapping[str, Any] | None,
    *,
    model: str | None = None,
    cost: float | None = None,
) -> Moved:
    """Make what ends a body whose call goes on in a lane; see ``Lanes.move``."""
    error = Moved(f"it goes on in lane {lane}")
    told = {name: value for name, value in (("model", model), ("cost", cost)) if value is not None}
    error.changes = {"lane": lane, STAGE: checked_stage(stage), **told}
    return error


def returned(stage: Mapping[str, Any] | None, delay_s: float | None) -> Returned:
    """Make what ends a body whose call waits again; see ``Lanes.give_back``."""
    error = Returned("it waits again")
    error.wait_ms = _wait_ms(delay_s)
    if stage is not None:
        error.changes = {STAGE: checked_stage(stage)}
    return error


def checked_stage(stage: Mapping[str, Any] | None) -> dict[str, Any] | str | None:
    """Give a stage as it travels. ``ValueError`` for what is no JSON object of up to 64 KB.

    Kombu makes objects of what has its mark, or cannot read it; that travels as text.
    """
    if stage is None:
        return None
    try:
        text = json.dumps({**stage}, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"expected stage to be a JSON object: {error}") from error
    if len(text) > MAX_STAGE_BYTES:
        raise ValueError(f"expected stage to be up to {MAX_STAGE_BYTES} bytes, got {len(text)}")
    read: dict[str, Any] = json.loads(text)
    return text if _MARK in text else read


def stage_in(header: object) -> dict[str, Any] | None:
    """Read the stage from a lanes header."""
    stage = header.get(STAGE) if isinstance(header, Mapping) else None
    if isinstance(stage, str):
        with suppress(ValueError):
            stage = json.loads(stage)
    return dict(stage) if isinstance(stage, Mapping) else None


def kept_in(header: object) -> dict[str, Any]:
    """Give what the header of a retry keeps: the stage, and that it comes later."""
    known = header if isinstance(header, Mapping) else {}
    stage = None if stage_in(known) is None else known[STAGE]
    kept = {STAGE: stage, LEFT: known.get(GRANTED)}
    return {name: value for name, value in kept.items() if value is not None}


def destination(closing: Closing) -> tuple[str, Call]:
    """Say to which lane a call moves, and as which call.

    Raises ``ValueError``, ``TypeError`` or ``LookupError`` if its message does not say so.
    """
    info = CallInfo.from_header(_header(closing.envelope))
    if closing.onward is None or not (info.lane and info.nonce):
        raise ValueError(f"call {closing.call!r} does not say where it goes")
    cost = closing.onward.cost if info.cost is None else max(1.0, min(info.cost, MAX_COST))
    return info.lane, replace(closing.onward, id=info.nonce, cost=cost)


def granted_at(grant: Grant, header: object) -> int:
    """Say when an attempt was granted, in ms since the epoch, by the clock of the lane's store.

    It is later than any before it, also if that one's lane is where another clock is.
    """
    left_ms = header.get(LEFT) if isinstance(header, Mapping) else None
    return max(grant.granted_ms, left_ms + 1 if isinstance(left_ms, int) else 0)


def granted_ms_of(request: Any) -> int | None:
    """Read when the attempt was granted that a task's own request belongs to."""
    header = getattr(request, HEADER, None)
    found = header.get(GRANTED) if isinstance(header, Mapping) else None
    return found if isinstance(found, int) else None


def _header(envelope: bytes) -> Any:
    return Envelope.unpack(envelope).headers.get(HEADER)


def _rewritten(envelope: bytes, changes: Mapping[str, Any]) -> bytes:
    message = Envelope.unpack(envelope)
    given = message.headers.get(HEADER)
    header = {**(given if isinstance(given, dict) else {}), **changes}
    known = {name: value for name, value in header.items() if value is not None}
    return replace(message, headers={**message.headers, HEADER: known}).pack()


def _wait_ms(delay_s: float | None) -> int:
    is_number = isinstance(delay_s, (int, float)) and not isinstance(delay_s, bool)
    if delay_s is not None and not (is_number and 0 <= delay_s <= MAX_TIME_MS / 1000):
        raise ValueError(f"expected delay to be a number of seconds, 0 or more, got {delay_s!r}")
    return round((delay_s or 0) * 1000)
