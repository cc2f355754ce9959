"""Lanes that no settings name, met at a publish: most often a model's name is mistyped."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from celery_lanes.config.settings import DEFAULT_LANE
from celery_lanes.errors import ConfigError
from celery_lanes.llm.known import BUILTINS
from celery_lanes.llm.spec import canonical
from celery_lanes.publish.options import nearest

if TYPE_CHECKING:
    from celery_lanes.app import Lanes

logger = logging.getLogger(__name__)


class Strangers:
    """What one app's process has met of them; each is looked at once, unless it is refused."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._met: set[str] = set()

    def meet(self, lane: str, model: str | None) -> None:
        """Warn of a call in a lane that nobody may serve; ``ConfigError`` if that is refused.

        ``model``: by which the lane was found. Where settings name lanes, all others are strangers;
        where they name none, those that look like a provider's, or are of a model without one.
        """
        if lane in self._met:
            return
        settings = self._lanes.settings
        if settings.names(lane) or settings.unknown_lanes == "accept":
            self._met.add(lane)
            return
        if settings.unknown_lanes == "refuse":
            raise ConfigError(f"{self._what(lane, model)}, and unknown lanes are refused")
        self._met.add(lane)
        if settings.named_lanes or self._is_odd(lane, model):
            queue = settings.queue(lane)
            logger.warning(
                "celery_lanes: %s; its calls wait until a worker serves it: celery worker -Q %s",
                self._what(lane, model),
                queue,
            )

    def _is_odd(self, lane: str, model: str | None) -> bool:
        return _has_no_provider(lane, model) or self._meant(lane) is not None

    def _what(self, lane: str, model: str | None) -> str:
        if _has_no_provider(lane, model):
            return (
                f"{model!r:.100} is no provider/model, and no alias here, so its lane is {lane},"
                " which is named in no settings"
            )
        meant = self._meant(lane)
        hint = f"; did you mean {meant}?" if meant else ""
        return f"lane {lane!r} is named in no settings{hint}"

    def _meant(self, lane: str) -> str | None:
        return None if canonical(lane) in BUILTINS else nearest(lane, self._known)

    @property
    def _known(self) -> set[str]:
        return {*self._lanes.settings.named_lanes, *BUILTINS}


def _has_no_provider(lane: str, model: str | None) -> bool:
    return lane == DEFAULT_LANE and bool(model) and "/" not in str(model)
