"""Acknowledgements of what came by the broker and is in the store now, made together.

On Redis each costs kombu a client, a transaction and a round trip; so those that come together
share them. The rest is as Celery does it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from kombu.message import Message
from kombu.transport import redis, virtual

Receipt = tuple[Message, Callable[[], Any]]


class Receipts:
    """Collects receipts from the store thread, and signs them in the thread of the broker."""

    def __init__(
        self, deliver: Callable[..., None], errors: Callable[[], tuple[type, ...]]
    ) -> None:
        """Take what brings a call into that thread, and what a broken connection may raise."""
        self._deliver = deliver
        self._errors = errors
        self._waiting: deque[Receipt] = deque()

    def add(self, message: Message, acknowledge: Callable[[], Any]) -> None:
        """Have a message acknowledged, soon."""
        self._waiting.append((message, acknowledge))
        if len(self._waiting) == 1:  # else one is being signed, or about to be, and then this one
            self._deliver(self._sign)

    def _sign(self) -> None:
        receipts = list(_taken(self._waiting))
        try:
            with suppress(*self._errors()):  # Celery logs that, message by message
                take_off([message for message, _ in receipts])
        finally:
            for _, acknowledge in receipts:
                self._deliver(acknowledge)  # by itself: one that fails is not to stop the others


def take_off(messages: Sequence[Message]) -> None:
    """Take messages off a Redis broker in one round trip; what is left to do is in memory.

    They come from one channel, but for those of a connection that has just been lost.
    """
    channel = messages[-1].channel if messages else None
    qos = getattr(channel, "qos", None)
    alike = [message for message in messages if message.channel is channel]
    if len(alike) > 1 and isinstance(qos, redis.QoS):
        _take_off(alike, qos)


def _take_off(messages: Sequence[Message], qos: redis.QoS) -> None:
    with qos.pipe_or_acquire() as pipe:
        for message in messages:
            qos._remove_from_indices(message.delivery_tag, pipe)
        pipe.execute()
    for message in messages:
        message.channel = _TakenOff(qos)


class _TakenOff:
    """Stands for the channel of a message that the server has forgotten already."""

    no_ack_consumers = None

    def __init__(self, qos: redis.QoS) -> None:
        self._qos = qos

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        """Make room in the prefetch window."""
        virtual.QoS.ack(self._qos, delivery_tag)


def _taken(waiting: deque[Receipt]) -> Iterator[Receipt]:
    with suppress(IndexError):
        while True:
            yield waiting.popleft()
