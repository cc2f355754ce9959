"""How times, rates and counts are written in the file, and what a file is told that has another."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import BeforeValidator, Field

from celery_lanes.config import durations
from celery_lanes.config.complaints import expected
from celery_lanes.store.checks import MAX_SLOTS
from celery_lanes.store.rules import Bucket

MIN_RUNTIME_S = 30.0
A_DURATION = 'a duration such as "90s", "5m" or "1h30m", or a number of seconds'
A_RATE = 'a rate such as "60/m" or "100k/h"'


def _read_duration(value: object) -> float:
    try:
        return durations.duration_s(value)
    except ValueError:
        raise expected(A_DURATION) from None


def _read_runtime(value: object) -> float:
    """Read a duration, or 0 for at once; a negative number stands for the usual one."""
    if value in (0, "0s") and not isinstance(value, bool):
        return 0.0
    is_negative = isinstance(value, (int, float)) and value < 0
    return MIN_RUNTIME_S if is_negative else _read_duration(value)


def read_rate(value: object, *, burst: float | None) -> Bucket | None:
    """Read a rate; "" takes an inherited one away."""
    if value is None or value == "":
        return None
    if isinstance(value, Bucket):
        return value if burst is None else replace(value, burst=burst)
    try:
        return durations.bucket(value, burst=burst)
    except ValueError:
        raise expected(A_RATE) from None


Seconds = Annotated[float, BeforeValidator(_read_duration)]
Runtime = Annotated[float, BeforeValidator(_read_runtime)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Slots = Annotated[int, Field(ge=1, le=MAX_SLOTS)]
