"""Lanes on a store in this process's memory."""

from __future__ import annotations

import uuid

import pytest
from celery import Celery

from celery_lanes.app import Lanes
from celery_lanes.config.settings import Settings


@pytest.fixture
def make_lanes():
    def make(**settings) -> Lanes:
        url = f"memory://{uuid.uuid4().hex}"
        table = {"max_concurrent": 1, "lease_ttl": "3s", **settings.pop("lane", {})}
        return Lanes(
            Celery(broker="memory://"),
            Settings.parse({"store": {"url": url}, "lanes": {"ollama": table}, **settings}),
        )

    return make


@pytest.fixture
def lanes(make_lanes) -> Lanes:
    return make_lanes()
