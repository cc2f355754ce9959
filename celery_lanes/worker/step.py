"""What a Celery worker gets from celery_lanes: one boot step that owns the parts of its lanes."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from threading import Timer
from typing import Any

from celery import bootsteps, signals
from celery.utils.imports import symbol_by_name
from celery.utils.log import get_logger
from kombu.message import Message

from celery_lanes.errors import ConfigError, StoreUnavailable
from celery_lanes.once import once
from celery_lanes.parts import Parts
from celery_lanes.priority import preemptible_of, priority_of
from celery_lanes.router import is_lane_task
from celery_lanes.store.attempts import Closing
from celery_lanes.worker.agent import Agent
from celery_lanes.worker.attempt import Attempt
from celery_lanes.worker.body import listen, running, watch
from celery_lanes.worker.closing import write_result
from celery_lanes.worker.consumer import lane_consumer
from celery_lanes.worker.dispatch import Dispatcher
from celery_lanes.worker.hints import hint_at_queues
from celery_lanes.worker.pools import pool_view, refuse_unknown_pool
from celery_lanes.worker.postman import HubPostman, PumpPostman
from celery_lanes.worker.receipts import Receipts
from celery_lanes.worker.redelivery import redelivery_ms_of

logger = get_logger(__name__)

HEARD_WITHIN_S = 0.5
"""The event loop is away if it has not done by then what it was asked to."""


class LanesStep(bootsteps.StartStopStep):  # type: ignore[misc] # celery is not typed
    """Starts the store thread before the pool, and stops it after the pool has drained."""

    name = "lanes"

    def __init__(self, worker: Any, **_: Any) -> None:
        self.enabled = _checked(worker)
        if self.enabled:
            herald = worker.app.lanes.parts.herald
            herald.sends_events = bool(worker.task_events)  # children inherit it
            worker.consumer_cls = lane_consumer(symbol_by_name(worker.consumer_cls))

    def include(self, worker: Any) -> None:
        """Go first in the list of steps: steps stop in reverse order."""
        if self.enabled:
            worker.lanes = self.obj = WorkerLanes(worker, worker.app.lanes.parts)
            worker.steps.insert(0, self)
            worker.wait_for_soft_shutdown = partial(_shut_first, worker)

    def start(self, worker: Any) -> None:
        """Start the store thread."""
        worker.lanes.start()

    def close(self, worker: Any) -> None:
        """Take no more calls: the worker is about to stop."""
        worker.lanes.agent.shut()
        worker.lanes.dispatcher.shut()

    def stop(self, worker: Any) -> None:
        """Send the last releases."""
        worker.lanes.stop()

    terminate = stop

    def register_with_event_loop(self, worker: Any, hub: Any) -> None:
        """Join the event loop, again after each broker reconnect."""
        worker.lanes.postman.register_with_event_loop(hub)
        hub.on_tick.add(worker.lanes.agent.nudge)


class WorkerLanes:
    """The lanes of one worker: store thread, postman, dispatcher."""

    def __init__(self, worker: Any, parts: Parts) -> None:
        self._worker = worker
        self._parts = parts
        self.agent = Agent(
            node=worker.hostname, open_store=parts.open_store, source=parts, hands=self
        )
        self._served: set[str] = set()
        self._has_opened = False

    def start(self) -> None:
        """Begin; the consumer opens the lanes when it is ready."""
        worker = self._worker
        self.postman = HubPostman() if worker.hub is not None else PumpPostman()
        self.receipts = Receipts(self.postman.deliver, lambda: worker.consumer.connection_errors)
        self._view = pool_view(worker)
        self.dispatcher = Dispatcher(worker, self._parts.settings, self._view)
        self.watch_bodies()
        if self._parts.settings.preempts:
            signals.worker_process_init.connect(listen)
        self.agent.start()

    def stop(self) -> None:
        """End: make what calls are left, release, close."""
        self.postman.stop()
        self.agent.stop()

    def open(self, queues: Iterable[str]) -> None:
        """Serve the lanes of these queues."""
        lanes = (self._parts.settings.lane_of_queue(queue) for queue in queues)
        self._served = {lane for lane in lanes if lane}
        self.agent.open(self._served)

    def open_first(self, queues: Iterable[str]) -> None:
        """Serve these lanes, and say at the worker's start which may have been meant instead."""
        given = list(queues)
        if not self._has_opened:
            default = self._parts.app.conf.task_default_queue
            hint_at_queues(self._parts.settings, given, default)
        self._has_opened = True
        self.open(given)

    @once
    def redelivery_ms(self) -> int:
        """Say how late the broker may bring a message again."""
        return redelivery_ms_of(self._parts.app)

    def lane_of(self, message: Message) -> str | None:
        """Name the lane on whose queue a broker message came, or ``None``.

        It is asked while the message is being received.
        """
        queue = getattr(self._worker.consumer.task_consumer, "queue_at_hand", None)
        if queue is None:  # a consumer that is not ours
            queue = (message.delivery_info or {}).get("routing_key")
        return self._parts.settings.lane_of_queue(queue) if isinstance(queue, str) else None

    def watch_bodies(self) -> None:
        """Let calls make room; again for tasks that have come since, before Celery traces them."""
        if not self._parts.settings.preempts:
            return
        lane = self._parts.settings.lane
        for task in self._parts.app.tasks.values():
            watch(task, lambda name: lane(name).preempt_grace_s)

    # -- the agent's hands ----------------------------------------------------------------------

    def free(self) -> int:
        """Count the calls that could start now."""
        return self._view.free()

    def dispatch(self, attempt: Attempt) -> None:
        """Start a call."""
        self.postman.deliver(self._dispatch, attempt)

    def finished(self, attempt: Attempt) -> None:
        """See to an attempt that has ended."""
        self.dispatcher.finished(attempt)

    def stop_body(self, attempt: Attempt) -> None:
        """Stop a body whose lease is gone, also while the event loop is away."""
        self.postman.deliver(self.dispatcher.stop, attempt)
        if self._worker.hub is not None:
            unheard = Timer(HEARD_WITHIN_S, self.dispatcher.stop_unheard, (attempt,))
            unheard.daemon = True
            unheard.start()

    def make_room(self, attempt: Attempt) -> None:
        """Have a call end for a more urgent one; its body may come to hear of it at any time.

        The lane's settings in the store may be newer than ours, by which no body is prepared.
        """
        if not self._parts.settings.preempts:
            return
        if body := running(attempt.lease):
            body.ask()
        if not attempt.is_asked:
            attempt.is_asked = True
            grace_s = self._parts.settings.lane(attempt.lane).preempt_grace_s
            self.postman.deliver(self.dispatcher.make_room, attempt, grace_s)

    def close(self, lane: str, closing: Closing) -> None:
        """Write a result that no body writes."""
        self.postman.deliver(self._close, lane, closing)

    def grow(self) -> None:
        """Make room, if the pool may grow."""
        self.postman.deliver(self._view.grow)

    def hold_intake(self, lanes: frozenset[str]) -> None:
        """Consume the queues of just these lanes no more."""
        self.postman.deliver(self._hold_intake, lanes)

    def _hold_intake(self, lanes: frozenset[str]) -> None:
        consumer = self._worker.consumer
        if consumer is not None:
            consumer.hold_lane_queues(lanes)

    def _dispatch(self, attempt: Attempt) -> None:
        if attempt.lane not in self._served and attempt.claim():
            attempt.end()  # it was asked for before the lane's consumer was cancelled
        self.dispatcher.start(attempt)
        self.agent.nudge()  # its place in the pool is known only now

    def _close(self, lane: str, closing: Closing) -> None:
        if not self.agent.holds(lane, closing):
            return  # while the loop was away, another worker has had it
        try:
            write_result(self._worker, closing)
        except Exception:
            logger.exception("celery_lanes: cannot write the result of %s yet", closing.call)
            self.agent.left_open(lane, closing)
        else:
            self.agent.closed(lane, closing)


