"""What a running call says of its provider's limits, and how often that costs a round trip."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
from celery import Celery

from celery_lanes import Lanes, Settings, running
from celery_lanes.callinfo import HEADER
from celery_lanes.errors import StoreUnavailable
from celery_lanes.llm import ChainConfig, Registry
from celery_lanes.store.quota import Quota

SOME = Quota("requests", 12, 60, 1_000)
NONE = Quota("requests", 0, 60, 12_000)
LANES = {"a": {"adaptive": True}, "b": {"adaptive": True}, "fixed": {}}


class Told:
    """A store that notes what it is told."""

    def __init__(self) -> None:
        self.reports = []

    def report(self, lane, **said):
        self.reports.append((lane, said["wait_ms"], said["quota"]))


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now_s=100.0)
    monkeypatch.setattr(running, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    return clock


@pytest.fixture
def store():
    return Told()


@pytest.fixture
def lanes(store):
    lanes = Lanes(Celery("shop", set_as_current=False), Settings(lanes=LANES))
    lanes.parts.store = store
    return lanes


def runs_in(lane):
    return SimpleNamespace(**{HEADER: {"lane": lane, "nonce": "n", "token": "t"}})


def test_what_is_left_costs_a_round_trip_now_and_then_and_what_is_used_up_is_told_at_once(
    lanes, store, clock
):
    for now_s in (0, 1, 4.9, 5, 9.9):
        clock.now_s = 100 + now_s
        lanes.forewarned(runs_in("a"), [SOME])
    lanes.forewarned(runs_in("b"), [SOME])
    for _ in range(2):
        lanes.forewarned(runs_in("a"), [SOME, NONE])

    told = [("a", 0, SOME)] * 2 + [("b", 0, SOME)] + [("a", 12_000, NONE)] * 2
    assert store.reports == told


@pytest.mark.parametrize("request_", [runs_in("fixed"), SimpleNamespace()], ids=["fixed", "none"])
def test_a_lane_that_does_not_adapt_is_left_alone_and_so_is_a_call_outside(lanes, store, request_):
    lanes.forewarned(request_, [NONE])

    assert store.reports == []


def test_a_provider_without_limits_and_a_store_that_is_away_change_nothing(
    lanes, store, monkeypatch, caplog
):
    def away(*_, **__):
        raise StoreUnavailable

    lanes.forewarned(runs_in("a"), [])
    assert store.reports == []

    monkeypatch.setattr(store, "report", away)
    lanes.forewarned(runs_in("a"), [NONE])
    assert "nobody learns what a has left" in caplog.text


@pytest.mark.parametrize(("said", "means"), [({}, "raise"), ({"on_all_benched": "force"}, "force")])
def test_the_file_goes_before_the_app_in_what_a_call_does_whose_models_are_all_benched(said, means):
    made = partial(Registry, chain=ChainConfig(on_all_benched="raise", retry_budget=1))
    settings = Settings(health={"shared": False, **said})

    chosen = Lanes(Celery("shop", set_as_current=False), settings, registry=made).registry

    assert (chosen.chain_config.on_all_benched, chosen.chain_config.retry_budget) == (means, 1)


def test_a_wait_is_ten_minutes_at_most(lanes, store):
    lanes.forewarned(runs_in("a"), [Quota("requests", 0, 9, 86_400_000)])

    assert store.reports[0][1] == 600_000
