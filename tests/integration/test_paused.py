"""A worker that was paused for longer than its leases: it must stop what is another's by now."""

from __future__ import annotations

import signal

import pytest

from celery_lanes.testing.proxy import Proxy

LEASE_S = 3
STOPPED_WITHIN_S = 10  # of the 30 s that it would run; half a second where the disk keeps up


@pytest.fixture
def taken_over(make_shop, observer):
    """Make one paused worker whose running call another worker has taken over."""
    observer.service = 30

    def make(**options):
        shop = make_shop(lease_ttl=f"{LEASE_S}s", **options.pop("config", {}))
        for name, value in options.pop("shop", {}).items():
            setattr(shop, name, value)
        paused = shop.worker(concurrency=1)
        shop.tasks.ask_late.delay("ollama/x", observer.url, "key")
        observer.wait_until(lambda: observer.inside == 1)
        if before := options.pop("before_pause", None):
            before(paused)
        paused.signal_all(signal.SIGSTOP)
        return shop, paused

    yield make
    observer.service = 0


def test_a_body_is_stopped_when_its_worker_wakes_up_in_a_warm_shutdown(taken_over, observer):
    shop, paused = taken_over()
    shop.worker(concurrency=1)
    observer.wait_until(lambda: observer.inside == 2, timeout_s=LEASE_S + 5)

    paused.signal(signal.SIGTERM)
    paused.signal_all(signal.SIGCONT)

    observer.wait_until(lambda: observer.inside == 1, timeout_s=STOPPED_WITHIN_S)
    assert paused.wait(timeout_s=20) == 0


def test_a_body_is_stopped_while_the_worker_has_lost_its_broker(taken_over, observer, make_store):
    server = make_store()
    with Proxy(server.port) as proxy:

        def lose_broker(worker):
            proxy.cut()
            worker.wait_for_log("Cannot connect to")

        own = {"broker": f"redis://127.0.0.1:{proxy.port}/0"}
        shop, paused = taken_over(shop=own, before_pause=lose_broker)
        shop.broker = server.url(0)
        shop.worker(concurrency=1)
        observer.wait_until(lambda: observer.inside == 2, timeout_s=LEASE_S + 5)

        paused.signal_all(signal.SIGCONT)

        observer.wait_until(lambda: observer.inside == 1, timeout_s=STOPPED_WITHIN_S)
        assert paused.exit_code is None  # the body, not the worker
