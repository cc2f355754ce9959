"""``celery_lanes.generate``: an LLM call as a Celery task, ready to use."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from celery import shared_task

from celery_lanes.callinfo import CallInfo
from celery_lanes.errors import BadRequest
from celery_lanes.llm import base
from celery_lanes.llm.registry import Registry, parse_target

DEFAULT_TIMEOUT_S = 300.0
MARGIN_S = 1.0
"""How long before the soft time limit the provider must have answered."""

registry = Registry(os.environ)
"""This process's providers; nothing is read or opened before the first call."""

Prompt = str | Sequence[Mapping[str, str]]


def estimate_cost(
    model: str,
    prompt: Prompt,
    *,
    max_tokens: int | None = None,
    **_: Any,
) -> int:
    """Estimate a call's cost in tokens, from what the task is given."""
    return base.estimate_cost(_request(model, prompt, max_tokens=max_tokens))


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
    max_tokens: int | None = None,
    temperature: float | None = None,
    timeout_s: float | None = None,
    **params: Any,
) -> dict[str, Any]:
    """Ask a model.

    Args:
        self: the task.
        model: ``provider/model``, such as ``openai/gpt-5-mini``.
        prompt: a text, or a list of ``{"role": ..., "content": ...}``.
        max_tokens: at most so many output tokens.
        temperature: the provider's own default if ``None``.
        timeout_s: how long the provider may take; 1 s less than the soft time limit by default,
            and 300 s without one.
        params: passed on to the provider.

    Returns ``{text, usage: {input_tokens, output_tokens}, model, finish_reason, lane, wait_s,
    run_s}``; lane and wait_s are ``None`` outside a lane. Raises ``ProviderError``, and
    ``ConfigError`` for an unknown provider.
    """
    asked = _request(model, prompt, max_tokens=max_tokens, temperature=temperature, params=params)
    provider, _ = registry.resolve(model)
    deadline_s = _timeout_s(self, timeout_s)
    info = CallInfo.from_request(self.request) or CallInfo()
    began_at = time.monotonic()
    reply = provider.generate(
        asked, timeout_s=deadline_s, idempotency_key=info.nonce or self.request.id
    )
    run_s = time.monotonic() - began_at
    _settle(self, base.real_cost(reply.usage))
    return _result(reply, info, run_s)


def _request(model: str, prompt: Prompt, **options: Any) -> base.Request:
    """Check what the task was given. Raises ``BadRequest``."""
    _, name = parse_target(model)
    max_tokens = options["max_tokens"]
    if max_tokens is not None and not (isinstance(max_tokens, int) and max_tokens > 0):
        raise BadRequest(f"expected max_tokens to be a positive integer, got {max_tokens!r:.100}")
    return base.Request(model=name, messages=_messages(prompt), **options)


def _messages(prompt: object) -> tuple[base.Message, ...]:
    if isinstance(prompt, str):
        return (base.Message("user", prompt),)
    if isinstance(prompt, (list, tuple)) and prompt:
        return tuple(map(_message, prompt))
    raise BadRequest(
        'expected prompt to be a text or a list of {"role": ..., "content": ...}, '
        f"got {'an empty list' if prompt in ([], ()) else type(prompt).__name__}"
    )


def _message(given: object) -> base.Message:
    if isinstance(given, Mapping) and given.keys() == {"role", "content"}:
        role, content = given["role"], given["content"]
        if isinstance(role, str) and isinstance(content, str):
            return base.Message(role, content)
    raise BadRequest('expected each message to be {"role": a text, "content": a text}')


def _timeout_s(task: Any, given: float | None) -> float:
    """Find how long the provider may take, so that it gives up before Celery stops the task."""
    if given is not None:
        if not _is_positive(given):
            raise BadRequest(f"expected timeout_s to be a positive number, got {given!r:.100}")
        return float(given)
    _, soft_s = task.request.timelimit or (None, None)
    soft_s = soft_s or task.soft_time_limit
    return max(soft_s - MARGIN_S, soft_s / 2) if soft_s else DEFAULT_TIMEOUT_S


def _is_positive(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 < value < math.inf


def _settle(task: Any, cost: int) -> None:
    """Charge the caller what the call really cost, if the app has lanes."""
    lanes = getattr(task.app, "lanes", None)
    if lanes is not None:
        lanes.settle(task.request, cost)


def _result(reply: base.Reply, info: CallInfo, run_s: float) -> dict[str, Any]:
    usage = {
        "input_tokens": reply.usage.input_tokens,
        "output_tokens": reply.usage.output_tokens,
    }
    return {
        "text": reply.text,
        "usage": usage,
        "model": reply.model,
        "finish_reason": reply.finish_reason,
        "lane": info.lane or None,
        "wait_s": info.wait_s,
        "run_s": run_s,
    }
