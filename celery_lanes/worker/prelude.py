"""Broker intake: what arrives on a lane's queue is admitted to the store before Celery sees it.

Producers without the plugin, other languages, and lanes with ``intake = "broker"`` come this way.
The message is acknowledged once the store has it; from then on prefetch, ETA lists and visibility
time-outs do not matter to it.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

from celery.exceptions import InvalidTaskError
from celery.utils.log import get_logger
from kombu.message import Message

from celery_lanes.callinfo import HEADER, CallInfo
from celery_lanes.envelope import Envelope
from celery_lanes.eta import due_ms
from celery_lanes.priority import clamped, first_said, preemptible_of, priority_of
from celery_lanes.store.calls import Call, fitting
from celery_lanes.store.checks import check_calls
from celery_lanes.worker.malformed import MALFORMED

logger = get_logger(__name__)


class Prelude:
    """Stands before one task's strategy."""

    def __init__(self, consumer: Any, task: Any, strategy: Callable[..., Any]) -> None:
        self._consumer = consumer
        self._usual = {"priority": priority_of(task), "preemptible": preemptible_of(task)}
        self._strategy = strategy

    def __call__(
        self, message: Message, payload: Any, ack: Any, reject: Any, callbacks: Any, **rest: Any
    ) -> Any:
        """Admit a lane's message; let Celery's strategy have any other."""
        lanes = self._consumer.controller.lanes
        lane = lanes.lane_of(message)
        if lane is None:
            return self._strategy(message, payload, ack, reject, callbacks, **rest)
        call = checked_call(message, payload, redelivery_ms=lanes.redelivery_ms, **self._usual)
        self._consumer.unadmitted.add(message)
        acknowledge = partial(self._acknowledge, message, ack)
        lanes.agent.admit(lane, call, partial(lanes.receipts.add, message, acknowledge))
        return None

    def _acknowledge(self, message: Message, ack: Callable[..., Any]) -> None:
        self._consumer.unadmitted.discard(message)
        ack(logger, self._consumer.connection_errors)


def checked_call(message: Message, payload: Any, **known: Any) -> Call:
    """Describe a broker message; leave to Celery what is none, or the store would refuse.

    In the store thread one bad call would hold up all that came with it.
    """
    try:
        call = call_of(message, payload, **known)
        check_calls([call])
    except MALFORMED as error:
        raise InvalidTaskError(f"no call of a lane: {error!r}") from error
    return call


def call_of(
    message: Message,
    payload: Any = None,
    *,
    redelivery_ms: int = 0,
    priority: int | None = None,
    preemptible: bool | None = None,
) -> Call:
    """Describe a broker message as a call; what a foreign sender wrote wrongly gets a default.

    ``priority`` is its task's own, which goes before Celery's option as in the sender, and so is
    ``preemptible``.
    """
    meta = message.headers if "id" in message.headers else payload
    info = CallInfo.from_header(message.headers.get(HEADER))
    is_redelivered = bool((message.delivery_info or {}).get("redelivered"))
    return Call(
        id=_text(info.nonce) or derived_id(message, meta),
        task_id=_text(meta["id"]),
        task=_text(meta["task"]),
        caller=fitting(info.caller),
        priority=clamped(first_said(info.priority, priority, _priority(message))) or 0,
        cost=max(1.0, min(info.cost or 1.0, 1e9)),  # in this order NaN becomes 1
        due_ms=due_ms(meta.get("eta")),
        remember=bool(info.nonce) or is_redelivered,
        arrival="" if info.nonce else os.urandom(16).hex(),
        redelivery_ms=redelivery_ms,
        preemptible=bool(preemptible if info.preemptible is None else info.preemptible),
        envelope=Envelope.of_message(message).pack(),
    )


def derived_id(message: Message, meta: Any) -> str:
    """Identify a message that no sender of ours has stamped.

    ``Task.replace`` publishes the same task id with the same retries, and a dead-letter exchange
    brings the very same message again: both are calls of their own.
    """
    raw: Any = message.body or b""
    body = raw.encode() if isinstance(raw, str) else bytes(memoryview(raw))
    letters: Any = message.headers.get("x-death") or ()
    deaths = sum(int(letter.get("count", 1)) for letter in letters)
    retries, nesting = meta.get("retries") or 0, meta.get("replaced_task_nesting") or 0
    return f"{_text(meta['id'])}.{retries}.{nesting}.{deaths}.{zlib.crc32(body):08x}"


def _text(value: object) -> str:
    """Give text that can be encoded: JSON may hold half a surrogate pair.

    Distinct texts stay distinct, or one call would be taken for another's duplicate.
    """
    return str(value).encode(errors="backslashreplace").decode()


def _priority(message: Message) -> int | None:
    priority = message.properties.get("priority")
    return int(priority) if isinstance(priority, int) else None
