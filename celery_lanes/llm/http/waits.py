"""When a provider says that it may be asked again, and what is left of its limits until then."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from celery_lanes.llm.fields import mapping, mappings, string
from celery_lanes.store.quota import Quota

_NAME = "[a-z][a-z-]{0,50}"
_REMAINING = re.compile(
    f"(?:x-ratelimit-remaining(?P<openai>-{_NAME})?"
    f"|anthropic-ratelimit-(?P<anthropic>{_NAME})-remaining)"
)
_MOST = 2**52
_DURATION = re.compile(
    r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?", re.ASCII
)
_UNITS_S = (3600.0, 60.0, 1.0, 0.001)
_YEAR_S = 366 * 24 * 3600


def retry_after_s(headers: Mapping[str, str], payload: object = None) -> float | None:
    """Give the seconds to wait: as asked for, or else until the limits that are used up renew.

    Asked for is ``retry-after-ms``, ``retry-after`` in seconds or as a date, and Google's
    ``retryDelay`` in the body. ``None`` of what is missing, malformed, past, infinite or 0.
    """
    after = headers.get("retry-after", "")
    asked = (
        _number(headers.get("retry-after-ms", "")) / 1000,
        _number(after),
        _until_http_date(after),
        _googles(payload),
    )
    found = next((seconds for seconds in asked if not math.isnan(seconds)), math.nan)
    if math.isnan(found):
        renewals = (quota.resets_ms or 0 for quota in quotas_in(headers) if not quota.left)
        found = max(renewals, default=0) / 1000
    return found if 0 < found < math.inf else None


def quotas_in(headers: Mapping[str, str]) -> tuple[Quota, ...]:
    """Read what is left of each limit; what is malformed or below 0 is passed by."""
    found = ((_REMAINING.fullmatch(name.lower()), left) for name, left in headers.items())
    quotas = (_quota(name, left, headers) for name, left in found if name)
    return tuple(quota for quota in quotas if quota is not None)


def _quota(name: re.Match[str], remaining: str, headers: Mapping[str, str]) -> Quota | None:
    left = _whole(_number(remaining))
    if left is None:
        return None
    of, reset = (headers.get(_beside(name, what), "") for what in ("limit", "reset"))
    short = name["anthropic"] or (name["openai"] or "").removeprefix("-") or "requests"
    return Quota(short, left, _whole(_number(of)), _whole(_until(reset) * 1000))


def _beside(remaining: re.Match[str], what: str) -> str:
    """Name the header that says something else of the same limit."""
    if (limit := remaining["anthropic"]) is not None:
        return f"anthropic-ratelimit-{limit}-{what}"
    return f"x-ratelimit-{what}{remaining['openai'] or ''}"


def _whole(number: float) -> int | None:
    """Round up, so that nothing is asked for too early; ``None`` of what is no sensible number."""
    return math.ceil(number) if 0 <= number <= _MOST else None


def _until(reset: str) -> float:
    """Read a time of day, or a span such as ``6m0s``; a bare number may be seconds or a clock."""
    if not math.isnan(number := _number(reset)):
        return _until_epoch(number)
    if reset and (span := _DURATION.fullmatch(reset)):
        return sum(float(n or 0) * unit for n, unit in zip(span.groups(), _UNITS_S, strict=True))
    try:
        return _until_time(datetime.fromisoformat(reset.replace("Z", "+00:00")))
    except ValueError:
        return math.nan


def _until_epoch(number: float) -> float:
    """Take a small number for seconds, a large one for Unix time in seconds or milliseconds."""
    if number < _YEAR_S:
        return number
    return (number / 1000 if number > _YEAR_S * 10_000 else number) - _now().timestamp()


def _googles(payload: object) -> float:
    details = mappings(mapping(mapping(payload).get("error")).get("details"))
    delays = (string(detail.get("retryDelay")) for detail in details)
    return next((_number(delay.removesuffix("s")) for delay in delays if delay), math.nan)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _until_http_date(date: str) -> float:
    try:
        return _until_time(parsedate_to_datetime(date))
    except (ValueError, TypeError):
        return math.nan


def _until_time(when: datetime) -> float:
    when = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
    return (when - _now()).total_seconds()


def _now() -> datetime:
    return datetime.now(timezone.utc)
