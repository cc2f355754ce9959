"""``celery_lanes.generate``: an LLM call as a Celery task, ready to use."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from celery import shared_task
from pydantic import ValidationError

from celery_lanes.asking import asking
from celery_lanes.callinfo import CallInfo, held_by
from celery_lanes.errors import BadRequest, ConfigError, ProviderError
from celery_lanes.journeys.leg import left_s
from celery_lanes.llm import cost
from celery_lanes.llm.chains.journey import Leg
from celery_lanes.llm.messages import Message
from celery_lanes.llm.registry import Registry
from celery_lanes.llm.reply import Reply
from celery_lanes.llm.request import Request, Schema
from celery_lanes.llm.value import mistakes
from celery_lanes.publish.options import OPTIONS, nearest
from celery_lanes.streams.pump import Patience

logger = logging.getLogger(__name__)

FIRST_TOKEN_S = 120.0
"""How long a stream's first piece may take."""

IDLE_S = 60.0
"""How long a stream may be silent after it."""

registry = Registry()
"""The providers of apps without lanes; nothing is read or opened before the first call."""

Prompt = str | Sequence[Mapping[str, Any]]

_OPTIONS = Request.model_fields.keys() - {"model", "messages", "output", "params"}

_REQUIRED = {"model", "prompt"}

_KNOWN = _OPTIONS | _REQUIRED | {
    "timeout_s", "attempt_timeout_s", "stream", "first_token_s", "idle_s", "schema",
}  # fmt: skip

_OF_THE_CALL = {
    *OPTIONS, "countdown", "eta", "expires", "ignore_result", "link", "link_error", "queue",
    "soft_time_limit", "task_id", "time_limit",
}  # fmt: skip
"""What is said to ``apply_async``; ``priority`` and ``headers`` are some providers' own, too."""


def estimate_cost(
    model: str,
    prompt: Prompt,
    *,
    max_tokens: int | None = None,
    **_: Any,
) -> int:
    """Estimate a call's cost in tokens, from what the task is given."""
    return cost.estimate_cost(_request(model, prompt, max_tokens=max_tokens))


def check_keywords(keywords: Mapping[str, Any]) -> None:
    """Refuse what the provider would be sent by mistake, before anything is published.

    Raises ``BadRequest`` for the options of a publish, and what is nearly an option of a request.
    """
    further = keywords.keys() - _KNOWN
    if misplaced := sorted(further & _OF_THE_CALL):
        verb = "is an option" if len(misplaced) == 1 else "are options"
        raise BadRequest(
            f"{_listed(misplaced)} {verb} of the call, not of the request:"
            f" generate.apply_async((model, prompt), {misplaced[0]}=...)"
        )
    for name in sorted(further):
        if (meant := nearest(name, _KNOWN - _REQUIRED)) is not None:
            raise BadRequest(f"no option {name!r}; did you mean {meant}?")


