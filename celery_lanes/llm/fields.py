"""JSON of any shape, read by fields: what is missing or of another type is ``None`` or empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def string(value: object) -> str | None:
    """Take a text."""
    return value if isinstance(value, str) else None


def count(value: object) -> int | None:
    """Take a number of things."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if value >= 0 else None


def mapping(value: object) -> Mapping[str, Any]:
    """Take an object."""
    return value if isinstance(value, Mapping) else {}


def mappings(value: object) -> Sequence[Mapping[str, Any]]:
    """Take the objects of a list."""
    items = value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, Mapping)]
