"""Many processes on one lane: the cap holds, by a counter that knows nothing of the store."""

from __future__ import annotations

import multiprocessing
import uuid

import pytest

from tests.store.racing import Race, publish, work

PROCESSES = 4


@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_processes_that_race_for_slots_never_exceed_the_cap(kind, request):
    url = request.getfixturevalue(kind).url()
    race = Race(url, url, f"race-{uuid.uuid4().hex}")
    race.configure()
    publish(race)
    spawn = multiprocessing.get_context("fork")
    workers = [spawn.Process(target=work, args=(race, number)) for number in range(PROCESSES)]

    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)

    assert [worker.exitcode for worker in workers] == [0] * PROCESSES
    assert race.counters.most_at_once == race.cap
    now = race.open_store().snapshot(race.lane)
    assert (now.running, now.waiting, now.closing) == (0, 0, 0)
