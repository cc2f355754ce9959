"""Acknowledgements made together, on a real server: one round trip, and none is lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial

import pytest
from kombu import Connection, Queue
from kombu.message import Message

from celery_lanes.testing.embedded import EmbeddedValkey
from celery_lanes.worker.receipts import Receipts

MESSAGES = 5


@pytest.fixture
def server() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
def broker(server: EmbeddedValkey) -> Iterator[Connection]:
    with Connection(server.url(0)) as connection:
        yield connection


class Desk:
    """The thread of the broker, as the test opens its mail."""

    def __init__(self, broker: Connection) -> None:
        self.letters, self.errors = [], []
        self.receipts = Receipts(self.letters.append, lambda: broker.connection_errors)
        self._broker = broker

    def add(self, message: Message) -> None:
        self.receipts.add(message, partial(self._acknowledge, message))

    def open(self) -> None:
        while self.letters:
            self.letters.pop(0)()

    def _acknowledge(self, message: Message) -> None:
        try:
            message.ack()
        except self._broker.connection_errors as error:
            self.errors.append(error)


def received(broker: Connection, count: int = MESSAGES) -> list[Message]:
    queue, messages = Queue("q", channel=broker.default_channel), []
    queue.declare()
    for number in range(count):
        broker.Producer().publish(number, routing_key="q")
    channel = broker.channel()
    channel.basic_qos(0, count, False)
    with broker.Consumer([queue], channel=channel, on_message=messages.append):
        while len(messages) < count:
            broker.drain_events(timeout=5)
    return messages


def transactions(broker: Connection) -> int:
    stats = broker.default_channel.client.info("commandstats")
    return stats.get("cmdstat_exec", {"calls": 0})["calls"]


def unacknowledged(broker: Connection) -> tuple[int, int]:
    client = broker.default_channel.client
    return client.zcard("unacked_index"), client.hlen("unacked")


def test_messages_that_come_together_are_acknowledged_in_one_transaction(broker):
    desk, messages = Desk(broker), received(broker)
    assert unacknowledged(broker) == (MESSAGES, MESSAGES)
    qos, before = messages[0].channel.qos, transactions(broker)
    assert not qos.can_consume()

    for message in messages:
        desk.add(message)
    assert len(desk.letters) == 1
    desk.open()

    assert transactions(broker) == before + 1
    assert unacknowledged(broker) == (0, 0)
    assert all(message.acknowledged for message in messages)
    assert qos.can_consume_max_estimate() == MESSAGES


def test_one_message_is_acknowledged_as_ever(broker):
    desk, (message,) = Desk(broker), received(broker, 1)

    desk.add(message)
    desk.open()

    assert message.acknowledged
    assert unacknowledged(broker) == (0, 0)


def test_where_the_broker_is_away_each_message_meets_the_error_itself(broker, server):
    desk, messages = Desk(broker), received(broker)
    for message in messages:
        desk.add(message)

    server.stop()
    desk.open()

    assert len(desk.errors) == MESSAGES
    assert not any(message.acknowledged for message in messages)


class Interrupted(deque):
    """A deque in the middle of whose steps the other thread opens all its mail."""

    desk: Desk

    def append(self, receipt) -> None:
        self.desk.open()
        super().append(receipt)

    def __len__(self) -> int:
        length = super().__len__()
        self.desk.open()
        return length


def test_no_receipt_is_left_behind_whenever_the_other_thread_looks(broker):
    desk, signed = Desk(broker), []
    for number in range(3):
        desk.receipts.add(Message(), partial(signed.append, number))
    desk.receipts._waiting = Interrupted(desk.receipts._waiting)
    desk.receipts._waiting.desk = desk

    desk.receipts.add(Message(), partial(signed.append, 3))
    desk.open()

    assert signed == [0, 1, 2, 3]
