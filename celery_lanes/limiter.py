"""A lane as the concurrency limiter of pydantic-ai's models and agents (extra ``pydantic-ai``).

::

    from pydantic_ai.models.concurrency import ConcurrencyLimitedModel

    limiter = LaneLimiter(lanes, "ollama/llama3.1:8b", max_wait=30)
    model = ConcurrencyLimitedModel("ollama:llama3.1:8b", limiter=limiter)
"""

from __future__ import annotations

import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from pydantic_ai.concurrency import AbstractConcurrencyLimiter

from celery_lanes.slots.slot import Slot

if TYPE_CHECKING:
    from celery_lanes.app import Lanes


class LaneLimiter(AbstractConcurrencyLimiter):  # type: ignore[misc] # an extra
    """Lets a request begin when it has a slot of a lane, under the lane's cap and shares.

    Args:
        lanes: the app's lanes.
        model: as for ``lanes.slot``, and so is the rest: ``lane``, ``caller``, ``priority``,
            ``max_wait``, ``cost``. A ``call_context`` around a request says whose it is, too.

    Requests raise what entering a slot raises: ``LaneBusy``, ``WaitCancelled``,
    ``StoreUnavailable``.
    """

    def __init__(self, lanes: Lanes, model: str | None = None, **wish: Any) -> None:
        lanes.slot(model, **wish)  # what is odd about it is said here, not at the first request
        self._lanes, self._model, self._wish = lanes, model, wish
        self._held: deque[Slot] = deque()

    async def acquire(self, source: str) -> None:  # noqa: ARG002 # names spans of theirs
        """Wait for a slot."""
        slot = self._lanes.slot(self._model, **self._wish)
        await slot.__aenter__()
        self._held.append(slot)

    def release(self) -> None:
        """Give a slot back; any of ours, for it may be another task that says so.

        What is on its way out meanwhile tells whether the request failed, a 429 say.
        """
        self._held.popleft().release(failed=sys.exc_info()[0] is not None)
