"""The producer's side: stamp attribution on every publish, and admit lane calls to the store.

The seam is Celery's own: ``app.amqp_cls``. Every publish path (delay, send_task, canvas, retry,
replace, beat) ends in one call of ``amqp.send_task_message``. ``before_task_publish`` would not
do: it is global to the process, so two apps would stamp each other's messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from celery.app.amqp import AMQP

from celery_lanes.callinfo import CallInfo
from celery_lanes.errors import ConfigError
from celery_lanes.parts import Parts
from celery_lanes.publish.admission import Admission
from celery_lanes.publish.broker import OwnBroker
from celery_lanes.publish.detours import Detours, stops_of
from celery_lanes.publish.outgoing import Outgoing
from celery_lanes.publish.producer import AdmittingProducer
from celery_lanes.publish.shown import shown_args, shown_kwargs
from celery_lanes.publish.strangers import Strangers
from celery_lanes.publish.unheard import Unheard
from celery_lanes.worker.intake import LaneQueueConsumer

DELAYED_EXCHANGE = "celery_delayed_27"
DELAY_LEVELS = 28


class LaneAMQP(AMQP):  # type: ignore[misc] # celery is not typed
    """Celery's AMQP with lanes: routes by model, stamps CallInfo, admits to the store."""

    Consumer = LaneQueueConsumer

    def as_task_v2(
        self, task_id: str, name: str, args: Any = None, kwargs: Any = None, *rest: Any, **more: Any
    ) -> Any:
        """Make a message as Celery does; what monitors show of its arguments is written at once."""
        if more.get("argsrepr") is None:
            more["argsrepr"] = shown_args(args or (), self.argsrepr_maxsize)
        if more.get("kwargsrepr") is None:
            more["kwargsrepr"] = shown_kwargs(kwargs or {}, self.kwargsrepr_maxsize)
        return super().as_task_v2(task_id, name, args, kwargs, *rest, **more)

    def flush_routes(self) -> None:
        """Put the lane router before the user's own routes, which stay in force for other tasks."""
        super().flush_routes()
        users: list[Any] = self._rtable  # type: ignore[has-type] # celery is not typed
        self._rtable = [self.app.lanes.parts.router, *users]

    def _create_task_sender(self) -> Callable[..., Any]:
        send = super()._create_task_sender()
        sender = Sender(self.app.lanes.parts)

        def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
            return sender.send(send, producer, name, message, options)

        return send_task_message


class Sender:
    """Stamps and admits what one app publishes."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._own_broker = OwnBroker(parts.app)
        self._strangers = Strangers(lambda: parts.settings)
        self._unheard = Unheard(parts.app)

    def send(
        self,
        send: Callable[..., Any],
        producer: Any,
        name: str,
        message: Any,
        options: dict[str, Any],
    ) -> Any:
        """Publish through Celery's own sender, with our header and, for a lane, our producer."""
        outgoing = Outgoing(self._parts, name, message, options)
        lane = self._lane(options.get("queue") or _delayed_to(options))
        if lane is not None:
            self._strangers.meet(lane, outgoing.model)
        info = outgoing.attribute(lane)
        outgoing.stamp(info)
        if lane is not None and self._admits(lane, producer):
            producer = AdmittingProducer(producer, self._admission(outgoing, info, producer))
        elif lane is not None and outgoing.max_wait_s is not None:
            raise ConfigError(
                f'expected lane {lane} to have intake = "store", and the publish to use the app\'s'
                " own broker, for max_wait"
            )
        return send(producer, name, message, **options)

    def _admission(self, outgoing: Outgoing, info: CallInfo, producer: Any) -> Admission | Detours:
        """Make what admits a message; with a ``max_wait`` to another model's lane, if need be."""
        if outgoing.max_wait_s is not None:
            outgoing.check_is_alone()
        stops = stops_of(self._parts, outgoing, info.lane)
        if not stops:
            return Admission(self._parts, self._unheard, outgoing, info)
        infos = {info.lane: info}
        for stop in stops:
            if stop.lane not in infos and self._admits(stop.lane, producer):
                infos[stop.lane] = outgoing.elsewhere(info, stop.lane, stop.model)
        return Detours(self._parts, self._unheard, outgoing, infos.values(), stops)

    def _lane(self, queue: Any) -> str | None:
        if queue is None or not self._parts.settings.enabled:
            return None
        return self._parts.settings.lane_of_queue(getattr(queue, "name", queue))

    def _admits(self, lane: str, producer: Any) -> bool:
        if self._parts.settings.lane(lane).intake != "store":
            return False
        return self._own_broker.is_behind(producer.connection)


def _delayed_to(options: Mapping[str, Any]) -> str | None:
    """Find the queue behind Celery's native delayed delivery (quorum queues with an ETA).

    Celery puts 28 levels of delay before the routing key; the lane serves the ETA itself.
    """
    if getattr(options.get("exchange"), "name", None) != DELAYED_EXCHANGE:
        return None
    return str(options["routing_key"]).split(".", DELAY_LEVELS)[-1]
