"""A producer that may not be needed is taken when it is used, and is then the real one."""

from __future__ import annotations

import pytest
from celery import Celery

from celery_lanes import Lanes, Settings


@pytest.fixture
def app():
    app = Celery("shop", broker="memory://", set_as_current=False)
    Lanes(app, Settings.parse({"store": {"url": "memory://producer"}}))
    yield app
    app.close()


def taken(app: Celery) -> int:
    return len(app.pool._dirty)


def test_a_publish_into_a_lane_takes_no_producer(app):
    with app.producer_or_acquire() as producer:
        app.send_task("ask", lane="ollama", producer=producer)

        assert taken(app) == 0


def test_a_producer_that_is_used_is_the_pools_own_and_goes_back(app):
    with app.producer_or_acquire() as producer:
        producer.publish("x", routing_key="plain", exchange="")

        assert taken(app) == 1
    assert taken(app) == 0


def test_a_producer_is_never_bound_to_the_connection_that_all_are_copies_of(app):
    """Celery revives a producer whose publish failed with the connection that it had before."""
    with app.producer_or_acquire() as producer:
        before = producer.connection
        producer.publish("x", routing_key="plain", exchange="")

        producer.revive(before)

        assert producer.connection is not before
    assert taken(app) == 0


def test_the_connection_of_a_producer_that_failed_is_closed(app):
    used = []

    def fail() -> None:
        with app.producer_or_acquire() as producer:
            producer.publish("x", routing_key="plain", exchange="")
            used.append(producer.connection)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert not used[0].connected


def test_the_apps_own_pool_stays_the_real_one(app):
    with app.producer_pool.acquire(block=True) as producer:
        assert taken(app) == 1
        assert producer.connection._pool is app.pool
