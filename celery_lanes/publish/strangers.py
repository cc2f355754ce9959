"""Lanes that no settings name, met at a publish: most often a model's name is mistyped."""

from __future__ import annotations

import logging
from collections.abc import Callable

from celery_lanes.config.settings import DEFAULT_LANE, Settings
from celery_lanes.errors import ConfigError
from celery_lanes.llm.known import BUILTINS
from celery_lanes.llm.spec import canonical
from celery_lanes.publish.options import nearest

logger = logging.getLogger(__name__)


class Strangers:
    """What one app's process has met of them; each is looked at once, unless it is refused."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._met: set[str] = set()

    def meet(self, lane: str, model: str | None) -> None:
        """Warn of a call in a lane that nobody may serve; ``ConfigError`` if that is refused.

        ``model``: by which the lane was found.
        """
        if lane in self._met:
            return
        settings = self._settings()
        if settings.unknown_lanes == "refuse" and not settings.names(lane):
            raise ConfigError(f"{_what(settings, lane, model)}, and unknown lanes are refused")
        self._met.add(lane)
        if settings.unknown_lanes == "warn" and (odd := oddness(settings, lane, model)):
            logger.warning(
                "celery_lanes: %s; its calls wait until a worker serves it: celery worker -Q %s",
                odd,
                settings.queue(lane),
            )


def oddness(settings: Settings, lane: str, model: str | None) -> str | None:
    """Say what is odd about a lane that was found by a model; ``None`` if nothing is.

    Where settings name lanes, all others are odd; where they name none, those that look like a
    provider's, or are of a model without one.
    """
    if settings.names(lane):
        return None
    is_odd = settings.named_lanes or _has_no_provider(lane, model) or _meant(settings, lane)
    return _what(settings, lane, model) if is_odd else None


def _what(settings: Settings, lane: str, model: str | None) -> str:
    if _has_no_provider(lane, model):
        return (
            f"{model!r:.100} is no provider/model, and no alias here, so its lane is {lane},"
            " which is named in no settings"
        )
    meant = _meant(settings, lane)
    hint = f" (did you mean {meant}?)" if meant else ""
    return f"lane {lane!r} is named in no settings{hint}"


def _meant(settings: Settings, lane: str) -> str | None:
    known = {*settings.named_lanes, *BUILTINS}
    return None if canonical(lane) in BUILTINS else nearest(lane, known)


def _has_no_provider(lane: str, model: str | None) -> bool:
    return lane == DEFAULT_LANE and bool(model) and "/" not in str(model)
