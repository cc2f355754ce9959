"""When a call is due: the ETA that Celery writes into a message, as the store's milliseconds."""

from __future__ import annotations

from datetime import timezone

from celery.utils.time import maybe_iso8601


def due_ms(eta: object) -> int:
    """Read an ETA (ISO 8601; without a zone it is UTC) as epoch milliseconds.

    0 for none, a time long past, and what is no ETA: the worker's strategy refuses that.
    """
    try:
        when = maybe_iso8601(eta)
        if when is None:
            return 0
        aware = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
        return max(0, int(aware.timestamp() * 1000))
    except (AttributeError, OverflowError, TypeError, ValueError):
        return 0


def is_served(eta: object) -> bool:
    """Whether the store has waited for this ETA, or there is none."""
    return eta is None or due_ms(eta) > 0
