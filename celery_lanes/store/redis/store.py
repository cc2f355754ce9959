"""The lane store in Redis or Valkey: one Lua script per verb, see ``lua/``."""

from __future__ import annotations

from celery_lanes.store.redis import dangers
from celery_lanes.store.redis.operators import Operators
from celery_lanes.store.redis.producers import Producers
from celery_lanes.store.redis.workers import Workers


class RedisStore(Producers, Workers, Operators):
    """The verbs over scripts.

    Args:
        client: with time-outs, and redis-py's own retries off, as ``open_store`` makes it.
        prefix: what every key begins with; two apps on one server need two.
        durability: ``store``, ``aof`` or ``replicas:n``: what must have a call before it counts
            as admitted.
        token: makes lease tokens; tests pass their own.
    """

    def __repr__(self) -> str:
        return f"RedisStore(prefix={self._keys.prefix!r})"

    def warnings(self) -> list[str]:
        """Say what in the server's settings endangers the promises."""
        return self._wire.ask(self._keys.lanes, dangers.warnings)

    def prove_durability(self) -> None:
        """Raise ``ConfigError`` if the server cannot do what ``durability`` asks of it."""
        self._wire.prove_durability(self._keys.lanes)

    def disconnect(self) -> None:
        """Close all connections; the next verb opens them again."""
        self._wire.close()
