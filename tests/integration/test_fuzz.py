"""Spoilt messages and envelopes: no worker dies, each ends as a dead letter or stays with Celery.

``LANES_FUZZ=200000`` spoils that many, ``LANES_FUZZ_SEED=7`` others; ``-rP`` shows the counts.
"""

from __future__ import annotations

import logging
import math
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import SimpleNamespace

import pytest
from celery.concurrency.solo import TaskPool
from celery.worker import state
from celery.worker.consumer import Consumer
from kombu.serialization import prepare_accept_content
from kombu.transport.virtual.base import Base64, Message
from kombu.utils.json import loads
from redis import Redis

from celery_lanes.store.calls import Call
from celery_lanes.store.memory.store import MemoryStore
from celery_lanes.store.rules import Policy
from celery_lanes.worker.consumer import lane_consumer
from celery_lanes.worker.dispatch import Dispatcher
from celery_lanes.worker.malformed import MALFORMED
from celery_lanes.worker.pools import Solo
from celery_lanes.worker.postman import HubPostman
from celery_lanes.worker.receipts import Receipts
from celery_lanes.worker.step import WorkerLanes
from tests.integration.conftest import until
from tests.integration.mutants import Mutator, payload_of, wire_form

MUTANTS = int(os.environ.get("LANES_FUZZ", "0"))
SEED = int(os.environ.get("LANES_FUZZ_SEED", "1"))
ACCEPTED = ["json", "pickle", "msgpack", "yaml"]
LASTING = 'max_leases = 2\ndedupe_ttl = "1d"'

