"""A call that says things, and readers that do not wait for long."""

from __future__ import annotations

import pytest

from celery_lanes.streams import reader as readers
from tests.unit.streams.reading import Call


@pytest.fixture
def call(monkeypatch):
    monkeypatch.setattr(readers, "SILENCE_S", 0.02)
    monkeypatch.setattr(readers, "GRACE_S", 0.02)
    monkeypatch.setattr(readers, "AGAIN_S", 0.01)
    return Call()
