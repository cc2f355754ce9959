"""The producer's side: stamp attribution on every publish, and admit lane calls to the store.

The seam is Celery's own: ``app.amqp_cls``. Every publish path (delay, send_task, canvas, retry,
replace, beat) ends in one call of ``amqp.send_task_message``. ``before_task_publish`` would not
do: it is global to the process, so two apps would stamp each other's messages.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.app.amqp import AMQP
from celery.utils.time import maybe_iso8601
from kombu import serialization
from kombu.compression import compress
from kombu.utils.functional import retry_over_time

from celery_lanes.callinfo import HEADER, CallInfo, said_here
from celery_lanes.durations import rounded
from celery_lanes.envelope import Envelope
from celery_lanes.errors import ConfigError, LaneBusy, StoreUnavailable
from celery_lanes.priority import PRIORITY, checked, clamped, first_said, priority_of
from celery_lanes.producer import AdmittingProducer
from celery_lanes.router import MODEL_OPTION, LaneRouter
from celery_lanes.store.calls import Busy, Call, Verdict
from celery_lanes.worker.intake import LaneQueueConsumer

if TYPE_CHECKING:
    from celery_lanes.app import Lanes

OPTIONS = ("caller", "run_id", "cost", "lane", "max_wait", PRIORITY)
"""What ``apply_async(...)`` takes for us; Celery would make message properties of them."""

DELAYED_EXCHANGE = "celery_delayed_27"
DELAY_LEVELS = 28


class LaneAMQP(AMQP):  # type: ignore[misc] # celery is not typed
    """Celery's AMQP with lanes: routes by model, stamps CallInfo, admits to the store."""

    Consumer = LaneQueueConsumer

    def flush_routes(self) -> None:
        """Put the lane router before the user's own routes, which stay in force for other tasks."""
        super().flush_routes()
        users: list[Any] = self._rtable  # type: ignore[has-type] # celery is not typed
        self._rtable = [LaneRouter(lambda: self._lanes.settings), *users]

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

    def send(
        self,
        send: Callable[..., Any],
        producer: Any,
        name: str,
        message: Any,
        options: dict[str, Any],
    ) -> Any:
        """Publish through Celery's own sender, with our header and, for a lane, our producer."""
        given = {key: options.pop(key, None) for key in OPTIONS}
        checked(given[PRIORITY], PRIORITY)
        lane = self._lane(options.get("queue") or _delayed_to(options))
        given[MODEL_OPTION] = options.pop(MODEL_OPTION, None)
        of_lane = self._of_lane(lane, name, message, options, given) if lane else {}
        headers = dict(options.get("headers") or {})
        carried, caller, run_id = headers.get(HEADER), given["caller"], given["run_id"]
        info = self.attribute(carried, caller=caller, run_id=run_id, **of_lane)
        options["headers"] = {**headers, HEADER: info.to_header()}
        if lane and self._admits(lane, producer):
            admit = Admission(self._lanes, lane, name, message, info, given["max_wait"])
            producer = AdmittingProducer(producer, admit)
        elif lane and given["max_wait"] is not None:
            raise ConfigError(f'expected lane {lane} to have intake = "store" for max_wait')
        return send(producer, name, message, **options)

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
        model = given[MODEL_OPTION]
        return {
            "lane": lane,
            "model": self._model(name, message, options) if model is None else model,
            "priority": self._priority(name, message, options, given[PRIORITY]),
            "cost": self._cost(lane, name, message, given["cost"]),
        }

    def _priority(
        self, name: str, message: Any, options: dict[str, Any], given: int | None
    ) -> int | None:
        """Find how urgent a call is; the first that says so counts.

        The publish itself; the context around it; the call, if it is one that comes again; the
        task; Celery's own option ``priority``.
        """
        return first_said(
            given,
            said_here().get("priority"),
            clamped(self._again(message, options).priority),
            priority_of(self._lanes.task(name)),
            None if options.get("priority") is None else int(options["priority"]),
        )

    def _again(self, message: Any, options: dict[str, Any]) -> CallInfo:
        """Find the call that a publish repeats: a retry has its header, a replacement its id.

        A child is none that comes again, and does not inherit how urgent its parent is.
        """
        carried = (options.get("headers") or {}).get(HEADER)
        parent = self._lanes.app.current_worker_task
        if carried is None and parent and parent.request.id == _meta(message)["id"]:
            return CallInfo.from_request(parent.request) or CallInfo()
        return CallInfo.from_header(carried)

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

    def _cost(self, lane: str, name: str, message: Any, given: float | None) -> float | None:
        """Estimate in the lane's unit: what was given, else the task's own estimate, else 1."""
        if given is not None:
            return float(given)
        estimate = getattr(self._lanes.task(name), "estimate_cost", None)
        if self._lanes.settings.lane(lane).cost != "tokens" or not callable(estimate):
            return None
        args, kwargs = _arguments(message)
        return float(estimate(*args, **kwargs))

    def _admits(self, lane: str, producer: Any) -> bool:
        if self._lanes.settings.lane(lane).intake != "store":
            return False
        return self._lanes.is_own_broker(producer.connection)


