"""When the same target is asked once more."""

from __future__ import annotations

import random

from celery_lanes.errors import Unreachable
from celery_lanes.llm.chains.effects import ChainConfig, asked_s
from celery_lanes.llm.chains.plan import Trial

INLINE_WAIT_S = 5.0
"""The longest Retry-After for which the same target is waited for and asked again."""

MAX_PAUSE_S = 8.0


class Retries:
    """One call's budget. ``left``: how often it may still do so, with all targets together."""

    def __init__(self, config: ChainConfig, left: int) -> None:
        self._config = config
        self.left = left

    def allow(self, trial: Trial, error: BaseException, *, lost: int, left_s: float) -> bool:
        """Say whether it may; what may be charged is not ``lost`` twice at the same target."""
        wait_s = asked_s(error) or 0.0
        return (
            trial.number <= self._config.transient_retries
            and self.left > 0
            and lost <= 1
            and wait_s <= INLINE_WAIT_S
            and max(wait_s, self._longest_pause_s(trial)) < left_s
        )

    def pause_s(self, trial: Trial, error: BaseException) -> float:
        """Spread the load of those who failed together; where nothing was sent, there is none."""
        if isinstance(error, Unreachable):
            return 0.0
        spread_s = random.uniform(0.0, self._longest_pause_s(trial))  # noqa: S311 # no secret
        return max(spread_s, asked_s(error) or 0.0)

    def _longest_pause_s(self, trial: Trial) -> float:
        return min(MAX_PAUSE_S, self._config.backoff_s * 2.0 ** min(trial.number - 1, 10))
