"""``celery_lanes.generate``: an LLM call as a Celery task, ready to use."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from celery import shared_task
from pydantic import ValidationError

from celery_lanes.callinfo import CallInfo
from celery_lanes.errors import BadRequest, ProviderError, SpecError
from celery_lanes.llm import cost
from celery_lanes.llm.messages import Message
from celery_lanes.llm.provider import Provider
from celery_lanes.llm.registry import Registry
from celery_lanes.llm.reply import Reply
from celery_lanes.llm.request import Request, Schema
from celery_lanes.llm.target import Target
from celery_lanes.llm.value import mistakes

MARGIN_S = 1.0
"""How long before the soft time limit the provider must have answered."""

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
    **options: Any,
) -> dict[str, Any]:
    """Ask a model.

    Args:
        self: the task.
        model: ``provider/model``, such as ``openai/gpt-5-mini``, or an alias for one.
        prompt: a text, or a list of messages: ``{"role": ..., "content": a text or parts}``.
        timeout_s: how long the provider may take; 1 s less than the soft time limit by default,
            and without one what the provider is given (300 s, a foreman 30 min).
        options: ``tools``, ``max_tokens`` and whatever else ``Request`` knows; ``schema``, the JSON
            schema of the reply. All others are passed on to the provider.

    Returns the ``Reply`` as JSON (``{text, tool_calls, reasoning, usage: {input_tokens,
    output_tokens, ...}, model, finish_reason, request_id}``), with ``lane``, ``wait_s`` and
    ``run_s``; lane and wait_s are ``None`` outside a lane. Raises ``ProviderError``, and
    ``ConfigError`` for an unknown provider.
    """
    target = _target(model)
    asked = _request(target.model, prompt, **options)
    deadline_s = _timeout_s(self, timeout_s, target.provider)
    info = CallInfo.from_request(self.request) or CallInfo()
    began_at = time.monotonic()
    try:
        reply = target.generate(
            asked, timeout_s=deadline_s, idempotency_key=info.nonce or self.request.id
        )
    except ProviderError as error:
        _report(self, error)
        raise
    run_s = time.monotonic() - began_at
    _settle(self, cost.real_cost(reply.usage))
    return _result(reply, info, run_s)


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


def _target(model: str) -> Target:
    """Find who is asked. Raises ``SpecError`` for several: nothing tries them in turn yet."""
    target, *others = registry.parse(model)
    if others:
        raise SpecError(f"expected one target, got {len(others) + 1}: chains are not run yet")
    return target


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


def _timeout_s(task: Any, given: float | None, provider: Provider) -> float:
    """Find how long the provider may take, so that it gives up before Celery stops the task."""
    if given is not None:
        if not _is_positive(given):
            raise BadRequest(f"expected timeout_s to be a positive number, got {given!r:.100}")
        return float(given)
    _, soft_s = task.request.timelimit or (None, None)
    soft_s = soft_s or task.soft_time_limit
    return max(soft_s - MARGIN_S, soft_s / 2) if soft_s else provider.timeout_s


def _is_positive(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 < value < math.inf


def _settle(task: Any, spent: int) -> None:
    """Charge the caller what the call really cost, if the app has lanes."""
    lanes = getattr(task.app, "lanes", None)
    if lanes is not None:
        lanes.settle(task.request, spent)


def _report(task: Any, error: ProviderError) -> None:
    """Let the lane know that the provider is busy, if the app has lanes."""
    lanes = getattr(task.app, "lanes", None)
    if lanes is not None and error.is_overload:
        lanes.overloaded(task.request, retry_after=error.retry_after_s)


def _result(reply: Reply, info: CallInfo, run_s: float) -> dict[str, Any]:
    return {
        **reply.model_dump(mode="json"),
        "lane": info.lane or None,
        "wait_s": info.wait_s,
        "run_s": run_s,
    }