def _delayed_to(options: Mapping[str, Any]) -> str | None:
    """Find the queue behind Celery's native delayed delivery (quorum queues with an ETA).

    Celery puts 28 levels of delay before the routing key; the lane serves the ETA itself.
    """
    if getattr(options.get("exchange"), "name", None) != DELAYED_EXCHANGE:
        return None
    return str(options["routing_key"]).split(".", DELAY_LEVELS)[-1]


class Admission:
    """One message on its way into the store."""

    def __init__(
        self,
        lanes: Lanes,
        lane: str,
        name: str,
        message: Any,
        info: CallInfo,
        max_wait_s: float | None = None,
    ) -> None:
        self._lanes, self._lane, self._name, self._info = lanes, lane, name, info
        self._message = message
        self._max_wait_ms = None if max_wait_s is None else round(max_wait_s * 1000)

    def __call__(
        self,
        body: Any,
        *,
        headers: dict[str, Any],
        serializer: str,
        compression: str | None = None,
        retry: bool = False,
        retry_policy: Mapping[str, Any] | None = None,
        **properties: Any,
    ) -> bool:
        """Admit; False if the store is away and the settings say to use the broker then.

        Raises ``LaneBusy`` if the call would wait longer than it may.
        """
        call = self._call(_pack(body, headers, serializer, compression, properties))
        try:
            verdict = self._admit(call, dict(retry_policy or {}) if retry else None)
        except StoreUnavailable:
            if self._lanes.settings.store.on_store_down == "bypass":
                return False
            raise
        if isinstance(verdict, Busy):
            self._stop_listening(call.task_id)
            raise self._busy(verdict)
        return True

    def _admit(self, call: Call, policy: dict[str, Any] | None) -> Verdict:
        """Repeat as the publish retry policy says; the nonce makes a repeated admit harmless."""
        admit = partial(self._lanes.admit, self._lane, [call], max_wait_ms=self._max_wait_ms)
        return (admit() if policy is None else _repeated(admit, policy))[0]

    def _stop_listening(self, task_id: str) -> None:
        """Undo what Celery does before a publish: on Redis it subscribes to the result."""
        app = self._lanes.app
        app.backend.remove_pending_result(app.AsyncResult(task_id))

    def _busy(self, verdict: Busy) -> LaneBusy:
        max_wait_s, eta_s = (self._max_wait_ms or 0) / 1000, verdict.wait_ms / 1000
        return LaneBusy(
            f"lane {self._lane} is busy: the call would wait {rounded(eta_s)} behind"
            f" {verdict.ahead} others, more than {rounded(max_wait_s)}",
            verdict.ahead + 1,
            eta_s,
            eta_s - max_wait_s,
        )

    def _call(self, envelope: bytes) -> Call:
        meta = _meta(self._message)
        return Call(
            id=self._info.nonce,
            task_id=str(meta["id"]),
            task=self._name,
            caller=self._info.caller,
            priority=self._info.priority or 0,
            cost=1.0 if self._info.cost is None else self._info.cost,
            due_ms=due_ms(meta.get("eta")),
            envelope=envelope,
        )


def _repeated(admit: Callable[[], list[Verdict]], policy: dict[str, Any]) -> list[Verdict]:
    verdicts: list[Verdict] = retry_over_time(
        admit,
        StoreUnavailable,
        max_retries=policy.get("max_retries", 3),
        interval_start=policy.get("interval_start", 0),
        interval_step=policy.get("interval_step", 0.2),
        interval_max=policy.get("interval_max", 1),
    )
    return verdicts


def due_ms(eta: object) -> int:
    """Read an ETA (ISO 8601; without a zone it is UTC) as epoch milliseconds.

    0 for none, a time long past, and what is no ETA: the worker's strategy refuses that.
    """
    try:
        when = maybe_iso8601(eta)
        if when is None:
            return 0
        aware = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
        return max(0, int(aware.timestamp() * 1000))
    except (AttributeError, OverflowError, TypeError, ValueError):
        return 0


def is_served(eta: object) -> bool:
    """Whether the store has waited for this ETA, or there is none."""
    return eta is None or due_ms(eta) > 0


_NOT_PROPERTIES = (
    "exchange", "routing_key", "declare", "timeout", "confirm_timeout", "mandatory", "immediate",
    "exchange_type",
)  # fmt: skip


def _pack(
    body: Any,
    headers: dict[str, Any],
    serializer: str,
    compression: str | None,
    properties: dict[str, Any],
) -> bytes:
    payload: str | bytes
    content_type, content_encoding, payload = serialization.dumps(body, serializer)
    if compression:
        payload, headers["compression"] = compress(payload, compression)
    for key in _NOT_PROPERTIES:
        properties.pop(key, None)
    return Envelope(
        body=payload,
        content_type=content_type,
        content_encoding=content_encoding,
        headers=headers,
        properties=properties,
    ).pack()


def _meta(message: Any) -> Any:
    """Give a new message's headers; protocol 1 keeps them in the body."""
    headers, _, body, _ = message
    return headers if "id" in headers else body


def _arguments(message: Any) -> tuple[Any, Any]:
    body = message[2]
    return (body[0], body[1]) if isinstance(body, tuple) else (body["args"], body["kwargs"])
