"""The same acceptance on every pool and broker."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from celery.concurrency import solo, thread
from celery.worker import state

from celery_lanes.worker.pools import pool_view
from tests.integration.accept import assert_accepted
from tests.integration.conftest import ROOT, until

POOLS = ["prefork", "threads", "gevent", "solo"]


@pytest.fixture(params=["redis", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def broker(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=POOLS)
def pool(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("intake", ["store", "broker"])
def test_lanes_work_on_every_pool_and_broker(make_shop, broker, pool, intake):
    shop = make_shop(broker, defaults=f'intake = "{intake}"')
    shop.worker(pool=pool, concurrency=1 if pool == "solo" else 4)

    assert_accepted(shop.tasks)


@pytest.mark.parametrize("intake", ["store", "broker"])
def test_lanes_work_within_one_process_on_the_memory_broker(make_shop, pool, intake):
    shop = make_shop()
    shop.store = shop.broker = "memory://"
    shop.configure(defaults=f'intake = "{intake}"')

    ran = subprocess.run(
        [sys.executable, "-m", "tests.integration.one_process", pool], cwd=ROOT, env=shop.full_env,
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip

    assert (ran.returncode, ran.stdout) == (0, "accepted\n"), ran.stderr


@pytest.mark.parametrize("kind", ["threads", "solo"])
def test_a_request_that_celery_forgets_to_settle_costs_no_place(kind):
    pool, stray = (thread if kind == "threads" else solo).TaskPool(1), Mock(id="stray")
    view = pool_view(SimpleNamespace(pool=pool))
    pool.start()
    fail = Mock(side_effect=MemoryError)

    with suppress(MemoryError):
        pool.apply_async(lambda: until(lambda: view.free() == 0), callback=fail)
    until(lambda: fail.called and view.free() == 1)
    state.task_reserved(stray)  # its callback has failed, and somebody keeps it
    left = view.free()
    state.task_ready(stray)
    pool.stop()

    assert left == 1
