"""How urgent a call is, and whether it makes room for a more urgent one; ``None`` = not said.

A priority is a whole number from -1000 to 1000, higher first.
"""

from __future__ import annotations

from typing import Any

LEAST, MOST = -1000, 1000

PRIORITY = "lane_priority"
PREEMPTIBLE = "preemptible"
"""Options of a publish, and attributes of a task."""


def checked(priority: object, what: str) -> int | None:
    """Refuse what is no priority; ``what`` names it in the ``ValueError``."""
    if priority is None:
        return None
    if isinstance(priority, int) and not isinstance(priority, bool) and LEAST <= priority <= MOST:
        return priority
    raise ValueError(
        f"expected {what} to be a whole number from {LEAST} to {MOST}, got {priority!r:.100}"
    )


def priority_of(task: Any) -> int | None:
    """Read a task's own priority. Raises ``ValueError`` for what is none."""
    own = getattr(task, PRIORITY, None)
    return None if own is None else checked(own, f"{PRIORITY} of task {task.name}")


def checked_answer(answer: object, what: str) -> bool | None:
    """Refuse what is no true or false; ``what`` names it in the ``ValueError``."""
    if answer is None or isinstance(answer, bool):
        return answer
    raise ValueError(f"expected {what} to be True or False, got {answer!r:.100}")


def preemptible_of(task: Any) -> bool | None:
    """Read what a task says of all its calls. Raises ``ValueError`` for what is no answer."""
    own = getattr(task, PREEMPTIBLE, None)
    return None if own is None else checked_answer(own, f"{PREEMPTIBLE} of task {task.name}")


def clamped(priority: int | None) -> int | None:
    """Give the nearest priority there is, for what another sender may have written."""
    return None if priority is None else max(LEAST, min(MOST, priority))


def first_said(*priorities: int | None) -> int | None:
    """Give the first that is not ``None``."""
    return next((priority for priority in priorities if priority is not None), None)
