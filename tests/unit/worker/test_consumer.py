"""What Celery does to its pool when the broker is lost, and what it must not do to lane calls."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from celery.concurrency.asynpool import AsynPool
from kombu.asynchronous import Hub

from celery_lanes.worker.consumer import jobs_kept


@pytest.fixture
def pool() -> Iterator[AsynPool]:
    """Make a pool of one process whose event loop does not turn: it is sent nothing."""
    pool, hub = AsynPool(processes=1, threads=False), Hub()
    pool.register_with_event_loop(hub)
    yield pool
    for process in pool._pool:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    hub.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_lane_job_that_no_process_has_been_sent_yet_stays_in_the_pool(pool):
    lanes, plain = pool.apply_async(abs, (-1,)), pool.apply_async(abs, (-2,))
    assert list(pool.outbound_buffer) == [lanes, plain]

    with jobs_kept(SimpleNamespace(_pool=pool), [lanes]):
        pool.flush()

    assert list(pool.outbound_buffer) == [lanes]
    assert list(pool._cache.values()) == [lanes]
