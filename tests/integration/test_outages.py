"""Sequences that once lost or doubled calls, found by a hostile review."""

from __future__ import annotations

import os
import pickle
import signal
from datetime import datetime, timezone

import pytest
from celery import exceptions
from celery.app.defaults import DEFAULTS
from kombu.exceptions import ContentDisallowed
from redis import Redis

from celery_lanes.testing.proxy import Proxy
from tests.integration.conftest import Shop, running, until, waiting


@pytest.mark.parametrize("moment", range(3))
def test_a_warm_stop_under_load_neither_loses_nor_keeps_a_granted_call(shop, moment):
    worker = shop.worker(concurrency=4)
    results = [shop.tasks.echo.delay("ollama/x", n) for n in range(600)]
    until(lambda: waiting(shop) < 600 - 40 * moment)

    worker.stop()

    assert running(shop) == 0
    shop.worker(pool="threads", concurrency=8)
    assert [result.get(timeout=20) for result in results] == list(range(600))


@pytest.mark.parametrize("is_late", [True, False], ids=["late", "early"])
def test_what_ended_during_a_long_outage_of_the_store_does_not_run_again(
    make_shop, make_store, is_late
):
    store, shop = make_store(), make_shop()
    with Proxy(store.port) as proxy:
        shop.store = f"redis://127.0.0.1:{proxy.port}/0"
        worker = shop.configure(lease_ttl="30s").worker(concurrency=3)
        sleep = shop.tasks.sleep_late if is_late else shop.tasks.sleep
        short, long = sleep.delay("ollama/x", 1), sleep.delay("ollama/x", 12)
        worker.wait_for_log("begins to sleep", times=2)

        proxy.cut()
        short.get(timeout=10)
        worker.wait_for_log("is away")
        with pytest.raises(exceptions.TimeoutError):
            long.get(timeout=7)  # longer than a lease may go unnamed
        proxy.restore()

        assert long.get(timeout=20) == "slept"
        until(lambda: (running(shop), waiting(shop)) == (0, 0))
    assert worker.log().count("begins to sleep") == 2


def test_calls_end_and_reach_their_limits_while_the_worker_waits_for_its_broker(
    make_shop, make_store
):
    server, shop = make_store(), make_shop()
    with Proxy(server.port) as proxy:
        shop.broker = f"redis://127.0.0.1:{proxy.port}/0"
        worker = shop.worker(concurrency=2)
        short = shop.tasks.sleep_late.delay("ollama/x", 3)
        endless = shop.tasks.sleep_late.apply_async(("ollama/x", 60), time_limit=4)
        worker.wait_for_log("begins to sleep", times=2)

        proxy.cut()
        worker.wait_for_log("Cannot connect to")

        until(lambda: running(shop) == 0)
        assert short.get(timeout=5) == "slept"
        with pytest.raises(exceptions.TimeLimitExceeded):
            endless.get(timeout=5)


def test_an_eta_long_past_does_not_hold_up_the_lane(make_shop):
    shop = make_shop(defaults='intake = "broker"')
    shop.worker(pool="threads")
    eta = datetime(1960, 1, 1, tzinfo=timezone.utc)

    odd = shop.tasks.echo.apply_async(("ollama/x", 1), eta=eta)

    assert shop.tasks.echo.delay("ollama/x", 2).get(timeout=10) == 2
    assert odd.get(timeout=10) == 1


def test_a_protocol_1_call_with_an_eta_runs_once(shop):
    worker = shop.worker(pool="threads", concurrency=4)
    shop.tasks.app.conf.task_protocol = 1

    result = shop.tasks.sleep.apply_async(("ollama/x", 0.1), countdown=0.5)

    assert result.get(timeout=10) == "slept"
    until(lambda: (running(shop), waiting(shop)) == (0, 0))
    assert worker.log().count("begins to sleep") == 1


def test_a_full_store_still_takes_releases_while_arrivals_wait(make_shop, make_store):
    store, shop = make_store(), make_shop()
    shop.store = store.url(0)
    shop.configure(defaults='intake = "broker"').worker(pool="threads")
    first = [shop.tasks.sleep.delay("ollama/x", 1) for _ in range(2)]
    until(lambda: running(shop) == 2)
    server = Redis.from_url(store.url(0))
    server.config_set("maxmemory-policy", "noeviction")
    server.config_set("maxmemory", 1)

    later = [shop.tasks.echo.delay("ollama/x", n) for n in range(3)]
    assert [result.get(timeout=10) for result in first] == ["slept", "slept"]
    until(lambda: running(shop) == 0)

    server.config_set("maxmemory", 0)
    assert [result.get(timeout=15) for result in later] == [0, 1, 2]