pytestmark = [
    pytest.mark.timeout(120 + MUTANTS // 100),
    # Celery's own, about odd task ids and about redis-py
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


class Channel:
    """What a message needs of a broker's channel."""

    no_ack_consumers = None

    def decode_body(self, body, encoding=None):
        return Base64().decode(body) if encoding == "base64" else body

    def basic_ack(self, tag, multiple=False):
        pass

    def basic_reject(self, tag, requeue=False):
        pass


class OneThread:
    """A whole worker in the test's thread: real receiving, real store thread's rounds, real bodies.

    Only the broker's channel is made up, and the clock.
    """

    def __init__(self, tasks):
        self.now = 1_700_000_000_000
        self.store = MemoryStore(clock=lambda: self.now)
        self.admitted = []
        lanes = tasks.lanes
        lanes.parts.open_store = lambda: self.store
        lanes.parts.store = self.store
        worker = self._worker(tasks.app)
        self.lanes = worker.lanes = WorkerLanes(worker, lanes.parts)
        self.lanes.postman = HubPostman()
        self.lanes.receipts = Receipts(self.lanes.postman.deliver, lambda: ())
        self.lanes._view = Solo(worker.pool)
        self.lanes.dispatcher = Dispatcher(worker, lanes.settings, self.lanes._view)
        self.consumer = worker.consumer
        self.consumer.update_strategies()
        self.receive = self.consumer.create_task_handler()
        self.accept = prepare_accept_content(tasks.app.conf.accept_content)
        self._note_admissions(self.lanes.agent)
        self.lanes.open([lanes.settings.queue("ollama")])

    def take(self, wire):
        """Take one message off the queue; say what became of it there."""
        message = Message(loads(wire), channel=Channel())
        message.accept = self.accept
        before = len(self.admitted)
        try:
            if message.errors:
                message._reraise_error(self.consumer.on_decode_error)
            else:
                self.receive(message)
        except MALFORMED:  # readable, and its routing key names no lane: plain Celery's affair
            assert self.consumer._is_plain(message)
            state.reserved_requests.clear()
            return "celery"
        if len(self.admitted) > before:
            return "admitted"
        self.consumer.perform_pending_operations()  # Celery 5.5 acknowledges later
        assert message.acknowledged, message._raw
        return "celery"

    def work(self):
        """Turn until nothing is left to do now."""
        agent = self.lanes.agent
        for _ in range(1000):
            agent._work(heard=False)
            self.lanes.postman._box.open()
            if agent._next_share() is None and not agent._mail._letters:
                return
        raise AssertionError("the store thread spins")

    def work_on(self):
        """Let the time pass that strange calls wait for."""
        for _ in range(10):
            self.pass_time(1500)
            self.work()

    def close(self):
        self.lanes.agent._link.close()
        self.lanes.agent._mail.close()
        self.lanes.postman._box.close()

    def pass_time(self, ms):
        self.now += ms
        self.lanes.agent._tick_at = 0

    def _worker(self, app):
        worker = SimpleNamespace(
            app=app, pool=TaskPool(), hostname="fuzz@here", hub=None, semaphore=None,
            pool_putlocks=False, state=state, use_eventloop=False,
        )  # fmt: skip
        consumer = lane_consumer(Consumer)(
            lambda request: request.execute_using_pool(worker.pool), app=app, pool=worker.pool,
            hostname=worker.hostname, controller=worker, timer=SimpleNamespace(call_at=None),
        )  # fmt: skip
        consumer.task_consumer = consumer.event_dispatcher = consumer.qos = None
        worker.consumer = consumer
        return worker

    def _note_admissions(self, agent):
        admit = agent.admit

        def noting(lane, call, taken):
            self.admitted.append(call.id)
            admit(lane, call, taken)

        agent.admit = noting


@pytest.fixture
def one_thread(make_shop):
    shop = make_shop()
    shop.broker, shop.backend, shop.store = "memory://", "cache+memory://", "memory://"
    shop.conf = {"accept_content": ACCEPTED}
    with in_silence(), closing(OneThread(shop.configure(defaults=LASTING).tasks)) as worker:
        yield worker


@contextmanager
def in_silence() -> Iterator[None]:
    """Log nothing, of thousands of spoilt messages."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@pytest.fixture
def complaints(monkeypatch):
    """What must never be logged: a round of the store thread or a letter that has failed."""
    found = []
    for module in ("agent", "postman"):
        logger = logging.getLogger(f"celery_lanes.worker.{module}")
        monkeypatch.setattr(logger, "exception", lambda *words: found.append(words))
    return found


def test_spoilt_messages_and_envelopes_end_as_dead_letters_or_stay_with_celery(
    one_thread, complaints
):
    mutator, count = Mutator(one_thread.consumer.app, "lanes.ollama", SEED), MUTANTS or 8_000
    came_to, stored = Counter(), []

    for number in range(count):
        if number % 4 == 3:
            stored.append(f"stored-{number}")
            one_thread.store.admit("ollama", [stray(stored[-1], mutator)], policy=Policy.FAIR)
        else:
            came_to[one_thread.take(wire_form(mutator.message()))] += 1
        if number % 50 == 0:
            one_thread.pass_time(1500)
            one_thread.work()
    one_thread.work_on()

    sys.stdout.write(f"{came_to}, {len(stored)} stored: {one_thread.store.snapshot('ollama')}\n")
    assert not complaints
    assert sum(came_to.values()) + len(stored) == count
    assert min(came_to["admitted"], came_to["celery"]) > count // 10  # both ways were tried
    assert busy(one_thread.store) == 0
    ledger = one_thread.store._lanes["ollama"]
    assert not {*one_thread.admitted, *stored} - {*ledger.settled, *ledger.delayed}
    assert one_thread.store.snapshot("ollama").dead > min(count // 100, 500)


def stray(name, mutator):
    """Make a call whose message is none."""
    return Call(id=name, task_id=name, task="t", envelope=mutator.envelope())


@pytest.mark.parametrize(
    ("part", "values"),
    [
        pytest.param("headers", {"id": ...}, id="no-id"),
        pytest.param("headers", {"task": []}, id="task-is-a-list"),
        pytest.param("headers", {"timelimit": ["a", "b"]}, id="time-limits-are-text"),
        pytest.param("headers", {"timelimit": [math.nan, None]}, id="time-limit-is-nan"),
        pytest.param("headers", {"stamped_headers": 0.5}, id="stamped-headers-are-a-number"),
        pytest.param("headers", {"x-death": 7, "lanes": ...}, id="x-death-is-a-number"),
        pytest.param("headers", {"lanes": {"priority": True}}, id="priority-is-true"),
        pytest.param("headers", {"lanes": {"cost": 10**400}}, id="cost-is-huge"),
        pytest.param("headers", {"lanes": {"nonce": "\ud800"}}, id="nonce-is-half-a-character"),
        pytest.param("properties", {"priority": True}, id="broker-priority-is-true"),
        pytest.param(
            "properties",
            {"delivery_info": {"exchange": "", "routing_key": [7]}},
            id="routing-key-is-a-list",
        ),
        pytest.param("properties", {"body_encoding": ...}, id="body-is-a-number"),
    ],
)
def test_a_message_with_one_thing_wrong_holds_up_nothing(one_thread, complaints, part, values):
    message, good = (message_of(one_thread.consumer.app, name) for name in ("odd", "good"))
    message[part].update(values)
    message[part] = {k: v for k, v in message[part].items() if v is not ...}
    if "body_encoding" in values:
        message["body"] = 10**12

    for payload in (message, good):
        one_thread.take(wire_form(payload))
    one_thread.work_on()

    assert not complaints
    assert busy(one_thread.store) == 0
    assert one_thread.lanes.free() == 1
    assert one_thread.consumer.app.AsyncResult("good").get(timeout=1) == "fine"


def test_distinct_nonces_that_cannot_be_encoded_stay_distinct_calls(one_thread):
    for name, nonce in (("a", "\ud800"), ("b", "\udfff")):
        message = message_of(one_thread.consumer.app, name)
        message["headers"]["lanes"] = {"nonce": nonce}
        one_thread.take(wire_form(message))
    one_thread.work_on()

    assert one_thread.consumer.app.AsyncResult("a").get(timeout=1) == "fine"
    assert one_thread.consumer.app.AsyncResult("b").get(timeout=1) == "fine"


@pytest.mark.parametrize(
    "envelope",
    [b"", b"[]\nx", b'[false,null,null,[],{}]\n{"a":1}', b'[false,null,null,{"id":""},{}]\n'],
    ids=["empty", "list", "no-headers", "no-task"],
)
def test_a_stored_message_that_is_none_becomes_a_dead_letter(one_thread, complaints, envelope):
    call = Call(id="c", task_id="t", task="t", envelope=envelope)
    one_thread.store.admit("ollama", [call], policy=Policy.FAIR)

    one_thread.work_on()

    assert not complaints
    assert busy(one_thread.store) == 0
    assert one_thread.store.snapshot("ollama").dead == 1


def test_calls_that_the_pool_refuses_give_their_slots_of_the_pool_back(make_shop):
    shop = make_shop(defaults="max_leases = 1")
    shop.worker(pool="prefork", concurrency=1)
    broker, app = Redis.from_url(shop.broker), shop.tasks.app

    for name in ("odd-1", "odd-2", "good"):
        message = message_of(app, name)
        if name != "good":
            message["headers"]["stamped_headers"] = 0.5
        broker.lpush(shop.queue("ollama"), wire_form(message))

    assert app.AsyncResult("good").get(timeout=15) == "fine"


def message_of(app, task_id):
    """Make a good message as kombu puts it on the lane's queue."""
    echo = "tests.integration.shop.echo"
    message = app.amqp.as_task_v2(task_id, echo, ("ollama/x", "fine"))
    return payload_of(message, "lanes.ollama", "json", None, random.Random(task_id))


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_real_worker_outlives_spoilt_messages_and_serves_the_good_ones_between(make_shop, pool):
    shop = make_shop(defaults=LASTING.replace("2", "1", 1))
    shop.conf = {"accept_content": ["json", "msgpack", "yaml"]}  # Celery lets root read no pickle
    tasks, queue = shop.tasks, shop.queue("ollama")
    store = tasks.lanes.parts.open_store()
    broker, kept = Redis.from_url(shop.broker), Redis.from_url(shop.store)
    mutator, count = Mutator(tasks.app, queue, SEED), (MUTANTS // 4) or 1_500
    worker = shop.worker(pool=pool)
    pid, good, stored, wires = worker.pid, [], [], []

    for number in range(count):
        if number % 4 == 3:
            stored.append(f"stored-{number}")
            store.admit("ollama", [stray(stored[-1], mutator)], policy=Policy.FAIR)
        else:
            wires.append(wire_form(mutator.message()))
            broker.lpush(queue, wires[-1])
        if number % 50 == 0:
            good.append(tasks.app.AsyncResult(f"good-{number}"))
            broker.lpush(queue, wire_form(message_of(tasks.app, good[-1].id)))
    expected = {*admitted_of(tasks, wires), *stored}

    for result in good:
        assert result.get(timeout=30 + count / 50) == "fine"
    until(lambda: broker.llen(queue) + broker.hlen("unacked") + busy(store) == 0, timeout_s=60)
    assert worker.exit_code is None
    assert worker.pid == pid
    assert "the store thread failed" not in worker.log()
    sys.stdout.write(f"{len(expected)} of {count} were calls: {store.snapshot('ollama')}\n")
    settled = kept.zrange("{lanes:ollama}:settled", 0, -1)
    delayed = kept.zrange("{lanes:ollama}:delayed", 0, -1)
    assert not expected - {call.decode() for call in (*settled, *delayed)}
    assert store.snapshot("ollama").dead > min(len(stored) // 4, 500)


def admitted_of(tasks, wires):
    """Say which of the messages are calls: the rest stays with Celery."""
    with in_silence(), closing(OneThread(tasks)) as oracle:
        for wire in wires:
            oracle.take(wire)
        return oracle.admitted


def busy(store):
    snapshot = store.snapshot("ollama")
    return snapshot.running + snapshot.waiting + snapshot.closing
