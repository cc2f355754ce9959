"""``celery_lanes.generate``: an LLM call as a Celery task, ready to use."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from celery import shared_task
from pydantic import ValidationError

from celery_lanes.callinfo import CallInfo
from celery_lanes.errors import BadRequest, ChainExhausted
from celery_lanes.llm import cost
from celery_lanes.llm.events import FailoverEvent
from celery_lanes.llm.messages import Message
from celery_lanes.llm.registry import Registry
from celery_lanes.llm.reply import Reply
from celery_lanes.llm.request import Request, Schema
from celery_lanes.llm.value import mistakes
from celery_lanes.store.health import HealthStore

MARGIN_S = 1.0
"""How long before the soft time limit the provider must have answered."""

MAX_COUNTDOWN_S = 600.0
"""The longest bench that a call whose models are all benched comes again after."""

registry = Registry()
"""This process's providers; nothing is read or opened before the first call."""

Prompt = str | Sequence[Mapping[str, Any]]

_OPTIONS = Request.model_fields.keys() - {"model", "messages", "output", "params"}


def estimate_cost(
    model: str,
    prompt: Prompt,
    *,
    max_tokens: int | None = None,
    **_: Any,
) -> int:
    """Estimate a call's cost in tokens, from what the task is given."""
    return cost.estimate_cost(_request(model, prompt, max_tokens=max_tokens))


@shared_task(  # type: ignore[untyped-decorator] # celery is not typed
    name="celery_lanes.generate",
    bind=True,
    acks_late=True,
    reject_on_worker_lost=True,
    model_arg="model",
    estimate_cost=staticmethod(estimate_cost),
)
def generate(
    self: Any,
    model: str,
    prompt: Prompt,
    *,
    timeout_s: float | None = None,
    attempt_timeout_s: float | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Ask a model.

    Args:
        self: the task.
        model: ``provider/model``, such as ``openai/gpt-5-mini``, or several to be asked in turn,
            ``a/x,b/y``, or an alias for either. All of it runs in the lane of the first.
        prompt: a text, or a list of messages: ``{"role": ..., "content": a text or parts}``.
        timeout_s: how long all of it may take; 1 s less than the soft time limit by default, and
            without one what each provider is given (300 s, a foreman 30 min).
        attempt_timeout_s: how long one attempt may take; what is left of it all by default.
        options: ``tools``, ``max_tokens`` and whatever else ``Request`` knows; ``schema``, the JSON
            schema of the reply. All others are passed on to the provider.

    Returns the ``Reply`` as JSON (``{text, tool_calls, reasoning, usage: {input_tokens,
    output_tokens, ...}, model, finish_reason, request_id, attempts}``), with ``lane``, ``wait_s``
    and ``run_s``; lane and wait_s are ``None`` outside a lane. A call whose models are all benched,
    for up to 10 minutes, is retried after that, up to ``max_retries`` (3) times. Raises
    ``ProviderError`` (``ChainExhausted`` if nobody of several answered), and ``ConfigError`` for an
    unknown provider.
    """
    chain = registry.parse(model, health=_health_of(self.app))
    asked = _request(model, prompt, **options)
    info = CallInfo.from_request(self.request) or CallInfo()
    began_at = time.monotonic()
    try:
        reply = chain.generate(
            asked,
            timeout_s=_timeout_s(self, timeout_s),
            attempt_timeout_s=_checked(attempt_timeout_s, "attempt_timeout_s"),
            idempotency_key=info.nonce or self.request.id,
            info=info,
            observer=partial(_report, self, str(chain[0])),
        )
    except ChainExhausted as error:
        if (countdown_s := _countdown_s(error)) is None:
            raise
        raise self.retry(exc=error, countdown=countdown_s) from error
    run_s = time.monotonic() - began_at
    _settle(self, cost.real_cost(reply.usage))
    return _result(reply, info, run_s)


def _health_of(app: Any) -> HealthStore | None:
    """Give the health that an app with lanes shares with all its workers."""
    lanes = getattr(app, "lanes", None)
    return None if lanes is None else lanes.health


def _request(model: str, prompt: Prompt, **options: Any) -> Request:
    """Check what the task was given. Raises ``BadRequest``."""
    messages = _messages(prompt)
    known = {option: options.pop(option) for option in _OPTIONS & options.keys()}
    set_ones = {option: value for option, value in known.items() if value is not None}
    schema = options.pop("schema", None)
    if not (schema is None or isinstance(schema, Mapping)):
        raise BadRequest(f"expected schema to be a JSON schema, got {type(schema).__name__}")
    try:
        output = None if schema is None else Schema.of(schema)
        return Request(model=model, messages=messages, output=output, **set_ones, params=options)
    except ValidationError as error:
        raise BadRequest(f"expected sound options: {mistakes(error)}") from None


def _messages(prompt: object) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        return (Message(role="user", content=prompt),)
    if isinstance(prompt, (list, tuple)) and prompt:
        return tuple(map(_message, prompt))
    raise BadRequest(
        'expected prompt to be a text or a list of {"role": ..., "content": ...}, '
        f"got {'an empty list' if prompt in ([], ()) else type(prompt).__name__}"
    )


def _message(given: object) -> Message:
    try:
        return Message.model_validate(given)
    except ValidationError as error:
        raise BadRequest(
            'expected each message to be {"role": ..., "content": a text or a list of parts}: '
            f"{mistakes(error)}"
        ) from None


def _timeout_s(task: Any, given: float | None) -> float | None:
    """Find how long the call may take, so that it is given up before Celery stops the task."""
    if given is not None:
        return _checked(given, "timeout_s")
    _, soft_s = task.request.timelimit or (None, None)
    soft_s = soft_s or task.soft_time_limit
    return max(soft_s - MARGIN_S, soft_s / 2) if soft_s else None


def _checked(given: float | None, name: str) -> float | None:
    """Take a span of time. Raises ``BadRequest``."""
    if not (given is None or _is_positive(given)):
        raise BadRequest(f"expected {name} to be a positive number, got {given!r:.100}")
    return given


def _is_positive(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 < value < math.inf


def _settle(task: Any, spent: int) -> None:
    """Charge the caller what the call really cost, if the app has lanes."""
    lanes = getattr(task.app, "lanes", None)
    if lanes is not None:
        lanes.settle(task.request, spent)


def _report(task: Any, first: str, event: FailoverEvent) -> None:
    """Let the lane know that its provider is busy, if the app has lanes; others are none of its."""
    lanes = getattr(task.app, "lanes", None)
    if lanes is None or event.kind != "attempt_failed" or not event.is_overload:
        return
    lane_for = lanes.settings.lane_for
    if lane_for(str(event.target)).lane == lane_for(first).lane:
        lanes.overloaded(task.request, retry_after=event.retry_after_s)


def _countdown_s(error: ChainExhausted) -> float | None:
    """Say when a call whose models are all benched comes again, if it does.

    Without it, all that waits in a lane would run into a short bench, and fail.
    """
    wait_s = error.retry_after_s
    was_asked = any(attempt["error_class"] != "Benched" for attempt in error.attempts)
    if was_asked or wait_s is None or wait_s > MAX_COUNTDOWN_S:
        return None
    return wait_s + random.uniform(0, wait_s)  # noqa: S311 # spreads those who wait


def _result(reply: Reply, info: CallInfo, run_s: float) -> dict[str, Any]:
    return {
        **reply.model_dump(mode="json"),
        "lane": info.lane or None,
        "wait_s": info.wait_s,
        "run_s": run_s,
    }
