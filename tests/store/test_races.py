"""Many processes on one lane: the cap holds, by a counter that knows nothing of the store."""

from __future__ import annotations

import multiprocessing
import random
import uuid

import pytest
import redis as redis_py

from celery_lanes.store.base import Call, LaneRules, Outcome, Policy, Release
from celery_lanes.store.connect import open_store

LANE, CAP, CALLS, PROCESSES = "race", 5, 600, 4


def work(url: str, prefix: str, number: int) -> None:
    """Take, count in, count out, release; sometimes forget a reply, put back, or lose the call."""
    store, chance = open_store(url, prefix=prefix), random.Random(number)
    counter = redis_py.Redis.from_url(url)
    worker, request, releases, running = f"w{number}", 0, [], []
    while True:
        request += 1
        ask = {"worker": worker, "request": request, "want": chance.randint(0, 3)}
        turn = store.next(LANE, releases=releases, **ask)
        if chance.random() < 0.2:  # the reply was lost: ask again
            again = store.next(LANE, releases=releases, **ask)
            assert [g.token for g in again.grants] == [g.token for g in turn.grants]
        for grant in turn.grants:
            counter.rpush(f"{prefix}-seen", counter.incr(f"{prefix}-running"))
            assert counter.sadd(f"{prefix}-now", grant.call) == 1, "ran twice at once"
            running.append(grant)
        chance.shuffle(running)
        ended, running = running[:2], running[2:]
        releases = [end(grant, counter, prefix, chance) for grant in ended]
        store.renew(LANE, worker=worker, held=[(g.call, g.token) for g in [*ended, *running]])
        store.reap(LANE)
        if not (releases or running) and counter.scard(f"{prefix}-done") == CALLS:
            return


def end(grant, counter, prefix: str, chance: random.Random) -> Release:
    outcome = chance.choice([Outcome.DONE, Outcome.DONE, Outcome.DONE, Outcome.BACK, Outcome.LOST])
    counter.srem(f"{prefix}-now", grant.call)
    counter.decr(f"{prefix}-running")
    if outcome is Outcome.DONE:
        assert counter.sadd(f"{prefix}-done", grant.call) == 1, "ended twice"
    return Release(grant.call, grant.token, outcome)


@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_processes_that_race_for_slots_never_exceed_the_cap(kind, request):
    url, prefix = request.getfixturevalue(kind).url(), f"race-{uuid.uuid4().hex}"
    store = open_store(url, prefix=prefix)
    store.configure(LANE, LaneRules(max_concurrent=CAP, max_leases=10**6))
    calls = [
        Call(id=f"c{n}", task_id=f"t{n}", task="x", caller=f"u{n % 7}", priority=n % 3)
        for n in range(CALLS)
    ]
    store.admit(LANE, calls, policy=Policy.FAIR)
    spawn = multiprocessing.get_context("fork")
    workers = [spawn.Process(target=work, args=(url, prefix, n)) for n in range(PROCESSES)]

    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)

    assert [worker.exitcode for worker in workers] == [0] * PROCESSES
    counter = redis_py.Redis.from_url(url)
    seen = [int(value) for value in counter.lrange(f"{prefix}-seen", 0, -1)]
    assert max(seen) == CAP
    now = store.snapshot(LANE)
    assert (now.running, now.waiting, now.closing) == (0, 0, 0)
