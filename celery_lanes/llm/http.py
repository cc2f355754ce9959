"""HTTP to a provider, one deadline a call, no retries, typed failures; nobody else uses httpx."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import httpx

from celery_lanes import errors
from celery_lanes.llm.base import Deadline
from celery_lanes.llm.dsn import Dsn

Transport = httpx.BaseTransport
MAX_MESSAGE = 500

_SERVER_ERROR = 500
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=100)  # the lane is the cap

_BY_STATUS: Mapping[int | None, type[errors.ProviderError]] = {
    **dict.fromkeys((400, 405, 422), errors.BadRequest),
    **dict.fromkeys((401, 403), errors.AuthenticationFailed),
    402: errors.QuotaExhausted,
    404: errors.ModelNotFound,
    413: errors.ContextTooLong,
    429: errors.RateLimited,
}
_BY_CODE: Mapping[str, type[errors.ProviderError]] = {
    **dict.fromkeys(("billing_hard_limit_reached", "insufficient_quota"), errors.QuotaExhausted),
    **dict.fromkeys(("content_filter", "content_policy_violation"), errors.ContentFiltered),
    "context_length_exceeded": errors.ContextTooLong,
    **dict.fromkeys(("model_decommissioned", "model_not_found"), errors.ModelNotFound),
    "rate_limit_exceeded": errors.RateLimited,
}
_BY_MESSAGE = (
    (r"credit balance|insufficient (balance|credits|funds|quota)", errors.QuotaExhausted),
    (r"maximum context|context (length|window|size)|prompt is too long", errors.ContextTooLong),
    (r"content[ _](management )?(filter|policy|policies)", errors.ContentFiltered),
    (r"not a valid model|model .{0,100}(does not exist|not found)", errors.ModelNotFound),
)
_REFINES: Mapping[int | None, tuple[type[errors.ProviderError], ...]] = {
    **dict.fromkeys((401, 402, 408, 409, 413), ()),
    429: (errors.QuotaExhausted,),  # "too many tokens, slow down" is not about the context
}
"""What a body may make of a status that says enough by itself; of the others, anything."""


class HttpClient:
    """One provider's connections; safe to share between threads, not across a fork."""

    def __init__(self, name: str, dsn: Dsn, *, transport: Transport | None = None) -> None:
        self._name = name
        self._base_url = dsn.base_url
        self._token = dsn.token.get_secret_value() if dsn.token else ""
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        self._client = httpx.Client(headers=headers, transport=transport, limits=_LIMITS)
        self.close = self._client.close

    def post(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        model: str,
        timeout_s: float,
        idempotency_key: str | None = None,
    ) -> Any:
        """Post JSON and give the JSON of the answer. Raises ``ProviderError``."""
        key = (
            {"Idempotency-Key": quote(idempotency_key, errors="replace")} if idempotency_key else {}
        )
        request = self._client.build_request(
            "POST",
            self._base_url + path,
            content=_to_json(body),
            headers={"Content-Type": "application/json", **key},
            extensions={"timeout": Deadline(timeout_s)},
        )
        try:
            response, content = self._exchange(request)
        except httpx.RequestError as error:
            raise self._unanswered(model, timeout_s, error) from error
        return self._payload(model, response, content)

    def failure(
        self,
        model: str,
        payload: object,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> errors.ProviderError:
        """Word a refusal; the key is cut out of what the provider says."""
        codes, said = _read_error(payload)
        said = self._without_key(said)[:MAX_MESSAGE]
        answered = "answered with an error" if status is None else f"answered {status}"
        text = f"{self._name}/{model} {answered}: {said or 'no message'}"
        return _classify(status, codes, said)(text, status, retry_after_s(headers or {}))

    def _exchange(self, request: httpx.Request) -> tuple[httpx.Response, bytes]:
        content = bytearray()
        with closing(self._client.send(request, stream=True)) as response:
            for piece in response.iter_bytes():
                content += piece
                if request.extensions["timeout"].is_over:
                    raise httpx.ReadTimeout("the answer came too slowly", request=request)
        return response, bytes(content)

    def _payload(self, model: str, reply: httpx.Response, content: bytes) -> Any:
        try:
            payload = json.loads(content)
        except ValueError:
            payload = content.decode(errors="replace")
        if not reply.is_success:
            raise self.failure(model, payload, status=reply.status_code, headers=reply.headers)
        return payload

    def _unanswered(self, model: str, timeout_s: float, error: httpx.RequestError) -> Exception:
        said = self._without_key(str(error)) or type(error).__name__
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            what = f"cannot be reached at {self._base_url}: {said}"
        elif isinstance(error, httpx.TimeoutException):
            what = f"gave no answer within {timeout_s:g} s"
        else:
            what = f"broke off: {said}"
        return errors.TransientError(f"{self._name}/{model} {what}")

    def _without_key(self, text: str) -> str:
        return text.replace(self._token, "***") if self._token else text


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Read ``retry-after-ms``, or ``retry-after`` in seconds or as a date.

    ``None`` of what is missing, malformed, past, infinite or 0.
    """
    after = headers.get("retry-after", "")
    seconds = _number(headers.get("retry-after-ms", ""), math.nan) / 1000
    if math.isnan(seconds):
        seconds = _number(after, _until(after))
    return seconds if 0 < seconds < math.inf else None


def _number(text: str, otherwise: float) -> float:
    try:
        return float(text)
    except ValueError:
        return otherwise


def _until(date: str) -> float:
    try:
        when = parsedate_to_datetime(date)
    except (ValueError, TypeError):
        return math.nan
    when = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
    return (when - datetime.now(timezone.utc)).total_seconds()


def _to_json(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise errors.BadRequest(f"the request cannot be written as JSON: {error}") from error


def _classify(status: int | None, codes: set[str], said: str) -> type[errors.ProviderError]:
    """Go by status, then the body's code or type, then its message; unknown is transient.

    A 500 that mentions a policy is an outage.
    """
    if status is not None and status >= _SERVER_ERROR:
        return errors.TransientError
    by_code = [_BY_CODE[code] for code in sorted(codes) if code in _BY_CODE]
    by_message = [kind for words, kind in _BY_MESSAGE if re.search(words, said, re.IGNORECASE)]
    fit = _REFINES.get(status, (errors.ProviderError,))
    refined = (kind for kind in [*by_code, *by_message] if issubclass(kind, fit))
    return next(refined, _BY_STATUS.get(status, errors.TransientError))


def _read_error(payload: object) -> tuple[set[str], str]:
    """Find the codes and the message in the shapes of error that providers answer with."""
    if isinstance(payload, list) and payload:  # Gemini's
        payload = payload[0]
    error = payload.get("error", payload) if isinstance(payload, Mapping) else payload
    if not isinstance(error, Mapping):
        return set(), _on_one_line(error)
    codes = {code for key in ("code", "type") if isinstance(code := error.get(key), str)}
    return codes, _on_one_line(error.get("message") or error.get("detail") or error)


def _on_one_line(said: object) -> str:
    return " ".join((said if isinstance(said, str) else json.dumps(said)).split())
