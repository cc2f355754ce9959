"""Leaves nothing of the run behind on a user's broker."""

from __future__ import annotations

from typing import Any

from kombu import Connection
from redis import Redis

from celery_lanes.chaos.shop import LANE


def sweep(url: str, name: str) -> None:
    """Delete the run's queues and exchanges; all of them carry its name."""
    if url.startswith("redis"):
        _sweep_redis(url, name)
    else:
        _sweep_amqp(url, name)


def _sweep_redis(url: str, name: str) -> None:
    client: Any = Redis.from_url(url)
    try:
        for key in client.scan_iter(match=f"{name}:*", count=1000):
            client.delete(key)
    finally:
        client.close()


def _sweep_amqp(url: str, name: str) -> None:
    queues = [f"{name}.{LANE}", f"{name}.plain"]
    controls = [f"{name}.control.pidbox", f"reply.{name}.control.pidbox", f"{name}.events"]
    with Connection(url) as connection:
        channel = connection.channel()
        for queue in queues:
            channel.queue_delete(queue)
        for exchange in [*queues, *controls]:
            channel.exchange_delete(exchange)
