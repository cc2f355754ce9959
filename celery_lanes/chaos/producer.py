"""The producer's process: publishes the load in time, and notes what it was told.

``python -m celery_lanes.chaos.producer FILE OPTIONS``, with the options as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from celery import chain, chord
from celery.result import GroupResult
from kombu.exceptions import OperationalError

from celery_lanes.callinfo import call_context
from celery_lanes.chaos.load import (
    CHAIN_STEPS,
    CHORD_PARTS,
    Item,
    Published,
    Shape,
    planned_load,
    read_published,
)
from celery_lanes.chaos.options import ChaosOptions
from celery_lanes.chaos.shop import MODEL, early, late

EARLIEST_ETA_S = 1
LATEST_ETA_S = 4


def main(path: Path, options: ChaosOptions, begin_s: float) -> None:
    """Publish what is not in the file yet, each item in its time."""
    told = {published.number for published in read_published(path)}
    with path.open("ab", buffering=0) as file:
        for item in planned_load(options):
            if item.number in told:
                continue
            time.sleep(max(0.0, begin_s + item.at_s - time.monotonic()))
            file.write(_publish(item).to_line().encode())


def _publish(item: Item) -> Published:
    """Publish, and say what came of it; Celery's retry policy has repeated it then."""
    signature = _signature(item)
    try:
        with call_context(caller=item.caller, run_id=f"item-{item.number}"):
            result = signature.apply_async()
    except OperationalError as error:
        return _told(item, (), repr(error))
    told = _told(item, tuple(_ids(result)))
    return replace(told, group=result.parent.id) if item.shape is Shape.CHORD else told


def _told(item: Item, ids: tuple[str, ...], error: str = "") -> Published:
    return Published(item.number, item.shape, item.caller, ids, time.monotonic(), error)


def _signature(item: Item) -> Any:
    call = late.si(MODEL, item.service_ms, steps=item.steps)
    if item.shape is Shape.EARLY:
        return early.si(MODEL, item.service_ms)
    if item.shape is Shape.ETA:
        later_s = EARLIEST_ETA_S + item.number % (LATEST_ETA_S - EARLIEST_ETA_S)
        return call.set(countdown=later_s)
    if item.shape is Shape.CHAIN:
        return chain(*(call.clone() for _ in range(CHAIN_STEPS)))
    if item.shape is Shape.CHORD:
        return chord([call.clone() for _ in range(CHORD_PARTS)], call.clone())
    return call


def _ids(result: Any) -> Iterator[str]:
    """Name all tasks of a result, first ones first."""
    if result.parent is not None:
        yield from _ids(result.parent)
    if isinstance(result, GroupResult):
        for part in result.results:
            yield from _ids(part)
    else:
        yield result.id


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        ChaosOptions(**json.loads(sys.argv[2])),
        float(os.environ["CHAOS_BEGIN"]),
    )
