"""What is asked through another library: its failures in our words, its replies as ours."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping

from billiard.exceptions import SoftTimeLimitExceeded

from celery_lanes import errors
from celery_lanes.llm.assembly import Assembly
from celery_lanes.llm.deadline import Deadline
from celery_lanes.llm.http import refusals
from celery_lanes.llm.http.client import MAX_MESSAGE
from celery_lanes.llm.http.hangup import hangup_here
from celery_lanes.llm.http.waits import retry_after_s
from celery_lanes.llm.reply import Done, Piece
from celery_lanes.llm.stream import interrupted

_SHORTEST_SECRET = 8
_SECRETS = ("_KEY", "_SECRET", "_TOKEN")

_BY_CLASS: Mapping[str, type[errors.ProviderError]] = {
    "APIConnectionError": errors.TransientError,
    "BudgetExceededError": errors.QuotaExhausted,
    "ContentFilterError": errors.ContentFiltered,
    "ContentPolicyViolationError": errors.ContentFiltered,
    "ContextWindowExceededError": errors.ContextTooLong,
    "ModelAuthenticationError": errors.AuthenticationFailed,
    "ModelContextWindowExceededError": errors.ContextTooLong,
    "ModelNotFoundError": errors.ModelNotFound,
    "ModelQuotaExceededError": errors.QuotaExhausted,
    "ModelRateLimitError": errors.RateLimited,
    "Timeout": errors.TransientError,
    "UnsupportedParamsError": errors.Unsupported,
    "UserError": errors.BadRequest,  # a model, a setting or a key that it does not have
}
"""By name, for not all versions have all of them; the status decides of all others."""


def failure(who: str, deadline: Deadline, error: Exception) -> errors.ProviderError:
    """Word another library's error; what looks like one of the environment's keys is cut out.

    Raises what ended the call from without, if the error only hides it.
    """
    for hidden in _causes(error):
        if isinstance(hidden, (SoftTimeLimitExceeded, errors.LanesError)):
            raise hidden
    status, body = getattr(error, "status_code", None), getattr(error, "body", None)
    said = _without_keys(f"{type(error).__name__}: {' '.join(str(error).split())}")[:MAX_MESSAGE]
    names = [kind.__name__ for kind in type(error).__mro__]
    by_class = next((_BY_CLASS[name] for name in names if name in _BY_CLASS), None)
    kind = by_class or refusals.classify(status, body, said)
    if kind is errors.BadRequest and "not supported" in said:
        kind = errors.Unsupported
    headers = _headers(error)
    wait_s = getattr(error, "retry_after", None) or retry_after_s(headers, body)
    worded = kind(f"{who} failed: {said}", status, wait_s, headers.get("x-request-id"))
    return deadline.noted_on(worded)


def relayed(
    pieces: Iterator[Piece],
    assembly: Assembly,
    deadline: Deadline,
    failed: Callable[[Exception], errors.ProviderError],
) -> Iterator[Piece | Done]:
    """Put pieces together as they come, each a sign of life; ``failed`` words what goes wrong."""
    hangup = hangup_here()
    try:
        for piece in pieces:
            assembly.add(piece)
            hangup.lives()
            yield piece
            deadline.renew()
    except Exception as error:  # whatever the library, and who it asks, may raise
        failure = error if isinstance(error, errors.ProviderError) else failed(error)
        if assembly.has_begun:
            raise interrupted(failure, assembly) from error
        raise failure from error
    yield Done(reply=assembly.reply())


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in seen:
        yield at
        seen.append(at)
        at = at.__cause__ or at.__context__


def _headers(error: Exception) -> Mapping[str, str]:
    found = getattr(error, "headers", None) or getattr(
        getattr(error, "response", None), "headers", None
    )
    return {k.lower(): v for k, v in found.items()} if found else {}


def _without_keys(text: str) -> str:
    """Cut out the keys, which the library has from the environment: we do not know which."""
    for name, value in os.environ.items():
        if name.endswith(_SECRETS) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, "***")
    return text
