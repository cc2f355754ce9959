"""JSON of any shape, read by fields: what is missing or of another type is ``None`` or empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MAX_COUNT = 2**53
"""What is more is no number of things, and not every reader of JSON can hold it."""


def string(value: object) -> str | None:
    """Take a text; half a character, which JSON can hold and UTF-8 cannot, is replaced."""
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def count(value: object) -> int | None:
    """Take a number of things."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value < MAX_COUNT else None


def mapping(value: object) -> Mapping[str, Any]:
    """Take an object."""
    return value if isinstance(value, Mapping) else {}


def mappings(value: object) -> Sequence[Mapping[str, Any]]:
    """Take the objects of a list."""
    items = value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, Mapping)]
