"""What ``apply_async(...)`` takes for us, and what was probably meant to be one of these."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from celery_lanes.priority import PREEMPTIBLE, PRIORITY
from celery_lanes.router import is_stamp
from celery_lanes.store.checks import MAX_COST, MAX_TIME_MS

OPTIONS = ("caller", "run_id", "cost", "lane", "max_wait", PRIORITY, PREEMPTIBLE)
"""Celery would make message properties of them."""

GOES_ON = "parent_id"
"""Celery says it when a canvas goes on in a worker: what is raised then leaves a result pending."""


def check_options(task: Any, args: Any, kwargs: Any, options: Mapping[str, Any]) -> None:
    """Refuse, of a call for a lane, what is nearly one of ours: Celery takes any name in silence.

    An option of a plain task, or one that a task class of the user's own takes, is none of ours.
    Raises ``TypeError``, as Python does for an unknown keyword.
    """
    for name in options:
        if (meant := _meant(name)) is None or _takes(task, name) or is_stamp(name, options):
            continue
        if task.app.lanes.parts.router.route(task.name, args, kwargs, options, task) is not None:
            raise TypeError(f"apply_async has no option {name!r}; did you mean {meant}?")


def _takes(task: Any, name: str) -> bool:
    """Say whether any of a task's classes has a parameter of that name."""
    own = (vars(known).get("apply_async") for known in type(task).__mro__)
    return any(name in inspect.signature(apply).parameters for apply in own if apply)


def check_max_wait(seconds: Any) -> None:
    """Refuse a longest wait that is no time; ``None`` = as long as it takes."""
    if seconds is not None and not _is_number(seconds, 0, MAX_TIME_MS / 1000):
        raise ValueError(
            f"expected max_wait to be a number of seconds, 0 or more, got {seconds!r:.100}"
        )


def check_cost(cost: Any) -> None:
    """Refuse a cost that no store would take; ``None`` = as usual."""
    if cost is not None and not _is_number(cost, 1, MAX_COST):
        raise ValueError(f"expected cost to be a number from 1 to {MAX_COST:g}, got {cost!r:.100}")


def nearest(name: str, known: Iterable[str], *, alike: float = 0.85) -> str | None:
    """Give what a name is a misspelling of, if of any; ``alike``: 1 is the same name."""
    return next(iter(difflib.get_close_matches(name, known, 1, alike)), None)


def _is_number(value: Any, least: float, most: float) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and least <= value <= most  # NaN is neither


@lru_cache(maxsize=1000)
def _meant(name: str) -> str | None:
    return None if name in _KNOWN else nearest(name, _KNOWN)


_KNOWN = frozenset((*OPTIONS, "stream"))
