"""The consumer as a lane call sees it, for Celery's receiving code: no broker, no ETA, no rate."""

from __future__ import annotations

import logging
from typing import Any

from celery.exceptions import InvalidTaskError
from celery.worker import state

from celery_lanes.worker.attempt import LaneMessage
from celery_lanes.worker.consumer import LaneConsumer

logger = logging.getLogger(__name__)


def receiver(consumer: Any, execute: Any) -> Any:
    """Build Celery's receive function against a view of the consumer."""
    view = LaneView(consumer, execute)
    for name, task in consumer.app.tasks.items():
        view.strategies[name] = task.start_strategy(consumer.app, view)
    return super(LaneConsumer, type(consumer)).create_task_handler(view)


class LaneView:
    """The consumer as a lane call sees it; everything else is the real one's."""

    disable_rate_limits = True
    _maximum_prefetch_restored = True

    def __init__(self, consumer: Any, execute: Any) -> None:
        self._consumer = consumer
        self.strategies: dict[str, Any] = {}
        self.on_task_request = execute
        self.timer = self.qos = self  # an ETA in the body (protocol 1) has been served, too

    def call_at(self, _eta: float, call: Any, args: tuple[Any, ...] = (), **_: Any) -> None:
        """Take the place of the ETA timer: the time has come."""
        call(*args)

    def increment_eventually(self, *_: Any) -> None:
        """Take the place of the prefetch count: a lane call has none."""

    def apply_eta_task(self, request: Any) -> None:
        """Start a call whose ETA has been served."""
        state.task_reserved(request)
        self.on_task_request(request)

    def call_soon(self, call: Any, *args: Any, **kwargs: Any) -> None:
        """Acknowledge at once: it only leaves a note with the attempt."""
        call(*args, **kwargs)

    call_soon_ack = call_soon

    def on_unknown_task(self, body: Any, message: LaneMessage, exc: Exception) -> None:  # noqa: ARG002
        """Leave a task that this worker does not know to another, for a while."""
        logger.error("celery_lanes: task %s is not registered here; put back", exc)
        message.attempt.is_strange = True

    def on_invalid_task(self, body: Any, message: LaneMessage, exc: Exception) -> None:  # noqa: ARG002
        """Leave a call that this worker cannot read to another; at last it is a dead letter.

        Celery would drop the message, and its result would stay pending for ever.
        """
        logger.error(
            "celery_lanes: cannot read %s here; put back: %s", message.attempt.grant.call, exc
        )
        message.attempt.is_strange = True

    def on_unknown_message(self, body: Any, message: LaneMessage) -> None:
        """Do the same: Celery rejects what is no task at all, and nobody would hear of the call."""
        self.on_invalid_task(body, message, InvalidTaskError("it is no task's message"))

    def on_decode_error(self, message: LaneMessage, exc: Exception) -> None:
        """Do the same."""
        self.on_invalid_task(None, message, exc)

    def __getattr__(self, name: str) -> Any:
        """Be the real consumer in everything else."""
        return getattr(self._consumer, name)
