"""Brokers that bring a message again which was not acknowledged: how late they do."""

from __future__ import annotations

from typing import Any

VISIBILITY_TIMEOUT_S = 3600
"""kombu's own default for Redis."""


def redelivery_ms_of(app: Any) -> int:
    """Say how late, at least 1, an app's broker may do so.

    Redis and SQS wait for their visibility time-out; RabbitMQ, if it does not notice that a
    consumer has gone, for half an hour.
    """
    if app.connection_for_read().transport.driver_type == "memory":
        return 1
    options = app.conf.broker_transport_options or {}
    return int(options.get("visibility_timeout", VISIBILITY_TIMEOUT_S) * 1000)
