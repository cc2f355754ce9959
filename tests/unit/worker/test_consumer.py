"""Celery's consumer with lanes while the broker is lost, and while the store is away."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from inspect import signature
from types import SimpleNamespace

import pytest
from celery.concurrency.asynpool import AsynPool
from celery.worker.consumer import Consumer
from kombu import Connection, Queue
from kombu.asynchronous import Hub
from kombu.common import QoS

from celery_lanes import Settings
from celery_lanes.worker.consumer import LaneConsumer
from celery_lanes.worker.reconnect import jobs_kept


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


def test_tasks_that_have_come_since_are_watched_before_celery_traces_them(monkeypatch):
    done = []
    consumer = LaneConsumer.__new__(LaneConsumer)
    consumer.controller = SimpleNamespace(
        lanes=SimpleNamespace(
            watch_bodies=lambda: done.append("watch"),
            dispatcher=SimpleNamespace(forget=lambda _: done.append("forget")),
        )
    )
    monkeypatch.setattr(Consumer, "update_strategies", lambda _: done.append("trace"))

    consumer.update_strategies()

    assert done == ["watch", "trace", "forget"]


ALL, NONE = frozenset({"x", "y"}), frozenset()


class OfTwoLanes(LaneConsumer):
    """A consumer without a worker; it has no event loop."""

    hub = None

    def __init__(self, connection: Connection, *, window: int, eta_limit: int | None) -> None:
        queues = [Queue("lanes.x"), Queue("lanes.y"), Queue("plain")]
        self._held, self._widened_by, self._pending_operations = frozenset(), 0, deque()
        self.unadmitted = set(range(window))
        self.task_consumer = connection.Consumer(queues, on_message=list)
        self.task_consumer.consume()
        self.sent: list[int] = []
        limit = {} if eta_limit is None else {"max_prefetch": eta_limit}
        self.qos = QoS(self._send, window, **limit)
        self.app = SimpleNamespace(
            amqp=SimpleNamespace(queues=SimpleNamespace(consume_from={q.name: q for q in queues})),
            lanes=SimpleNamespace(settings=Settings()),
        )

    def _send(self, prefetch_count: int) -> None:
        self.sent.append(prefetch_count)

    @property
    def is_consuming(self) -> bool:
        return self.task_consumer.consuming_from("lanes.x")

    @property
    def consumed(self) -> list[str]:
        return [q.name for q in self.task_consumer.queues]


@pytest.fixture
def make_consumer() -> Iterator[Callable[..., OfTwoLanes]]:
    with Connection("memory://") as connection:
        yield lambda window=8, eta_limit=None: OfTwoLanes(
            connection, window=window, eta_limit=eta_limit
        )


def test_without_an_event_loop_the_queues_are_held_between_two_reads(make_consumer):
    consumer = make_consumer()

    consumer.hold_lane_queues(ALL)

    assert (consumer.is_consuming, consumer.sent) == (True, [])
    consumer.perform_pending_operations()
    assert (consumer.is_consuming, consumer.sent) == (False, [16])


def test_of_two_wishes_the_last_counts_also_if_celery_takes_it_first(make_consumer):
    consumer = make_consumer()

    consumer.hold_lane_queues(ALL)
    consumer.hold_lane_queues(NONE)
    consumer._pending_operations.reverse()  # Celery 5.5 pops
    consumer.perform_pending_operations()

    assert (consumer.is_consuming, consumer.qos.value) == (True, 8)


def test_only_the_queues_are_held_of_lanes_that_are_away(make_consumer):
    consumer = make_consumer()

    for held, consumed in [({"x"}, "yp"), (ALL, "p"), ({"y"}, "px"), (NONE, "pxy")]:
        consumer.hold_lane_queues(frozenset(held))
        consumer.perform_pending_operations()
        assert [name.removeprefix("lanes.")[0] for name in consumer.consumed] == list(consumed)


ETA_LIMITS = {"no limit": None, "above": 20, "cuts": 10, "equal": 8, "below": 5}


@pytest.mark.skipif(
    "max_prefetch" not in signature(QoS).parameters, reason="kombu before 5.6 has no such limit"
)
@pytest.mark.parametrize("eta_limit", ETA_LIMITS.values(), ids=ETA_LIMITS)
def test_the_prefetch_window_is_after_an_outage_what_it_was(make_consumer, eta_limit):
    consumer = make_consumer(window=8, eta_limit=eta_limit)

    for _ in range(3):
        consumer.hold_lane_queues(ALL)
        consumer.perform_pending_operations()
        consumer.hold_lane_queues(NONE)
        consumer.perform_pending_operations()

    assert (consumer.qos.value, consumer.qos.prev) == (8, 8)