def _shut_first(worker: Any) -> None:
    """Wait for the soft shutdown as Celery does, having asked for the last call.

    Celery waits with its event loop stopped: nothing would dispatch what was granted meanwhile.
    """
    worker.lanes.agent.shut()
    type(worker).wait_for_soft_shutdown(worker)


def _checked(worker: Any) -> bool:
    """Whether lanes are on; a worker that they cannot work with says so in one line and ends."""
    parts: Parts = worker.app.lanes.parts
    try:
        if not parts.settings.enabled:
            return False
        _refuse_rate_limits(parts, worker.app.amqp.queues.consume_from)
        _refuse_odd_priorities(parts)
        _refuse_spawn(getattr(worker, "pool_start_method", "fork"))
        refuse_unknown_pool(worker.pool_cls)
        _refuse_durability(parts)
    except ConfigError as error:
        sys.exit(f"celery_lanes: {error}")
    return True


def _refuse_odd_priorities(parts: Parts) -> None:
    try:
        for task in parts.app.tasks.values():
            priority_of(task)
            preemptible_of(task)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _refuse_spawn(start_method: str) -> None:
    if start_method == "spawn":
        raise ConfigError(
            'expected worker_pool_start_method to be "fork", got "spawn": a spawned process has'
            " no lanes yet"
        )


def _refuse_durability(parts: Parts) -> None:
    """Refuse what the store cannot give; one that is away now will be asked before each intake.

    A cluster's client connects as soon as it is made.
    """
    if parts.settings.store.durability == "store":
        return
    with suppress(StoreUnavailable):
        store = parts.open_store()
        try:
            store.prove_durability()
        finally:
            store.disconnect()


def _refuse_rate_limits(parts: Parts, queues: Iterable[str]) -> None:
    """Refuse a rate limit of Celery's on a lane task: it is per worker, and would hold the slot."""
    if not any(parts.settings.lane_of_queue(queue) for queue in queues):
        return
    for task in parts.app.tasks.values():
        if task.rate_limit and is_lane_task(task):
            raise ConfigError(
                f"expected task {task.name} to have no rate_limit, for it runs in a lane;"
                f" set rate = {task.rate_limit!r} in the lane's table instead"
            )
