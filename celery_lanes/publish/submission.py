"""A publish that says in the same step where its call stands, or waits for what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from celery.canvas import Signature, _chain, _chord, chunks, group
from celery.utils.log import get_logger

from celery_lanes.errors import NotQueued, StoreError
from celery_lanes.position import Position, position_of
from celery_lanes.store.standing import Standing

logger = get_logger(__name__)

TELL = "lanes_tell"
"""The publish option that takes who is told where the call stands: a function of a ``Standing``."""


@dataclass(frozen=True, slots=True)
class Submission:
    """What was published, and where it stood when the lane took it.

    Attributes:
        result: what ``apply_async`` gives; of a chain, its last task's.
        position: where the call stood at that moment; of a chain, its first one. ``None`` if nobody
            can tell: it went to the broker (``intake = "broker"``, another queue, the store away
            with ``on_store_down = "bypass"``), ran here and now (eager), or had ended by the time a
            lost answer was made up for.
    """

    result: Any
    position: Position | None

    @property
    def eta_s(self) -> tuple[float, float] | None:
        """In how many seconds it starts, a range as in ``Position``; (0, 0): a slot is free."""
        return None if self.position is None else self.position.eta_s


def submit(signature: Any, max_wait: float | None = None) -> Submission:
    """Publish one call, or a chain by its first one, and keep what the store says of it.

    Raises ``TypeError`` for what is none of these, before anything is published.
    """
    _check_begins_with_one_call(signature)
    told: list[Standing] = []
    result = signature.apply_async(max_wait=max_wait, **{TELL: told.append})
    return Submission(result, position_of(told[-1]) if told else None)


def call(signature: Any, timeout_s: float | None, cancel: Callable[[Any], object]) -> Any:
    """Publish, and wait for the result; what waits when nobody does any more is cancelled."""
    result = signature.apply_async()
    try:
        return result.get(timeout=timeout_s)
    except BaseException:
        for part in reversed(list(_parts(result))):  # no call of a chain comes before the first
            _take_back(part, cancel)
        raise


def _parts(result: Any) -> Iterator[Any]:
    """Give the result of each call, those of a chain's last ones first."""
    while result is not None:
        for child in getattr(result, "results", ()):
            yield from _parts(child)
        if not hasattr(result, "results"):
            yield result
        result = result.parent


def _take_back(result: Any, cancel: Callable[[Any], object]) -> None:
    try:
        if not _has_ended(result):
            cancel(result)
    except NotQueued:
        logger.debug("celery_lanes: nobody waits any more for %s, which does not wait", result.id)
    except StoreError as error:
        logger.warning("celery_lanes: nobody waits any more for %s: %s", result.id, error)


def _has_ended(result: Any) -> bool:
    try:
        return bool(result.ready())
    except Exception as error:  # noqa: BLE001 # a result backend may raise anything
        logger.warning("celery_lanes: whether %s has ended is not known: %r", result.id, error)
        return False


def _check_begins_with_one_call(signature: Any) -> None:
    first = signature
    while isinstance(first, _chain) and first.tasks:
        first = first.tasks[0]
    if isinstance(first, (group, _chord, chunks)):
        raise TypeError(
            "expected a signature that begins with one call, got one that begins with several:"
            " submit each of them, or publish it by apply_async and ask lanes.position"
        )
    if not isinstance(first, Signature):
        raise TypeError(f"expected a signature, such as task.s(...), got {type(first).__name__}")
