"""A provider behind HTTP: a wire, and the connections that it is spoken over."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from celery_lanes.errors import ProviderError, Unsupported
from celery_lanes.llm.assembly import Assembly
from celery_lanes.llm.capabilities import Capabilities
from celery_lanes.llm.deadline import Deadline
from celery_lanes.llm.dsn import Dsn
from celery_lanes.llm.http import refusals
from celery_lanes.llm.http.answer import Answer
from celery_lanes.llm.http.client import Call, HttpClient, Transport
from celery_lanes.llm.http.framing import Framing, server_sent_events, whole
from celery_lanes.llm.http.waits import quotas_in
from celery_lanes.llm.http.wire import NoReply, Wire
from celery_lanes.llm.provider import IDLE_S, TIMEOUT_S, Named
from celery_lanes.llm.reply import Done, Piece, Reply
from celery_lanes.llm.request import Request
from celery_lanes.llm.stream import Stream, interrupted

_LAST_EVENT = "[DONE]"

Reader = Callable[[Mapping[str, Any], Assembly], Iterable[Piece]]


class HttpProvider(Named):
    """One account at one server.

    Args:
        name: what stands before the slash in ``provider/model``.
        dsn: its address and key.
        wire: the kind of API that it has.
        timeout_s: how many seconds a call may take if its caller does not say.
        transport: an httpx transport, in tests.
    """

    def __init__(
        self,
        name: str,
        dsn: Dsn,
        wire: Wire,
        *,
        timeout_s: float = TIMEOUT_S,
        transport: Transport | None = None,
    ) -> None:
        token = dsn.token.get_secret_value() if dsn.token else ""
        super().__init__(name, timeout_s)
        self._wire = wire
        self._http = HttpClient(name, dsn, headers=wire.headers(token), transport=transport)

    def __repr__(self) -> str:
        return f"HttpProvider({self._name!r}, {type(self._wire).__name__})"

    def capabilities(self, model: str) -> Capabilities:  # noqa: ARG002 # one API for all models
        """Say what a model can be asked for."""
        return self._wire.capabilities

    def generate(
        self, request: Request, *, timeout_s: float, idempotency_key: str | None = None
    ) -> Reply:
        """Answer within ``timeout_s`` seconds, without retries. Raises ``ProviderError``.

        Usage that the server leaves out is estimated.
        """
        call = self._call(request, timeout_s, math.inf, idempotency_key)
        payload, headers = self._http.post(self._wire.question(request, is_stream=False), call)
        assembly = self._assembly(request, headers)
        for piece in self._read(self._wire.read, payload, assembly, headers):
            assembly.add(piece)
        return assembly.reply()

    def stream(
        self,
        request: Request,
        *,
        timeout_s: float,
        idle_s: float = IDLE_S,
        idempotency_key: str | None = None,
    ) -> Stream:
        """Answer piece by piece, likewise; a silence of ``idle_s`` seconds is an error, too."""
        call = self._call(request, timeout_s, idle_s, idempotency_key)
        answer = self._http.stream(self._wire.question(request, is_stream=True), call)
        assembly = self._assembly(request, answer.headers)
        return Stream(self._deltas(answer, call, assembly), assembly, answer.close)

    def close(self) -> None:
        """Close this process's connections."""
        self._http.close()

    def _call(
        self, request: Request, timeout_s: float, idle_s: float, idempotency_key: str | None
    ) -> Call:
        """Refuse what there is no place for; then the clock runs."""
        if missing := self._wire.capabilities.missing(request):
            raise Unsupported(
                f"{self._name}/{request.model} has no place for {' and '.join(missing)}"
            )
        deadline = Deadline(timeout_s, idle_s=idle_s)
        return Call(model=request.model, deadline=deadline, idempotency_key=idempotency_key)

    def _assembly(self, request: Request, headers: Mapping[str, str]) -> Assembly:
        """Begin a reply with what its headers say."""
        request_id = self._http.request_id(headers)
        return Assembly(request, request_id=request_id, quotas=quotas_in(headers))

    def _deltas(self, answer: Answer, call: Call, assembly: Assembly) -> Iterator[Piece | Done]:
        framing, reader = self._manner(answer)
        assembly.has_ended = framing is whole  # with its first event
        events = self._http.events(answer, framing, call)
        try:
            for text in _until_last(events, assembly):
                for piece in self._read(reader, _parsed(text), assembly, answer.headers):
                    assembly.add(piece)
                    call.hangup.lives()
                    yield piece
                    call.deadline.renew()
            if not assembly.is_complete:
                what = "broke off: the stream ended before the reply"
                raise self._http.no_reply(call.model, what, headers=answer.headers)
        except ProviderError as error:
            call.hangup.check(error)
            if assembly.has_begun:
                raise interrupted(error, assembly) from error
            raise
        answer.was_read = True
        yield Done(reply=assembly.reply())

    def _manner(self, answer: Answer) -> tuple[Framing, Reader]:
        """Say how to read a stream: some gateways answer with a whole reply, or a whole error."""
        kind = answer.headers.get("content-type", "")
        if self._wire.framing is server_sent_events and kind.startswith("application/json"):
            return whole, self._wire.read
        return self._wire.framing, self._wire.read_event

    def _read(
        self, reader: Reader, payload: object, assembly: Assembly, headers: Mapping[str, str]
    ) -> Iterator[Piece]:
        """Read what came with status 200, which is an error all the same with some gateways."""
        model = assembly.request.model
        if not isinstance(payload, Mapping):
            what = "answered oddly: no JSON object in the reply"
            raise self._http.no_reply(model, what, headers=headers)
        if payload.get("error"):
            status = refusals.status_within(payload)
            raise self._http.failure(model, payload, status=status, headers=headers)
        try:
            yield from reader(payload, assembly)
        except NoReply as none:
            raise self._http.no_reply(model, str(none), none.kind, headers) from None


def _until_last(events: Iterator[str], assembly: Assembly) -> Iterator[str]:
    """Give events up to the one that says, or is read as, the end; the rest stays unread."""
    for text in events:
        if text.strip() == _LAST_EVENT:
            assembly.has_ended = assembly.has_begun or assembly.has_ended
            return
        yield text
        if assembly.has_ended:
            return


def _parsed(text: str) -> object:
    try:
        parsed: object = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return parsed
