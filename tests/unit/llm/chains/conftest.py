"""A registry with three providers, and the lanes that its calls go through."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from celery_lanes.llm.chains import allowance, diary, failover, patience, way
from tests.unit.llm.chains.rig import Chains, Legs


@pytest.fixture
def make(monkeypatch):
    def make(**chain) -> Chains:
        chains = Chains(**chain)
        clock = SimpleNamespace(
            monotonic=lambda: chains.now, time=lambda: chains.now + 10**9, sleep=chains.sleep
        )
        for module in (allowance, diary, failover, patience, way):
            monkeypatch.setattr(module, "time", clock)
        return chains

    return make


@pytest.fixture
def chains(make) -> Chains:
    return make()


@pytest.fixture
def legs(make):
    def make_legs(*full: str, **chain) -> Legs:
        chains = make(**chain)
        chains.registry._lane_of = lambda model: model.partition("/")[0]
        return Legs(chains, *full)

    return make_legs
