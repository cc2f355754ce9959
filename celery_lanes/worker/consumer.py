"""Celery's consumer with lanes: a prelude before each strategy, lane calls apart from the broker's.

A lane call is not a broker message: nothing will redeliver it. So what Celery does to "its"
requests when the broker goes away (throw them out of the pool, cancel them) must pass it by.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from celery import signals
from celery.utils.log import get_logger
from celery.worker.consumer import Consumer
from kombu.message import Message

from celery_lanes.worker.interlude import attend, limits_of
from celery_lanes.worker.malformed import MALFORMED
from celery_lanes.worker.prelude import Prelude
from celery_lanes.worker.reconnect import jobs_kept, unseen

logger = get_logger(__name__)


def lane_consumer(base: type[Consumer]) -> type[Consumer]:
    """Give the worker's own consumer class our behaviour; it may be a user's subclass."""
    return type(f"Lane{base.__name__}", (LaneConsumer, base), {})


class LaneConsumer(Consumer):  # type: ignore[misc] # celery is not typed
    """The behaviour; ``controller.lanes`` is this worker's ``WorkerLanes``.

    Attributes:
        unadmitted: the lanes' messages that the store has not got yet, so not acknowledged.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self.unadmitted: set[Message] = set()
        self._held: frozenset[str] = frozenset()
        self._widened_by = 0
        super().__init__(*args, **options)

    def Strategies(self) -> dict[str, Any]:  # noqa: N802 # Celery's name for its dict factory
        """Make a dict of strategies that wraps each in the prelude, also after ``pool_restart``."""
        return Preluded(self)

    def update_strategies(self) -> None:
        """Forget the strategies built for lane calls as well; look after tasks that are new."""
        self.controller.lanes.watch_bodies()
        super().update_strategies()
        self.controller.lanes.dispatcher.forget(self)

    def on_ready(self) -> None:
        """Begin to ask for calls: the loop is about to run."""
        super().on_ready()
        self.controller.lanes.open_first(self.app.amqp.queues.consume_from)
        if self._held:
            self._hold_or_go_on()

    def add_task_queue(self, queue: str, *args: Any, **options: Any) -> None:
        """Serve the lane of a queue that is added at run time."""
        super().add_task_queue(queue, *args, **options)
        queues = self.app.amqp.queues
        queues.select_add(queues[queue])  # Celery 5.5 leaves out a queue that was cancelled before
        self.controller.lanes.open(self.app.amqp.queues.consume_from)

    def cancel_task_queue(self, queue: str) -> None:
        """Stop asking for calls of the lane, too."""
        super().cancel_task_queue(queue)
        self.controller.lanes.open(self.app.amqp.queues.consume_from)

    def hold_lane_queues(self, lanes: frozenset[str]) -> None:
        """Stop consuming the queues of just these lanes, and go on with those of the others.

        Without an event loop the caller is another thread or greenlet than the one that reads from
        the broker, and would take its answers; there it is done between two reads, within 2 s. The
        last wish counts, for Celery 5.5 makes the calls that are left for it in reverse order.
        """
        self._held = lanes
        if self.hub:
            self._hold_or_go_on()
        else:
            self.call_soon(self._hold_or_go_on)

    def _hold_or_go_on(self) -> None:
        if self.task_consumer is None:  # not yet, and ``on_ready`` will see to it; or no longer
            return
        lane_of = self.app.lanes.settings.lane_of_queue
        for name, queue in list(self.app.amqp.queues.consume_from.items()):
            lane = lane_of(name)
            if lane in self._held:
                self.task_consumer.cancel_by_queue(queue.name)
            elif lane and not self.task_consumer.consuming_from(queue.name):
                self.task_consumer.add_queue(queue)
        self._widen_window(len(self.unadmitted) if self._held else 0)
        self.task_consumer.consume()

    def _widen_window(self, by: int) -> None:
        """Let in so many more messages than Celery would, up to ``worker_eta_task_limit``.

        What waits for the store may fill the prefetch window, and nothing else would come in. What
        the limit has cut off is not taken back later.
        """
        narrow = self.qos.decrement_eventually(self._widened_by)
        wide = self.qos.increment_eventually(by) if by else narrow
        self._widened_by = wide - narrow
        self.qos.update()

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], None]:
        """Receive as Celery does, and survive the messages that end a worker of plain Celery.

        Without an id, with a list for a task's name or nonsense for a delivery's, for example.
        """
        receive = super().create_task_handler(*args, **options)
        return partial(self._survive, receive)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Survive a message whose body cannot even be described; kombu calls this as well."""
        self._survive(super().on_decode_error, message, exc)

    def _survive(self, receive: Callable[..., Any], message: Any, *rest: Any) -> None:
        """Drop what cannot be read; any other error about a plain message is plain Celery's."""
        try:
            receive(message, *rest)
        except MALFORMED as error:
            if self._is_plain(message):
                raise
            logger.exception("celery_lanes: cannot read a message; it is dropped")
            if not message.acknowledged:
                message.reject_log_error(logger, self.connection_errors)
            signals.task_rejected.send(sender=self, message=message, exc=error)

    def _is_plain(self, message: Any) -> bool:
        """Whether a message can be read, and came on no lane's queue."""
        try:
            message.decode()
            hash(message.headers.get("task"))
            return self.controller.lanes.lane_of(message) is None
        except MALFORMED:
            return False

    def ensure_connected(self, conn: Any) -> Any:
        """Wait for the broker as Celery does, and see to running lane calls each second."""
        conn.ensure_connection = partial(self._ensure, conn.ensure_connection)
        try:
            return super().ensure_connected(conn)
        finally:
            del conn.ensure_connection

    def _ensure(self, ensure: Callable[..., Any], *args: Any, **options: Any) -> Any:
        usual = options.pop("callback")

        def callback() -> None:
            usual()
            self._attend()

        return ensure(*args, callback=callback, **options)

    def _attend(self) -> None:
        """See to running lane calls; their time limits, perhaps set only now, are no connection's.

        Celery ends the timers that it knows as such with the connection.
        """
        pool, jobs = getattr(self.pool, "_pool", None), self.controller.lanes.dispatcher.jobs()
        if self.hub is None or not jobs:
            return
        attend(pool, self.hub, jobs)
        if (known := getattr(self, "timer_entries_before_start", None)) is not None:
            known.update(limits_of(pool, jobs))

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Leave running lane calls out of what Celery cancels, and counts for a smaller window."""
        with unseen(self.controller.lanes.dispatcher.requests()):
            super().on_connection_error_after_connected(exc)

    def on_close(self) -> None:
        """Keep lane jobs in the pool while Celery clears it of broker messages."""
        lanes = self.controller.lanes
        lanes.agent.shut()
        self.unadmitted.clear()  # the broker will bring them again; the window is made anew
        self._widened_by = 0
        with jobs_kept(self.pool, lanes.dispatcher.jobs()):
            super().on_close()

    def cancel_active_requests(self) -> None:
        """Stop lane calls, too, at a cold shutdown; they go back to the lane."""
        self.controller.lanes.dispatcher.go_cold()
        super().cancel_active_requests()

    def cancel_all_unacked_requests(self) -> None:
        """Do the same under the name it had in Celery 5.5."""
        self.controller.lanes.dispatcher.go_cold()
        super().cancel_all_unacked_requests()


class Preluded(dict[str, Any]):
    """Strategies by task name, each behind the prelude."""

    def __init__(self, consumer: LaneConsumer) -> None:
        super().__init__()
        self._consumer = consumer

    def __setitem__(self, name: str, strategy: Any) -> None:
        """Wrap a strategy as it is entered."""
        task = self._consumer.app.tasks.get(name)
        super().__setitem__(name, Prelude(self._consumer, task, strategy))
