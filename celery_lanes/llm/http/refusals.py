"""What kind of failure a provider's answer is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from celery_lanes import errors
from celery_lanes.llm.fields import mapping, mappings, string

_REFUSED, _SERVER_ERROR, _STATUSES_END = 400, 500, 600
_BUSY: Mapping[str, int] = {"overloaded_error": 529, "UNAVAILABLE": 503}

_BY_STATUS: Mapping[int | None, type[errors.ProviderError]] = {
    **dict.fromkeys((400, 405, 422), errors.BadRequest),
    **dict.fromkeys((401, 403), errors.AuthenticationFailed),
    402: errors.QuotaExhausted,
    404: errors.ModelNotFound,
    413: errors.ContextTooLong,
    429: errors.RateLimited,
}
_BY_CODE: Mapping[str, type[errors.ProviderError]] = {
    **dict.fromkeys(
        ("billing_error", "billing_hard_limit_reached", "insufficient_quota"),
        errors.QuotaExhausted,
    ),
    **dict.fromkeys(("content_filter", "content_policy_violation"), errors.ContentFiltered),
    **dict.fromkeys(("context_length_exceeded", "request_too_large"), errors.ContextTooLong),
    **dict.fromkeys(
        ("invalid_model", "model_decommissioned", "model_not_found", "not_found_error"),
        errors.ModelNotFound,
    ),
    **dict.fromkeys(
        ("API_KEY_INVALID", "authentication_error", "invalid_api_key", "permission_error"),
        errors.AuthenticationFailed,
    ),
    **dict.fromkeys(
        ("RESOURCE_EXHAUSTED", "rate_limit_error", "rate_limit_exceeded"), errors.RateLimited
    ),
    **dict.fromkeys(
        ("UNAVAILABLE", "api_error", "overloaded_error", "timeout_error"), errors.TransientError
    ),
}
_NO_QUOTA = (
    r"credit balance|insufficient (balance|credits|funds|quota)|requests?perday|daily quota"
    r"|doesn't have any credits|used all available credits|specified api usage limits"
)
_TOO_LONG = (
    r"maximum (context|prompt length)|context (length|limit|size|window)|prompt is too long"
    r"|input token count .{0,60}exceeds|inputs?`? tokens .{0,40}must be <="
)
_FILTERED = (
    r"content[ _](management )?(filter|policy|policies)"
    r"|flagged as potentially violating|violates usage guidelines"
)
_NO_MODEL = (
    r"not a valid model|invalid model:|model .{0,100}(does not exist|not found)|model not exist"
)
_UNABLE = (
    r"does not support (chat|images|thinking|tools|vision)"
    r"|support (image input|tool use)|tools?`? (use )?is not supported"
)
_BY_MESSAGE = (
    (_NO_QUOTA, errors.QuotaExhausted),
    (_TOO_LONG, errors.ContextTooLong),
    (_FILTERED, errors.ContentFiltered),
    (_NO_MODEL, errors.ModelNotFound),
    (r"api key not valid|user location is not supported", errors.AuthenticationFailed),
    (_UNABLE, errors.Unsupported),
)
_REFINES: Mapping[int | None, tuple[type[errors.ProviderError], ...]] = {
    **dict.fromkeys((401, 402, 408, 409, 413), ()),
    429: (errors.QuotaExhausted,),  # "too many tokens, slow down" is not about the context
}
"""What a body may make of a status that says enough by itself; of the others, anything."""


def classify(status: int | None, payload: object, said: str) -> type[errors.ProviderError]:
    """Go by status, then the body's code or type, then its message; unknown is transient.

    A 500 that mentions a policy is an outage.
    """
    if status is not None and status >= _SERVER_ERROR:
        return errors.TransientError
    by_code = [_BY_CODE[code] for code in sorted(_codes(payload)) if code in _BY_CODE]
    words = " ".join((said, *_quotas(payload)))
    by_message = [kind for form, kind in _BY_MESSAGE if re.search(form, words, re.IGNORECASE)]
    fit = _REFINES.get(status, (errors.ProviderError,))
    refined = (kind for kind in [*by_code, *by_message] if issubclass(kind, fit))
    return next(refined, _BY_STATUS.get(status, errors.TransientError))


def status_within(payload: object) -> int | None:
    """Give the status that an error would have had, if it had not come with 200."""
    codes = [code for code in _codes(payload) if code in _BUSY]
    told = mapping(_error(payload)).get("code")
    if isinstance(told, int) and _REFUSED <= told < _STATUSES_END:
        return told
    return _BUSY[min(codes)] if codes else None


def message(payload: object) -> str:
    """Find what the provider says, in the shapes of error that there are; on one line."""
    error = _error(payload)
    if not isinstance(error, Mapping):
        return _on_one_line(error)
    return _on_one_line(error.get("message") or error.get("detail") or error)


def _codes(payload: object) -> set[str]:
    error = mapping(_error(payload))
    details = (detail.get("reason") for detail in mappings(error.get("details")))
    found = (error.get("code"), error.get("type"), error.get("status"), *details)
    return {code for code in found if isinstance(code, str)}


def _quotas(payload: object) -> Iterator[str]:
    """Give the names of Google's quotas that are used up: those per day are not over soon."""
    for detail in mappings(mapping(_error(payload)).get("details")):
        for violation in mappings(detail.get("violations")):
            yield str(violation.get("quotaId", ""))


def _error(payload: object) -> object:
    if isinstance(payload, list) and payload:  # Gemini's
        payload = payload[0]
    return payload.get("error", payload) if isinstance(payload, Mapping) else payload


def _on_one_line(said: object) -> str:
    text = string(said)
    return " ".join((json.dumps(said) if text is None else text).split())
