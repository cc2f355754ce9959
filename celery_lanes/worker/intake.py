"""The worker's kombu consumer, which knows the queue that each message came from.

A message's own word does not say it: its routing key is what the producer wrote, or one of native
delayed delivery, and on Redis its delivery names no consumer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from kombu import Consumer


class LaneQueueConsumer(Consumer):  # type: ignore[misc] # kombu is not typed
    """Notes the queue of the message at hand; a message is received from begin to end in one go."""

    queue_at_hand: str | None = None

    def _basic_consume(self, queue: Any, *args: Any, **options: Any) -> Any:
        return super()._basic_consume(_NotedQueue(queue, self), *args, **options)


class _NotedQueue:
    """A queue that notes its name before each message."""

    def __init__(self, queue: Any, consumer: LaneQueueConsumer) -> None:
        self._queue = queue
        self._consumer = consumer

    def consume(self, tag: str, callback: Callable[[Any], Any], **options: Any) -> Any:
        """Consume as the queue does."""
        return self._queue.consume(tag, partial(self._receive, callback), **options)

    def _receive(self, callback: Callable[[Any], Any], message: Any) -> Any:
        self._consumer.queue_at_hand = self._queue.name
        return callback(message)

    def __getattr__(self, name: str) -> Any:
        """Be the queue in everything else."""
        return getattr(self._queue, name)
