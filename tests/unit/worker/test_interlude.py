"""Running calls while the event loop waits for its broker: a real pool, and no broker."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from billiard.exceptions import TimeLimitExceeded
from celery.concurrency.asynpool import AsynPool
from kombu.asynchronous import Hub

from celery_lanes.worker.interlude import attend, limits_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)
MANY_BYTES = 1_000_000  # more than a pipe takes at once


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture
def pool(hub) -> Iterator[AsynPool]:
    pool = AsynPool(processes=1, threads=False, enable_timeouts=True)
    pool.register_with_event_loop(hub)
    yield pool
    for process in pool._pool:
        os.kill(process.pid, signal.SIGKILL)
        process.join()


def until(is_so: Callable[[], object], do: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < give_up_at
        do()


def begin(pool, hub, target, *arguments, **limits):
    """Have a job sent to the pool's process, and then the loop stand still as Celery's does."""
    quiet = {"callback": id, "error_callback": id}
    job = pool.apply_async(target, arguments, **quiet, **limits)
    until(lambda: job._write_to, hub.run_once)
    hub.reset()
    return job


def rest_a_second(job, pool, hub):
    """Do as Celery does between two tries to reach its broker, less the second."""
    return lambda: attend(pool, hub, [job]) or job.wait(0.01)


@pytest.mark.parametrize("size", [1, MANY_BYTES])
def test_a_result_is_taken(pool, hub, size):
    job = begin(pool, hub, bytes, size)

    until(job.ready, rest_a_second(job, pool, hub))

    assert job.get() == bytes(size)
    assert not pool._busy_workers


def test_a_hard_time_limit_comes_in_its_time_and_its_timer_is_known_as_the_jobs(pool, hub):
    job = begin(pool, hub, time.sleep, 60, timeout=0.2)
    until(lambda: job._accepted, rest_a_second(job, pool, hub))
    assert limits_of(pool, [job])

    until(job.ready, rest_a_second(job, pool, hub))

    assert isinstance(job._value.exception.exc, TimeLimitExceeded)
    assert not limits_of(pool, [job])


def test_other_jobs_are_left_to_the_loop(pool, hub):
    job = begin(pool, hub, bytes, 1)

    for _ in range(20):
        attend(pool, hub, [])
        job.wait(0.01)

    assert not job.ready()
