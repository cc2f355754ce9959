"""What ``lanes where`` says of a call: its place, when it starts, and what holds it up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

from celery_lanes.position import Position, in_about
from celery_lanes.store.standing import Hold

_WHEN = {
    Hold.PAUSED: "when the lane is resumed",
    Hold.CALLER_PAUSED: "when its caller is resumed",
    Hold.NO_WORKER: "when a worker serves the lane",
}


def to_json(position: Position) -> str:
    """Write an object; ``eta_s`` is a list of two numbers of seconds, or null."""
    fields = {"place": position.place, **asdict(position)}
    return json.dumps(fields, indent=2, ensure_ascii=False)


def lines(position: Position) -> Iterator[str]:
    """Write a line for each fact; a call that does not wait has only a lane and a reason."""
    yield f"lane    {position.lane}"
    if position.place:
        least = "at least " if position.is_at_least else ""
        yield f"place   {least}{position.place}"
        yield f"ahead   {position.own_ahead} own, {position.others_ahead} of other callers"
        yield f"starts  {_when(position)}"
    why = position.explanation.removeprefix(f"{position.lane}: ")
    yield f"why     {why.partition('; ')[0] if position.place else why}"


def _when(position: Position) -> str:
    if position.eta_s:
        return in_about(position.eta_s)
    return _WHEN.get(position.reason, "nobody can tell")
