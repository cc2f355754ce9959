"""The demo's Celery app; workers find it as ``celery -A celery_lanes.demo.shop``."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

import celery_lanes.llm.providers.openai  # noqa: F401 # before the fork: no process is slow at its first call
from celery_lanes import Lanes, Settings
from celery_lanes.demo.options import DemoOptions

MODULE = "celery_lanes.demo.shop"
POLICIES = ("fair", "fifo")

CONFIG = """
[store]
url = "{store}"

[defaults]
max_concurrent = {cap}

[lanes.fair]
policy = "fair"

[lanes.fifo]
policy = "fifo"

[[rules]]
match = "fair/*"
lane = "fair"

[[rules]]
match = "fifo/*"
lane = "fifo"
"""


def model(policy: str) -> str:
    """Name the model whose lane has this policy."""
    return f"{policy}/demo"


def config(store: str, options: DemoOptions) -> str:
    """Write the workers' ``lanes.toml``."""
    return CONFIG.format(store=store, cap=options.cap)


def make_app(broker: str | None, backend: str | None, settings: Settings | None = None) -> Any:
    """Make the app: three lines, like any shop's."""
    app = Celery("demo", broker=broker, backend=backend)
    app.conf.broker_connection_retry_on_startup = True
    Lanes(app, settings)
    return app


app = make_app(os.environ.get("DEMO_BROKER"), os.environ.get("DEMO_BACKEND"))
