"""Durations ("5m", "1h30m") and rates ("60/m", "100k/m") as people write them."""

from __future__ import annotations

import re

from celery_lanes.store.checks import MAX_TIME_MS, check_limit
from celery_lanes.store.rules import Bucket, Limit

_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SCALE = {"": 1, "k": 1_000, "M": 1_000_000}
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_PART = re.compile(rf"({_NUMBER})(ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_NUMBER}(?:ms|s|m|h|d))+")
_RATE = re.compile(rf"({_NUMBER})([kM]?)/(s|m|h|d)")


def duration_s(text: object) -> float:
    """Read "90s", "5m", "1h30m", "250ms", "1d", or a number of seconds.

    Raises ``ValueError`` for anything else, and for what is not longer than 0 or than a store
    can count.
    """
    seconds = _written_s(text) if isinstance(text, str) else _number(text)
    if not 0 < seconds <= MAX_TIME_MS / 1000:  # NaN is neither
        raise ValueError(text)
    return float(seconds)


def bucket(text: object, *, burst: float | None = None) -> Bucket:
    """Read "60/m" (per s, m, h or d; k and M multiply) as a bucket.

    ``burst`` is how much may come at once; as much as comes in one period, but at least 1, when
    ``None``. Raises ``ValueError`` for anything else, and for what no store would take.
    """
    written = _RATE.fullmatch(text) if isinstance(text, str) else None
    if written is None:
        raise ValueError(text)
    number, scale, unit = written.groups()
    count = float(number) * _SCALE[scale]
    made = Bucket(count, int(_UNIT_S[unit] * 1000), max(1.0, count) if burst is None else burst)
    check_limit(Limit.RATE, made)
    return made


def written_rate(rate: Bucket) -> str:
    """Write a bucket as ``bucket`` reads it: "60/m"."""
    period_s = rate.period_ms / 1000
    unit = next((unit for unit, unit_s in _UNIT_S.items() if unit_s == period_s), None)
    scale = next((s for s in ("M", "k") if rate.count and rate.count % _SCALE[s] == 0), "")
    return f"{rate.count / _SCALE[scale]:g}{scale}/{unit or written(period_s)}"


def written(seconds: float) -> str:
    """Write seconds as ``duration_s`` reads them: 90 -> "1m30s"."""
    left_ms = round(seconds * 1000)
    parts = []
    for unit in ("d", "h", "m", "s", "ms"):
        count, left_ms = divmod(left_ms, round(_UNIT_S[unit] * 1000))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def rounded(seconds: float) -> str:
    """Write a time as people read it: 0.4s, 12s, 3m 20s, 2h 5m."""
    if seconds < 10:  # noqa: PLR2004 - from here on tenths tell nothing
        return f"{seconds:.1f}s"
    minutes, whole = divmod(round(seconds), 60)
    if not minutes:
        return f"{whole}s"
    hours, left = divmod(minutes, 60)
    return f"{hours}h {left}m" if hours else f"{minutes}m {whole}s"


def _written_s(text: str) -> float:
    if not _DURATION.fullmatch(text):
        raise ValueError(text)
    return sum(float(number) * _UNIT_S[unit] for number, unit in _PART.findall(text))


def _number(value: object) -> float:
    """Give a number as it is: a whole one may be too large for a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(value)  # noqa: TRY004 - one error for every wrong duration
    return value
