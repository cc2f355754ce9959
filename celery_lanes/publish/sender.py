"""The producer's side: stamp attribution on every publish, and admit lane calls to the store.

The seam is Celery's own: ``app.amqp_cls``. Every publish path (delay, send_task, canvas, retry,
replace, beat) ends in one call of ``amqp.send_task_message``. ``before_task_publish`` would not
do: it is global to the process, so two apps would stamp each other's messages.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.app.amqp import AMQP

from celery_lanes.callinfo import HEADER, CallInfo, said_here
from celery_lanes.errors import ConfigError
from celery_lanes.journeys.journey import kept_in, stage_in
from celery_lanes.llm.chains.journey import Journey
from celery_lanes.priority import (
    PREEMPTIBLE,
    PRIORITY,
    checked,
    checked_answer,
    clamped,
    first_said,
    preemptible_of,
    priority_of,
)
from celery_lanes.publish.admission import Admission, check_max_wait, meta_of
from celery_lanes.publish.detours import ASKS_IN_LANES, Detours, Stop, stops_of
from celery_lanes.publish.options import OPTIONS
from celery_lanes.publish.producer import AdmittingProducer
from celery_lanes.publish.router import MODEL_OPTION
from celery_lanes.publish.strangers import Strangers
from celery_lanes.publish.submission import TELL
from celery_lanes.publish.unheard import Unheard
from celery_lanes.worker.intake import LaneQueueConsumer

if TYPE_CHECKING:
    from celery_lanes.app import Lanes

DELAYED_EXCHANGE = "celery_delayed_27"
DELAY_LEVELS = 28


class LaneAMQP(AMQP):  # type: ignore[misc] # celery is not typed
    """Celery's AMQP with lanes: routes by model, stamps CallInfo, admits to the store."""

    Consumer = LaneQueueConsumer

    def flush_routes(self) -> None:
        """Put the lane router before the user's own routes, which stay in force for other tasks."""
        super().flush_routes()
        users: list[Any] = self._rtable  # type: ignore[has-type] # celery is not typed
        self._rtable = [self._lanes.router, *users]

    def _create_task_sender(self) -> Callable[..., Any]:
        send = super()._create_task_sender()
        sender = self._lanes.sender

        def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
            return sender.send(send, producer, name, message, options)

        return send_task_message

    @property
    def _lanes(self) -> Lanes:
        lanes: Lanes = self.app.lanes
        return lanes


