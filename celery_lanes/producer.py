"""Kombu's producer as a lane needs it: its message goes elsewhere, or it is not needed at all.

A call that goes into the lane store needs no broker. Celery takes a producer out of its pool for
every publish all the same, and binds it to a channel, which takes longer than the publish.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kombu.exceptions import LimitExceeded, OperationalError


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


class LazyProducers:
    """The app's pool of producers; what it gives takes a real one only when that is used."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def acquire(self, block: bool = False, timeout: float | None = None) -> LazyProducer:  # noqa: FBT001, FBT002 # kombu's
        """Promise a producer."""
        return LazyProducer(self._pool, block=block, timeout=timeout)

    def __getattr__(self, name: str) -> Any:
        """Be the real pool in everything else."""
        return getattr(self._pool, name)


class LazyProducer:
    """A producer that is taken out of its pool at the first use, and goes back with the block."""

    def __init__(self, pool: Any, *, block: bool, timeout: float | None) -> None:
        self._pool, self._block, self._timeout = pool, block, timeout
        self._taken: Any = None

    @property
    def connection(self) -> Any:
        """Give the real producer's connection, or one that leads to the same place."""
        return self._pool.connections.connection if self._taken is None else self._taken.connection

    def revive(self, channel: Any) -> None:
        """Bind the real producer anew; one that has not been used needs no reviving."""
        if self._taken is not None:
            self._taken.revive(channel)

    def release(self) -> None:
        """Give the real producer back, if there is one."""
        self.__exit__(None, None, None)

    def __enter__(self) -> LazyProducer:  # noqa: PYI034 # Python 3.10 has no Self
        return self

    def __exit__(self, *error: object) -> None:
        taken, self._taken = self._taken, None
        if taken is not None:
            taken.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        """Be the real producer in everything else."""
        if self._taken is None:
            self._taken = self._take()
        return getattr(self._taken, name)

    def _take(self) -> Any:
        try:
            return self._pool.acquire(block=self._block, timeout=self._timeout)
        except LimitExceeded as error:
            raise OperationalError(
                f"expected one of the {self._pool.limit} connections of the broker's pool to be"
                f" free within {self._timeout} s; raise broker_pool_limit"
            ) from error
