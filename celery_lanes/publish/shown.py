"""What monitors are shown of a call's arguments: Celery's ``saferepr`` of them, written at once.

Celery walks the arguments token by token, a twentieth of what a publish takes. Short and flat ones,
as most calls have, need no walk; ``None`` leaves the others to Celery.
"""

from __future__ import annotations

from collections.abc import Iterable

_NUMBERS = frozenset({int, float, bool, type(None)})


def shown_args(args: object, limit: int) -> str | None:
    """Write positional arguments, if that takes less than ``limit`` characters."""
    if type(args) is not tuple or (texts := _atoms(args, limit)) is None:
        return None
    return _within(limit, f"({texts[0]},)" if len(texts) == 1 else f"({', '.join(texts)})")


def shown_kwargs(kwargs: object, limit: int) -> str | None:
    """Write keyword arguments, if that takes less than ``limit`` characters."""
    if type(kwargs) is not dict or (values := _atoms(kwargs.values(), limit)) is None:
        return None
    if (names := _atoms(kwargs, limit)) is None:
        return None
    pairs = zip(names, values, strict=True)
    return _within(limit, "{" + ", ".join([f"{name}: {value}" for name, value in pairs]) + "}")


def _atoms(values: Iterable[object], limit: int) -> list[str] | None:
    """Write each value; ``None`` if one of them is long, or more than a text or a number."""
    texts = []
    for value in values:
        if type(value) is str and len(value) < limit:
            texts.append("'" + value.replace("'", "\\'") + "'")
        elif type(value) in _NUMBERS:
            texts.append(str(value))
        else:
            return None
    return texts


def _within(limit: int, text: str) -> str | None:
    return text if len(text) < limit else None