class Sender:
    """Stamps and admits what one app publishes."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._strangers = Strangers(lambda: lanes.settings)
        self.unheard = Unheard(lanes.app)

    def send(
        self,
        send: Callable[..., Any],
        producer: Any,
        name: str,
        message: Any,
        options: dict[str, Any],
    ) -> Any:
        """Publish through Celery's own sender, with our header and, for a lane, our producer."""
        given = {key: options.pop(key, None) for key in (*OPTIONS, TELL)}
        checked(given[PRIORITY], PRIORITY)
        checked_answer(given[PREEMPTIBLE], PREEMPTIBLE)
        check_max_wait(given["max_wait"])
        lane = self._lane(options.get("queue") or _delayed_to(options))
        given[MODEL_OPTION] = options.pop(MODEL_OPTION, None)
        if lane is not None:
            self._strangers.meet(lane, given[MODEL_OPTION])
        of_lane = self._of_lane(lane, name, message, options, given) if lane else {}
        headers = dict(options.get("headers") or {})
        carried, caller, run_id = headers.get(HEADER), given["caller"], given["run_id"]
        info = self.attribute(carried, caller=caller, run_id=run_id, **of_lane)
        options["headers"] = {
            **headers,
            HEADER: {**info.to_header(), **self._kept(carried, message)},
        }
        if lane and self._admits(lane, producer):
            admit = self._admission(lane, name, message, info, options, given, producer)
            producer = AdmittingProducer(producer, admit)
        elif lane and given["max_wait"] is not None:
            raise ConfigError(
                f'expected lane {lane} to have intake = "store", and the publish to use the app\'s'
                " own broker, for max_wait"
            )
        return send(producer, name, message, **options)

    def _admission(
        self,
        lane: str,
        name: str,
        message: Any,
        info: CallInfo,
        options: dict[str, Any],
        given: dict[str, Any],
        producer: Any,
    ) -> Callable[..., bool]:
        """Make what admits a message; with a ``max_wait`` to another model's lane, if need be."""

        def into(info: CallInfo) -> Admission:
            wait_s, tell = given["max_wait"], given[TELL]
            return Admission(self._lanes, info.lane, name, message, info, wait_s, tell)

        stops = self._stops(lane, name, message, options, given)
        if not stops:
            return into(info)
        infos = [info]
        for stop in stops:
            if stop.lane not in {known.lane for known in infos} and self._admits(
                stop.lane, producer
            ):
                of_stop = {**given, MODEL_OPTION: stop.model}
                if self._unit(stop.lane) != self._unit(lane):
                    of_stop["cost"] = None  # it was given in the other lane's
                of_lane = self._of_lane(stop.lane, name, message, options, of_stop)
                infos.append(replace(info, **of_lane, nonce=os.urandom(16).hex()))
        return Detours(
            stops,
            [(known, into(known)) for known in infos],
            partial(self._begin, given["max_wait"]),
        )

    def _stops(
        self, lane: str, name: str, message: Any, options: dict[str, Any], given: dict[str, Any]
    ) -> tuple[Stop, ...]:
        """List the models that a call may go on to, if it may not wait and has only begun."""
        if given["max_wait"] is None:
            return ()
        task = self._lanes.task(name)
        if not getattr(task, ASKS_IN_LANES, False):
            return ()
        if stage_in((options.get("headers") or {}).get(HEADER)) is not None:
            return ()
        stops = stops_of(self._lanes, self._lanes.router.spec(*_arguments(message), task))
        return stops if stops and stops[0].lane == lane else ()

    def _begin(self, max_wait_s: float, info: CallInfo) -> Journey:
        budget = self._lanes.registry.chain_config.retry_budget
        return Journey(call_id=info.nonce, to_come=(), retries_left=budget, max_wait_s=max_wait_s)

    def _lane(self, queue: Any) -> str | None:
        if queue is None or not self._lanes.settings.enabled:
            return None
        return self._lanes.settings.lane_of_queue(getattr(queue, "name", queue))

    def attribute(
        self,
        carried: object,
        *,
        caller: str | None = None,
        run_id: str | None = None,
        **of_lane: Any,
    ) -> CallInfo:
        """Say whose a new publish is: as given, else as its origin's; with a nonce of its own."""
        said, origin = said_here(), self._origin(carried)
        return CallInfo(
            caller=str(said.get("caller", origin.caller) if caller is None else caller),
            run_id=str(said.get("run_id", origin.run_id) if run_id is None else run_id),
            nonce=os.urandom(16).hex(),
            **of_lane,
        )

    def _of_lane(
        self,
        lane: str,
        name: str,
        message: Any,
        options: dict[str, Any],
        given: dict[str, Any],
    ) -> dict[str, Any]:
        """Give what CallInfo says of a lane's call beyond whose it is."""
        model, task = given[MODEL_OPTION], self._lanes.task(name)
        before = self._again(message, options)
        return {
            "lane": lane,
            "model": self._model(name, message, options) if model is None else model,
            "priority": _priority(task, before, options, given[PRIORITY]),
            "preemptible": _is_preemptible(task, before, given[PREEMPTIBLE]),
            "cost": self._cost(lane, task, message, given["cost"]),
        }

    def _again(self, message: Any, options: dict[str, Any]) -> CallInfo:
        """Find the call that a publish repeats: a retry has its header, a replacement its id.

        A child is none that comes again, and does not inherit how urgent its parent is.
        """
        carried = (options.get("headers") or {}).get(HEADER)
        parent = self._lanes.app.current_worker_task
        if carried is None and parent and parent.request.id == meta_of(message)["id"]:
            return CallInfo.from_request(parent.request) or CallInfo()
        return CallInfo.from_header(carried)

    def _kept(self, carried: object, message: Any) -> dict[str, Any]:
        """Find how far a call has come whose retry this is: it runs in the same lane."""
        if not (kept := kept_in(carried)):
            return {}
        parent = self._lanes.app.current_worker_task
        is_again = parent and parent.request.id == meta_of(message)["id"]
        return kept if is_again else {}

    def _origin(self, carried: object) -> CallInfo:
        """Find whom a publish is for, unless it is told: as its parent task, else as carried."""
        parent = self._lanes.app.current_worker_task
        inherited = CallInfo.from_request(parent.request) if parent else None
        return inherited or CallInfo.from_header(carried)

    def _model(self, name: str, message: Any, options: dict[str, Any]) -> str:
        args, kwargs = _arguments(message)
        task = self._lanes.task(name)
        routed = self._lanes.router.route(name, args, kwargs, options, task)
        return routed.model or "" if routed else ""

    def _cost(self, lane: str, task: Any, message: Any, given: float | None) -> float | None:
        """Estimate in the lane's unit: what was given, else the task's own estimate, else 1."""
        return self.estimate(lane, task, *_arguments(message)) if given is None else float(given)

    def _unit(self, lane: str) -> str:
        return self._lanes.settings.lane(lane).cost

    def estimate(self, lane: str, task: Any, args: Any, kwargs: Any) -> float | None:
        """Ask a task what a call of it costs in a lane's unit; ``None`` if it cannot say."""
        if self._unit(lane) != "tokens":
            return None
        estimate = getattr(task, "estimate_cost", None)
        return float(estimate(*args, **kwargs)) if callable(estimate) else None

    def _admits(self, lane: str, producer: Any) -> bool:
        if self._lanes.settings.lane(lane).intake != "store":
            return False
        return self._lanes.is_own_broker(producer.connection)


def _priority(
    task: Any, before: CallInfo, options: Mapping[str, Any], given: int | None
) -> int | None:
    """Find how urgent a call is; the first that says so counts.

    The publish itself; the context around it; the call before it, if it comes again; the task;
    Celery's own option ``priority``.
    """
    return first_said(
        given,
        said_here().get("priority"),
        clamped(before.priority),
        priority_of(task),
        clamped(None if options.get("priority") is None else int(options["priority"])),
    )


def _is_preemptible(task: Any, before: CallInfo, given: bool | None) -> bool | None:  # noqa: FBT001
    """Find whether a call makes room: as the publish says, the call before it, the task."""
    if given is not None:
        return given
    return preemptible_of(task) if before.preemptible is None else before.preemptible


def _delayed_to(options: Mapping[str, Any]) -> str | None:
    """Find the queue behind Celery's native delayed delivery (quorum queues with an ETA).

    Celery puts 28 levels of delay before the routing key; the lane serves the ETA itself.
    """
    if getattr(options.get("exchange"), "name", None) != DELAYED_EXCHANGE:
        return None
    return str(options["routing_key"]).split(".", DELAY_LEVELS)[-1]


def _arguments(message: Any) -> tuple[Any, Any]:
    body = message[2]
    return (body[0], body[1]) if isinstance(body, tuple) else (body["args"], body["kwargs"])
