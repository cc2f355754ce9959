"""Workers that race for one lane, and counters on a server of their own that know nothing of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import redis as redis_py

from celery_lanes.errors import StoreUnavailable
from celery_lanes.store.attempts import Grant, Outcome, Release
from celery_lanes.store.base import Store
from celery_lanes.store.calls import Call
from celery_lanes.store.connect import open_store
from celery_lanes.store.rules import LaneRules, Policy
from tests.store.driving import DEADLINE_S
from tests.waiting import pass_time

T = TypeVar("T")


@dataclass(frozen=True)
class Race:
    """So many calls in a lane, and what has been counted of them."""

    url: str
    counters_url: str
    prefix: str
    lane: str = "race"
    cap: int = 5
    calls: int = 600

    def open_store(self) -> Store:
        return open_store(self.url, prefix=self.prefix)

    def call(self, number: int) -> Call:
        fields = {"task_id": f"t{number}", "task": "x", "caller": f"u{number % 7}"}
        return Call(id=f"c{number}", priority=number % 3, envelope=b"x" * 100, **fields)

    def configure(self) -> None:
        self.open_store().configure(self.lane, LaneRules(max_concurrent=self.cap, max_leases=10**6))

    @property
    def counters(self) -> Counters:
        return Counters(redis_py.Redis.from_url(self.counters_url), self.prefix)


class Counters:
    """What happened, as seen from outside."""

    def __init__(self, server: redis_py.Redis, prefix: str) -> None:
        self._server = server
        self._prefix = prefix

    def begin(self, call: str) -> None:
        self._server.rpush(f"{self._prefix}-seen", self._server.incr(f"{self._prefix}-running"))
        assert self._server.sadd(f"{self._prefix}-now", call) == 1, "ran twice at once"

    def end(self, call: str, *, is_done: bool) -> None:
        self._server.srem(f"{self._prefix}-now", call)
        self._server.decr(f"{self._prefix}-running")
        if is_done:
            assert self._server.sadd(f"{self._prefix}-done", call) == 1, "ended twice"

    def outage(self) -> None:
        self._server.incr(f"{self._prefix}-outages")

    @property
    def done(self) -> int:
        return self._server.scard(f"{self._prefix}-done")

    @property
    def outages(self) -> int:
        return int(self._server.get(f"{self._prefix}-outages") or 0)

    @property
    def most_at_once(self) -> int:
        return max(int(value) for value in self._server.lrange(f"{self._prefix}-seen", 0, -1))


def insist(counters: Counters, verb: Callable[[], T]) -> T:
    """Repeat a verb while the store is away; nothing but StoreUnavailable may say so."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return verb()
        except StoreUnavailable:  # noqa: PERF203 - once in a while
            counters.outage()
            assert time.monotonic() < deadline, "the store did not come back"
            pass_time(0.01, because="the store is away")


def publish(race: Race) -> None:
    """Admit all calls, a few at a time; some of them twice."""
    store, counters = race.open_store(), race.counters
    calls = [race.call(number) for number in range(race.calls)]
    for at in range(0, race.calls, 10):
        batch = calls[max(0, at - 2) : at + 10]
        insist(counters, partial(store.admit, race.lane, batch, policy=Policy.FAIR))


def work(race: Race, number: int) -> None:
    """Take, count in, count out, release; sometimes forget a reply, put back, or lose the call."""
    store, counters, chance = race.open_store(), race.counters, random.Random(number)
    worker, request = f"w{number}", 0
    releases: list[Release] = []
    running: list[Grant] = []
    while True:
        request += 1
        ask = {"worker": worker, "request": request, "want": chance.randint(0, 3)}
        take_turn = partial(store.next, race.lane, releases=releases, **ask)
        turn = insist(counters, take_turn)
        if chance.random() < 0.2:  # the reply was lost: ask again
            again = insist(counters, take_turn)
            assert [g.token for g in again.grants] == [g.token for g in turn.grants]
        for grant in turn.grants:
            counters.begin(grant.call)
            running.append(grant)
        chance.shuffle(running)
        ended, running = running[:2], running[2:]
        releases = [_end(grant, counters, chance) for grant in ended]
        held = [(grant.call, grant.token) for grant in [*ended, *running]]
        renewal = insist(counters, partial(store.renew, race.lane, worker=worker, held=held))
        assert renewal.lost == ()
        insist(counters, partial(store.reap, race.lane))
        if not (releases or running) and counters.done == race.calls:
            return


def _end(grant: Grant, counters: Counters, chance: random.Random) -> Release:
    outcome = chance.choice([Outcome.DONE, Outcome.DONE, Outcome.DONE, Outcome.BACK, Outcome.LOST])
    counters.end(grant.call, is_done=outcome is Outcome.DONE)
    return Release(grant.call, grant.token, outcome)