@shared_task(  # type: ignore[untyped-decorator] # celery is not typed
    name="celery_lanes.generate",
    bind=True,
    acks_late=True,
    reject_on_worker_lost=True,
    throws=(ProviderError, ConfigError),  # one line in the worker's log, without a traceback
    model_arg="model",
    asks_in_lanes=True,
    estimate_cost=staticmethod(estimate_cost),
    check_keywords=staticmethod(check_keywords),
)
def generate(
    self: Any,
    model: str,
    prompt: Prompt,
    *,
    timeout_s: float | None = None,
    attempt_timeout_s: float | None = None,
    stream: bool = False,
    first_token_s: float = FIRST_TOKEN_S,
    idle_s: float = IDLE_S,
    **options: Any,
) -> dict[str, Any]:
    """Ask a model.

    Args:
        self: the task.
        model: ``provider/model``, such as ``openai/gpt-5-mini``, or several to be asked in turn,
            ``a/x,b/y``, or an alias for either. Each is asked in its own lane, to which the call
            moves as the same task.
        prompt: a text, or a list of messages: ``{"role": ..., "content": a text or parts}``.
        timeout_s: how long it may run in all; its waits in lanes do not count. By default, in each
            lane 1 s less than the soft time limit, and without one what each provider is given
            (300 s, a foreman 30 min).
        attempt_timeout_s: how long one attempt may take; what is left of it all by default.
        stream: whether ``lanes.stream(result)`` brings the reply as it comes; also an option,
            ``generate.apply_async((...), stream=True)``. The result is the same.
        first_token_s: of a stream, how long an attempt may bring nothing; the next model is asked
            then. 120 s.
        idle_s: of a stream, how long a silence may be after that; ``StreamInterrupted``. 60 s.
        options: ``tools``, ``max_tokens`` and whatever else ``Request`` knows; ``schema``, the JSON
            schema of the reply. All others are passed on to the provider, but what is nearly one of
            these, or an option of ``apply_async``, is refused where it is published.

    Returns the ``Reply`` as JSON (``{text, tool_calls, reasoning, usage: {input_tokens,
    output_tokens, ...}, model, finish_reason, request_id, attempts}``), with ``lane``, ``wait_s``
    and ``run_s``, of the lane that answered; lane and wait_s are ``None`` outside one. In a lane, a
    call whose models are all busy or benched waits for the first of them, at its place, up to 10
    minutes each time, and up to 20 times. Raises ``ProviderError`` (``ChainExhausted`` if nobody of
    several answered), and ``ConfigError`` for an unknown provider.
    """
    check_keywords(options)
    _warn_outside_lanes(self)
    chain = _registry(self).parse(model)
    asked = _request(model, prompt, **options)
    info = CallInfo.from_request(self.request) or CallInfo()
    leg = _leg(self)
    given_s = _checked(timeout_s, "timeout_s")
    began_at = time.monotonic()
    with asking(self, _patience(first_token_s, idle_s) if stream else None) as ask:
        reply = ask(
            chain,
            asked,
            timeout_s=given_s if given_s or leg else left_s(self.request, self.soft_time_limit),
            attempt_timeout_s=_checked(attempt_timeout_s, "attempt_timeout_s"),
            idempotency_key=info.call_id or self.request.id,
            info=info,
            leg=leg,
        )
    run_s = time.monotonic() - began_at
    _settle(self, cost.real_cost(reply.usage))
    return _result(reply, info, run_s)


def _warn_outside_lanes(task: Any) -> None:
    """Say once that a direct call goes by every cap, unless a task that holds a slot makes it."""
    lanes = getattr(task.app, "lanes", None)
    if lanes is None or not (task.request.called_directly and lanes.settings.enabled):
        return
    around = task.app.current_worker_task
    if around is None or held_by(around.request) is None:
        _say_it_is_outside()


@cache
def _say_it_is_outside() -> None:
    logger.warning(
        "celery_lanes: generate(...) is called directly, so it runs here and in no lane, under no"
        " cap; for a task: generate.delay(...), for a call here: lanes.chain(...).generate(...)"
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _leg(task: Any) -> Leg | None:
    lanes = getattr(task.app, "lanes", None)
    leg: Leg | None = None if lanes is None else lanes.leg(task.request)
    return leg


def _registry(task: Any) -> Registry:
    lanes = getattr(task.app, "lanes", None)
    found: Registry = registry if lanes is None else lanes.registry
    return found


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


def _checked(given: float | None, name: str) -> float | None:
    """Take a span of time. Raises ``BadRequest``."""
    if not (given is None or _is_positive(given)):
        raise BadRequest(f"expected {name} to be a positive number, got {given!r:.100}")
    return given


def _patience(first_token_s: float, idle_s: float) -> Patience:
    """Take a stream's time-outs. Raises ``BadRequest``."""
    _checked(first_token_s, "first_token_s")
    _checked(idle_s, "idle_s")
    return Patience(first_token_s, idle_s)


def _is_positive(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 < value < math.inf


def _settle(task: Any, spent: int) -> None:
    """Charge the caller what the call really cost, if the app has lanes."""
    lanes = getattr(task.app, "lanes", None)
    if lanes is not None:
        lanes.settle(task.request, spent)


def _result(reply: Reply, info: CallInfo, run_s: float) -> dict[str, Any]:
    return {
        **reply.model_dump(mode="json"),
        "lane": info.lane or None,
        "wait_s": info.wait_s,
        "run_s": run_s,
    }
