"""A store that is away, and callers who can do without it: they do not all wait for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from celery_lanes.errors import StoreError

ASK_AGAIN_S = 1.0
"""How long nobody asks a store that has failed."""

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class Absence:
    """Whether a store is away, as this process has seen it; logged once when it goes and returns.

    There is no lock, for it might be forked while it is held: who is first to change the one
    dictionary is who logs.
    """

    def __init__(self, gone: str, back: str) -> None:
        self._gone, self._back = gone, back
        self._marks: dict[str, object] = {}
        self._ask_at = 0.0

    def ask(self, question: Callable[[], T]) -> T | None:
        """Ask a question; ``None`` if there is no answer, or nobody is to ask now."""
        if self._marks:
            if time.monotonic() < self._ask_at:
                return None
            self._ask_at = time.monotonic() + ASK_AGAIN_S  # the others need not wait for this one
        try:
            answer = question()
        except StoreError as error:
            self._note(error)
            return None
        if self._marks and self._marks.pop("", None) is not None:
            _logger.warning(self._back)
        return answer

    def _note(self, error: StoreError) -> None:
        self._ask_at = time.monotonic() + ASK_AGAIN_S
        if self._marks.setdefault("", mine := object()) is mine:
            _logger.warning("%s: %s", self._gone, error)
