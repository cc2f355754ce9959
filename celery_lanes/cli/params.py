"""What an option of ``celery lanes set`` may be: a number, a rate, or a word for either."""

from __future__ import annotations

from typing import Any

import click

from celery_lanes.config import durations
from celery_lanes.store.checks import MAX_SLOTS, check_weight


class Slots(click.ParamType[int | None]):
    """A number of slots, or "default" for what the file says."""

    name = "N|default"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        """Read it; ``None`` is the default."""
        if value == "default":
            return None
        if str(value).isascii() and str(value).isdigit() and 1 <= int(value) <= MAX_SLOTS:
            return int(value)
        return self.fail(f'expected a positive integer or "default", got {value!r}', param, ctx)


class Weight(click.ParamType[float | None]):
    """A weight, or "default" for what the file says."""

    name = "W|default"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | None:
        """Read it; ``None`` is the default."""
        if value == "default":
            return None
        try:
            check_weight("", weight := float(value))
        except ValueError:
            self.fail(f'expected a number, 0.001 to 1000, or "default", got {value!r}', param, ctx)
        return weight


class Rate(click.ParamType[str | None]):
    """A rate, "none", or "default" for what the file says."""

    name = "RATE|none|default"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | None:
        """Read it; ``None`` is the default, "" is none."""
        if value in {"default", "none"}:
            return None if value == "default" else ""
        try:
            durations.bucket(value)
        except ValueError:
            words = 'a rate such as "60/m", "none" or "default"'
            self.fail(f"expected {words}, got {value!r}", param, ctx)
        return str(value)