def test_a_cancelled_call_that_cannot_be_decoded_ends_as_a_failure(shop):
    result = shop.tasks.echo.apply_async(("ollama/x", 1), serializer="pickle")
    assert shop.tasks.lanes.parts.store.cancel("ollama", result.id) == 1

    shop.worker()

    with pytest.raises(ContentDisallowed):
        result.get(timeout=10)
    until(lambda: shop.tasks.lanes.parts.store.snapshot("ollama").closing == 0)


def test_results_can_be_pickled(shop):
    result = shop.tasks.app.AsyncResult("some-id")

    assert pickle.loads(pickle.dumps(result.backend)).url == result.backend.url


@pytest.mark.skipif(
    "worker_pool_start_method" not in DEFAULTS, reason="Celery before 5.7 cannot spawn"
)
def test_a_worker_that_would_spawn_its_processes_says_so_and_does_not_start(shop):
    with pytest.raises(RuntimeError, match="worker_pool_start_method"):
        shop.worker(conf={"worker_pool_start_method": "spawn"})


@pytest.mark.rabbitmq
def test_no_message_is_acknowledged_before_the_store_has_it(make_shop, make_store):
    store, shop = make_store(), make_shop("rabbitmq")
    shop.store = store.url(0)
    worker = shop.configure(defaults='intake = "broker"').worker()
    assert shop.tasks.echo.delay("ollama/x", 1).get(timeout=10) == 1

    os.kill(store.pid, signal.SIGSTOP)
    result = shop.tasks.echo.delay("ollama/x", 2)  # the worker takes it at once, and cannot park it
    worker.wait_for_log("is away")
    worker.kill()
    os.kill(store.pid, signal.SIGCONT)
    shop.worker()

    assert result.get(timeout=20) == 2


@pytest.mark.rabbitmq
def test_a_green_worker_takes_up_its_lanes_queue_again_when_the_store_is_back(
    make_shop, make_store
):
    store, shop = make_store(), make_shop("rabbitmq")
    shop.store = store.url(0)
    worker = shop.configure(defaults='intake = "broker"').worker(pool="gevent", queues=["plain"])
    assert shop.tasks.echo.delay("ollama/x", 0).get(timeout=10) == 0

    os.kill(store.pid, signal.SIGSTOP)
    worker.wait_for_log("is away")
    until(lambda: consumers(shop) == 0)
    plain = shop.tasks.plain.delay().get(timeout=10)
    os.kill(store.pid, signal.SIGCONT)

    assert plain == "plain"
    assert shop.tasks.echo.delay("ollama/x", 1).get(timeout=15) == 1
    assert "Traceback" not in worker.log()


def test_plain_tasks_go_on_while_more_lane_messages_than_fit_wait_for_the_store(
    make_shop, make_store
):
    store, shop = make_store(), make_shop()
    shop.store = store.url(0)
    shop.configure(defaults='intake = "broker"')
    window = {"worker_prefetch_multiplier": 1}
    worker = shop.worker(queues=["plain"], pool="threads", concurrency=2, conf=window)
    assert shop.tasks.echo.delay("ollama/x", 0).get(timeout=10) == 0

    os.kill(store.pid, signal.SIGSTOP)
    early = [shop.tasks.echo.delay("ollama/x", n) for n in range(5)]
    worker.wait_for_log("is away")
    late = [shop.tasks.echo.delay("ollama/x", n) for n in range(5)]
    plain = [shop.tasks.plain.delay().get(timeout=10) for _ in range(3)]
    os.kill(store.pid, signal.SIGCONT)

    assert plain == ["plain"] * 3
    assert [result.get(timeout=15) for result in early + late] == [*range(5), *range(5)]


def consumers(shop: Shop, lane: str = "ollama") -> int:
    """Count who consumes a lane's queue, as the broker says."""
    with shop.tasks.app.connection() as connection:
        declared = connection.default_channel.queue_declare(shop.queue(lane), passive=True)
        return declared.consumer_count
