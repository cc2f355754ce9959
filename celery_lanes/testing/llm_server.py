"""The LLM stub's HTTP: requests are read, served, and answered whole, in pieces, or not."""

from __future__ import annotations

import json
import select
import socket
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from celery_lanes.testing.llm_dialects import Asked, model, prompt

if TYPE_CHECKING:
    from celery_lanes.testing.llm_stub import LLMStub


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one request is answered.

    Attributes:
        status: the HTTP status.
        body: ``None`` echoes the prompt.
        headers: beside those that HTTP needs.
        events: the pieces of a stream, in place of a body; sent as they come.
        hangs: it never answers; with ``events``, it says nothing after them.
        cuts: it closes half-way; with ``events``, after them.
    """

    status: int = 200
    body: Mapping[str, Any] | str | None = None
    events: Iterable[bytes] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    hangs: bool = False
    cuts: bool = False


BUSY = Answer(status=429, body={"error": {"message": "too many requests at once"}})
"""What is answered when more are inside than the stub bears."""


class Server(ThreadingHTTPServer):
    """Listens for a stub, which says what is answered."""

    request_queue_size = 1024  # no connection is refused
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], stub: LLMStub) -> None:
        self.stub = stub
        self.closing = threading.Event()
        self.inside: set[_Handler] = set()
        self._connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Keep a connection."""
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection."""
        self._connections.discard(request)
        super().shutdown_request(request)

    def see_off(self) -> None:
        """Count out who has hung up, before another is counted in: their threads may be late."""
        for handler in list(self.inside):
            handler.leave_if_gone()

    def cut_off(self) -> None:
        """Cut all connections."""
        self.closing.set()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report what no client's leaving explains."""
        if not isinstance(sys.exc_info()[1], ConnectionError):  # clients may go as they like
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one packet
    server: Server

    def do_POST(self) -> None:
        body, dialect = self._read(), self.server.stub.dialect
        path = self.path.removeprefix(dialect.base_path)
        if not dialect.knows(path) or not isinstance(body, dict):
            said = f"POST JSON to a path of {dialect.scheme}"
            self._send(Answer(status=404, body={"error": {"message": said}}))
        elif self._is_gone_within(0):  # killed before it was read: it was never inside
            self.close_connection = True
        else:
            self._serve(Asked(path, body), self.server.stub.next_answer())

    def log_message(self, *_: Any) -> None:
        pass

    def _serve(self, asked: Asked, answer: Answer) -> None:
        answer = self._written(asked, answer)
        status, stub, seen = None, self.server.stub, self._seen(asked)
        self.server.see_off()
        start_s = stub.enter()
        if start_s is None:
            stub.refuse(status=BUSY.status, **seen)
            self._send(BUSY)
            return
        self._leavings = [partial(stub.leave, start_s, **seen)]
        self.server.inside.add(self)
        try:
            is_mute = answer.hangs and answer.events is None
            time_s = None if is_mute else stub.service_s(dict(asked.body))
            is_gone = self._is_gone_within(time_s)
            if answer.events is not None and not is_gone:
                is_gone = self._stream(answer, answer.events)
            self.close_connection = is_gone or answer.cuts
            status = None if self.close_connection else answer.status
        finally:
            self.server.inside.discard(self)
            self._leave(status)
        if answer.events is None and (status is not None or answer.cuts):
            self._send(answer)

    def leave_if_gone(self) -> None:
        """Leave for a client that has hung up; called by another's thread."""
        with suppress(ValueError, OSError):  # it has just been closed here
            if self._is_gone_within(0):
                self._leave(None)

    def _leave(self, status: int | None) -> None:
        with suppress(IndexError):  # somebody has seen us off
            self._leavings.pop()(status=status)

    def _written(self, asked: Asked, answer: Answer) -> Answer:
        """Echo the prompt, if the answer is not given."""
        if answer.body is not None or answer.events is not None or answer.hangs:
            return answer
        dialect, text = self.server.stub.dialect, prompt(asked)
        if dialect.is_stream(asked):
            return replace(answer, events=dialect.events(asked, text))
        return replace(answer, body=dialect.whole(asked, text))

    def _stream(self, answer: Answer, events: Iterable[bytes]) -> bool:
        """Send pieces as they come; say whether the client went away before the end."""
        own = {"Content-Type": self.server.stub.dialect.content_type}
        self._send_head(answer, {**own, "Transfer-Encoding": "chunked"})
        try:
            for event in events:
                self._send_chunk(event)
        except ConnectionError:
            return True
        if answer.hangs:
            return self._is_gone_within(None)
        if not answer.cuts:
            with suppress(ConnectionError):  # who has read the last event may leave
                self._send_chunk(b"")
        return False

    def _send_chunk(self, chunk: bytes) -> None:
        self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        self.wfile.flush()

    def _read(self) -> Any:
        try:
            return json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        except ValueError:
            return None

    def _seen(self, asked: Asked) -> dict[str, Any]:
        key = self.headers.get("Idempotency-Key")
        return {"model": model(asked), "prompt": prompt(asked), "idempotency_key": key}

    def _is_gone_within(self, seconds: float | None) -> bool:
        """Wait, but no longer than the client does: a killed one's socket becomes readable."""
        poll = select.poll()
        poll.register(self.connection, select.POLLIN)
        end_s = time.monotonic() + (seconds or 0)
        if not poll.poll(None if seconds is None else seconds * 1000):
            return False
        with suppress(ConnectionError):
            if self.connection.recv(1, socket.MSG_PEEK):  # it has sent the next request already
                left_s = None if seconds is None else max(0.0, end_s - time.monotonic())
                return self.server.closing.wait(left_s)
        return True

    def _send(self, answer: Answer) -> None:
        body = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
        content = body.encode()
        own = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        self._send_head(answer, own)
        self.wfile.write(content[: len(content) // 2] if answer.cuts else content)

    def _send_head(self, answer: Answer, own: Mapping[str, str]) -> None:
        self.send_response(answer.status)
        for name, value in {**own, **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
