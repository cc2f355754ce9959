"""HTTP to a provider, one deadline a call, no retries, typed failures; nobody else uses httpx."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from celery_lanes import errors
from celery_lanes.llm.deadline import Deadline
from celery_lanes.llm.dsn import Dsn
from celery_lanes.llm.http import refusals
from celery_lanes.llm.http.answer import Answer
from celery_lanes.llm.http.framing import Framing, LineTooLong
from celery_lanes.llm.http.hangup import Hangup, hangup_here
from celery_lanes.llm.http.network import transport
from celery_lanes.llm.http.waits import retry_after_s
from celery_lanes.llm.http.wire import Question

Transport = httpx.BaseTransport
MAX_MESSAGE = 500
MAX_REPLY = 64 * 1024 * 1024
"""The largest reply that is read, in bytes."""

_PLAIN = {"", "identity", "gzip", "deflate"}
"""Codings of a body that grow little: what was packed twice, or by others, may grow to any size."""

_REQUEST_IDS = ("x-request-id", "request-id", "x-goog-request-id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Whose call it is, and how long it may take."""

    model: str
    deadline: Deadline
    idempotency_key: str | None = None
    hangup: Hangup = field(default_factory=hangup_here)


class HttpClient:
    """One provider's connections; safe to share between threads, and to fork.

    Args:
        name: the provider's, for messages.
        dsn: its address, and the key that is cut out of all messages.
        headers: sent with each request.
        transport: an httpx transport, in tests.
    """

    def __init__(
        self,
        name: str,
        dsn: Dsn,
        *,
        headers: Mapping[str, str],
        transport: Transport | None = None,
    ) -> None:
        self._name = name
        self._base_url = dsn.base_url
        self._token = dsn.token
        self._headers = headers
        self._transport = transport
        self._clients: dict[int, httpx.Client] = {}

    def __repr__(self) -> str:
        return f"HttpClient({self._name!r})"

    def close(self) -> None:
        """Close this process's connections; a forked child leaves its parent's alone."""
        if (client := self._clients.pop(os.getpid(), None)) is not None:
            client.close()

    def post(self, question: Question, call: Call) -> tuple[Any, Mapping[str, str]]:
        """Post JSON; give the answer's JSON and headers. Raises ``ProviderError``."""
        with closing(self.stream(question, call)) as answer:
            return _json(self._content(answer, call)), answer.headers

    def stream(self, question: Question, call: Call) -> Answer:
        """Post JSON, and give the answer whose body has not been read. Raises ``ProviderError``."""
        call.hangup.opens()
        try:
            response = self._client().send(self._request(question, call), stream=True)
        except httpx.RequestError as error:
            raise self._unanswered(call, error) from error
        answer = Answer(response, call.deadline)
        if (coding := answer.headers.get("content-encoding", "").strip().lower()) not in _PLAIN:
            answer.close()
            what = f"answered oddly: in the coding {coding!r:.50}, which was not asked for"
            raise self.no_reply(call.model, what, headers=answer.headers)
        if response.is_success:
            return answer
        with closing(answer):
            payload = _json(self._content(answer, call))
        raise self.failure(call.model, payload, status=answer.status, headers=answer.headers)

    def events(self, answer: Answer, framing: Framing, call: Call) -> Iterator[str]:
        """Give a body's events as they come. Raises ``ProviderError``."""
        try:
            yield from framing(self._pieces(answer, call))
        except LineTooLong as error:
            raise self.no_reply(call.model, f"answered oddly: {error}") from None

    def failure(
        self,
        model: str,
        payload: object,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> errors.ProviderError:
        """Word a refusal; the key is cut out of what the provider says."""
        said = self._without_key(refusals.message(payload))[:MAX_MESSAGE]
        answered = "answered with an error" if status is None else f"answered {status}"
        text = f"{self._name}/{model} {answered}: {said or 'no message'}"
        kind = refusals.classify(status, payload, said)
        headers = headers or {}
        return kind(text, status, retry_after_s(headers, payload), self.request_id(headers))

    def no_reply(
        self,
        model: str,
        what: str,
        kind: type[errors.ProviderError] = errors.TransientError,
        headers: Mapping[str, str] | None = None,
    ) -> errors.ProviderError:
        """Word an answer that is none."""
        text = self._without_key(f"{self._name}/{model} {what}")
        return kind(text, None, None, self.request_id(headers or {}))

    def request_id(self, headers: Mapping[str, str]) -> str | None:
        """Find the provider's name for the request."""
        found = (headers.get(name) for name in _REQUEST_IDS)
        return next((self._without_key(name)[:MAX_MESSAGE] for name in found if name), None)

    def _client(self) -> httpx.Client:
        """Give this process's connections: a forked child must not share its parent's."""
        pid = os.getpid()
        if (client := self._clients.get(pid)) is not None:
            return client
        used = self._transport or transport(self._base_url)
        new = httpx.Client(headers=self._headers, transport=used)
        return self._clients.setdefault(pid, new)  # no lock: it might be forked

    def _request(self, question: Question, call: Call) -> httpx.Request:
        key = quote(call.idempotency_key, errors="replace") if call.idempotency_key else ""
        return self._client().build_request(
            "POST",
            self._base_url + question.path,
            content=_to_json(question.body),
            headers={
                "Accept-Encoding": "identity",  # what is packed is held back by who packs it
                "Content-Type": "application/json",
                **({"Idempotency-Key": key} if key else {}),
            },
            extensions={"timeout": call.deadline},
        )

    def _content(self, answer: Answer, call: Call) -> bytes:
        return b"".join(self._pieces(answer, call))

    def _pieces(self, answer: Answer, call: Call) -> Iterator[bytes]:
        size = 0
        try:
            for piece in answer:
                yield piece
                size += len(piece)
                if call.deadline.is_over:
                    raise httpx.ReadTimeout("the answer came too slowly")
                if size > MAX_REPLY:
                    raise self.no_reply(call.model, f"sent more than {MAX_REPLY} bytes")
        except httpx.RequestError as error:
            raise self._unanswered(call, error) from error

    def _unanswered(self, call: Call, error: httpx.RequestError) -> errors.TransientError:
        call.hangup.check(error)
        said = self._without_key(str(error)) or type(error).__name__
        kind = errors.TransientError
        match error:
            case _ if call.hangup.lapsed:
                what = call.hangup.lapsed
            case httpx.ConnectTimeout() if call.deadline.is_over:
                what = str(
                    call.deadline
                )  # the caller's time is up: that says nothing of the server
            case httpx.ConnectError() | httpx.ConnectTimeout():
                kind = errors.Unreachable
                what = f"cannot be reached at {self._base_url}: {said}"
            case httpx.TimeoutException():
                what = str(call.deadline)
            case _:
                what = f"broke off: {said}"
        failure = call.deadline.noted_on(kind(f"{self._name}/{call.model} {what}"))
        if call.hangup.lapsed:
            failure.given_s = call.hangup.silent_s
        return failure

    def _without_key(self, text: str) -> str:
        token = self._token.get_secret_value() if self._token else ""
        return text.replace(token, "***") if token else text


def _to_json(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise errors.BadRequest(f"the request cannot be written as JSON: {error}") from error


def _json(content: bytes) -> Any:
    """Read JSON, or give the text that it is."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content.decode(errors="replace")
