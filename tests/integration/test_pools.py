"""The same acceptance on every pool and broker."""

from __future__ import annotations

import pytest
from celery.contrib.testing.worker import start_worker
from celery.exceptions import WorkerLostError

from celery_lanes import CallInfo, call_context

POOLS = ["prefork", "threads", "gevent", "solo"]


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=POOLS)
def pool(request: pytest.FixtureRequest) -> str:
    return request.param


def accept(tasks) -> None:
    """Results, attribution, errors and a silent end are what plain Celery's users expect."""
    with call_context(caller="alice", run_id="r1"):
        results = [tasks.echo.delay("ollama/x", n) for n in range(30)]
        failed = tasks.fail.delay("ollama/x")
        gone = tasks.leave.delay("ollama/x")

    assert [result.get(timeout=20) for result in results] == list(range(30))
    with pytest.raises(ValueError, match=r"^boom$") as caught:
        failed.get(timeout=20)
    assert CallInfo.from_error(caught.value).caller == "alice"
    with pytest.raises(WorkerLostError) as lost:
        gone.get(timeout=20)
    assert CallInfo.from_error(lost.value).run_id == "r1"


@pytest.mark.parametrize("intake", ["store", "broker"])
def test_lanes_work_on_every_pool_and_broker(make_shop, broker, pool, intake):
    shop = make_shop(broker, defaults=f'intake = "{intake}"')
    shop.worker(pool=pool, concurrency=1 if pool == "solo" else 4)

    accept(shop.tasks)


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_lanes_work_within_one_process_on_the_memory_broker(make_shop, pool):
    shop = make_shop()
    shop.store = shop.broker = "memory://"
    shop.backend = "cache+memory://"
    tasks = shop.configure().tasks
    tasks.app.amqp.queues.select([shop.queue("ollama")])

    with start_worker(
        tasks.app, pool=pool, concurrency=4, perform_ping_check=False, shutdown_timeout=20
    ):
        assert tasks.echo.delay("ollama/x", 1).get(timeout=20) == 1
        seen = tasks.whose.apply_async(("ollama/x",), caller="bob").get(timeout=20)

    assert (seen["caller"], seen["lane"]) == ("bob", "ollama")
