"""``Lanes(app, ...)``: the only place where the parts are put together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery
from celery.utils.imports import symbol_by_name

import celery_lanes.tasks  # noqa: F401 # registers celery_lanes.generate
from celery_lanes.calls import Calls
from celery_lanes.config.settings import Settings
from celery_lanes.control import cancellable, lane_control
from celery_lanes.llm.registry import Registry
from celery_lanes.parts import Health, Parts
from celery_lanes.publish.producer import lazily
from celery_lanes.publish.sender import LaneAMQP
from celery_lanes.results import attribute_results
from celery_lanes.running import Running
from celery_lanes.task import lane_task
from celery_lanes.worker.step import LanesStep


class Lanes(Calls, Running):
    """The lanes of a Celery app.

    ::

        app = Celery("shop", broker="redis://localhost/0")
        lanes = Lanes(app, "config/lanes.toml")

    What it does is on the pages of ``docs/verbs``; what it works with is in ``parts``.

    Args:
        app: the Celery app; its lanes are kept as ``app.lanes``.
        config: a path, a ``Settings``, or nothing: ``$CELERY_LANES_CONFIG``, else
            ``config/lanes.toml``. Read at first use; a worker with a broken file does not start.
        registry: makes the ``Registry``, at its first use, of the keywords that it is given; such
            as ``partial(Registry, chain=ChainConfig(transient_retries=0))``.
    """

    def __init__(
        self,
        app: Celery,
        config: Settings | str | Path | None = None,
        *,
        registry: Callable[..., Registry] = Registry,
    ) -> None:
        self.app: Any = app  # celery is not typed
        self.parts = Parts(app, config, registry)
        app.lanes = self
        _replace_classes(app)
        attribute_results(app)
        app.steps["worker"].add(LanesStep)

    @property
    def settings(self) -> Settings:
        """The configuration, read at its first use. Raises ``ConfigError``."""
        return self.parts.settings

    @property
    def registry(self) -> Registry:
        """The app's LLM providers, and the aliases of the settings."""
        return self.parts.registry

    @property
    def health(self) -> Health:
        """What is known of LLM targets: which ones are benched, and until when."""
        return self.parts.health


def _replace_classes(app: Any) -> None:
    """Put our classes in place, also if the app has already made objects of its own."""
    app.amqp_cls = LaneAMQP
    app.__dict__.pop("amqp", None)
    app.control_cls = lane_control(symbol_by_name(app.control_cls))
    app.__dict__.pop("control", None)
    app.AsyncResult = cancellable(app.AsyncResult)
    app.producer_or_acquire = lazily(app)
    app.task_cls = lane_task(symbol_by_name(app.task_cls))
    if (made := app.__dict__.get("Task")) is not None:  # all its tasks so far derive from it
        made.__bases__ = (app.task_cls,)
