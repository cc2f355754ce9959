"""Kombu's producer as a lane needs it: its message goes elsewhere, or it is not needed at all.

A call that goes into the lane store needs no broker. Celery takes a producer out of its pool for
every publish all the same, and binds it to a channel, which takes longer than the publish.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any


class AdmittingProducer:
    """A producer whose next publish goes to the lane store; later ones to the broker.

    Celery's event dispatcher publishes ``task-sent`` with the very same producer, so exactly one
    publish is ours. A publish that failed is still ours when it is tried again.
    """

    def __init__(self, producer: Any, admit: Callable[..., bool]) -> None:
        self._producer = producer
        self._admit: Callable[..., bool] | None = admit

    def publish(self, body: Any, **options: Any) -> Any:
        """Admit the first publish, pass on the rest."""
        if self._admit is None:
            return self._producer.publish(body, **options)
        if not self._admit(body, **options):
            self._producer.publish(body, **options)
        self._admit = None
        return None

    def __getattr__(self, name: str) -> Any:
        """Be the real producer in everything else."""
        return getattr(self._producer, name)


def lazily(app: Any) -> Callable[..., Any]:
    """Give ``app.producer_or_acquire`` anew: what it acquires is taken when it is used."""
    usual = app.producer_or_acquire

    def producer_or_acquire(producer: Any = None) -> Any:
        return usual(producer) if producer is not None else LazyProducer(app, usual)

    return producer_or_acquire


class LazyProducer:
    """A producer that is taken out of its pool at the first use, and goes back with the block."""

    def __init__(self, app: Any, acquire: Callable[[], AbstractContextManager[Any]]) -> None:
        self._app, self._acquire = app, acquire
        self._context: AbstractContextManager[Any] | None = None
        self._taken: Any = None

    @property
    def connection(self) -> Any:
        """Give the real producer's connection; before that, what all of the pool are copies of."""
        return self._pattern if self._taken is None else self._taken.connection

    def revive(self, channel: Any) -> None:
        """Bind the real producer anew, never to the pattern; one not in use needs no reviving."""
        if self._taken is not None:
            is_pattern = channel is self._pattern
            self._taken.revive(self._taken.connection if is_pattern else channel)

    def __enter__(self) -> LazyProducer:  # noqa: PYI034 # Python 3.10 has no Self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        context, self._context, self._taken = self._context, None, None
        if context is not None:
            context.__exit__(kind, error, trace)

    def __getattr__(self, name: str) -> Any:
        """Be the real producer in everything else."""
        if self._taken is None:
            self._context = self._acquire()
            self._taken = self._context.__enter__()
        return getattr(self._taken, name)

    @property
    def _pattern(self) -> Any:
        return self._app.producer_pool.connections.connection
