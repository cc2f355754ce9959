"""An LLM that is not one: an HTTP server that speaks a provider's API and counts who is inside.

It is the outside observer of a cap. A request counts from when it has been read until just before
its answer is written, or until its client has gone; so it never counts more than its clients do.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, final

from celery_lanes.testing.llm_dialects import DIALECTS, Asked, Dialect, OpenAI, model, prompt

Service = float | Callable[[dict[str, Any]], float]
"""Seconds that a request takes, or what gives them for a request's body."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One request that has ended; times are monotonic, ``status`` is ``None`` if unanswered."""

    start_s: float
    end_s: float
    model: str
    prompt: str
    idempotency_key: str | None
    status: int | None


class Observer:
    """Counts who is inside, and for how long how many were; safe between threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._spent_s: dict[int, float] = {}
        self._since_s = time.monotonic()
        self._log: list[Record] = []
        self._inside = 0
        self._highest = 0

    @property
    def inside(self) -> int:
        """Requests that are being served."""
        return self._inside

    @property
    def highest(self) -> int:
        """Most requests at once so far."""
        return self._highest

    @property
    def served(self) -> int:
        """Requests that were answered, with whatever status."""
        return sum(record.status is not None for record in self.log)

    @property
    def log(self) -> tuple[Record, ...]:
        """Requests that have ended, in the order of their ends."""
        with self._changed:
            return tuple(self._log)

    def share_at(self, count: int) -> float:
        """Give the share of the busy time with exactly so many inside; 0 if never busy."""
        with self._changed:
            self._count(0)
            busy_s = sum(spent_s for inside, spent_s in self._spent_s.items() if inside)
            return self._spent_s.get(count, 0.0) / busy_s if busy_s and count else 0.0

    def wait_until(self, is_so: Callable[[], object], *, timeout_s: float = 10.0) -> None:
        """Wait until something about the counts is so. Raises ``TimeoutError``."""
        with self._changed:
            if not self._changed.wait_for(is_so, timeout_s):
                raise TimeoutError(f"not so within {timeout_s} s; {self._inside} inside")

    def enter(self) -> float:
        """Count a request; returns when it began."""
        with self._changed:
            return self._count(1)

    def leave(self, start_s: float, **seen: Any) -> None:
        """Log a request that has ended."""
        with self._changed:
            self._log.append(Record(start_s=start_s, end_s=self._count(-1), **seen))

    def _count(self, change: int) -> float:
        now_s = time.monotonic()
        spent_s = now_s - self._since_s
        self._spent_s[self._inside] = self._spent_s.get(self._inside, 0.0) + spent_s
        self._since_s = now_s
        self._inside += change
        self._highest = max(self._highest, self._inside)
        self._changed.notify_all()
        return now_s


@final
class LLMStub(Observer):
    """The server; a context manager that listens on a free port.

    ``service_ms`` in a request's body goes before ``service``, which may be set at any time.
    """

    def __init__(
        self,
        service: Service = 0.0,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        dialect: Dialect | None = None,
    ) -> None:
        super().__init__()
        self.service = service
        self.dialect = dialect or OpenAI()
        self._answers: deque[Answer] = deque()
        self._server = _Server((host, port), self)

    def __enter__(self) -> LLMStub:
        """Start."""
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop; who is inside is cut off."""
        self._server.shutdown()
        self._server.server_close()
        self._server.cut_off()

    @property
    def url(self) -> str:
        """The base URL: http://127.0.0.1:PORT/v1, or as its dialect has it."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}{self.dialect.base_path}"

    @property
    def dsn(self) -> str:
        """The value for ``LLM_<NAME>``."""
        return self.url.replace("http://", f"{self.dialect.scheme}+http://key@")

    def script(self, *answers: Answer) -> None:
        """Answer the next requests so, one each; then as usual again."""
        self._answers.extend(answers)

    def next_answer(self) -> Answer:
        """Take the next scripted answer, or the usual one."""
        try:
            return self._answers.popleft()
        except IndexError:
            return Answer()

    def service_s(self, asked: dict[str, Any]) -> float:
        """Give how long a request takes."""
        if "service_ms" in asked:
            return float(asked["service_ms"]) / 1000
        return self.service(asked) if callable(self.service) else self.service


class _Server(ThreadingHTTPServer):
    request_queue_size = 1024  # no connection is refused
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], stub: LLMStub) -> None:
        self.stub = stub
        self.closing = threading.Event()
        self._connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def cut_off(self) -> None:
        self.closing.set()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # clients may go as they like
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one packet
    server: _Server

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
        status, seen = None, self._seen(asked)
        start_s = self.server.stub.enter()
        try:
            is_mute = answer.hangs and answer.events is None
            time_s = None if is_mute else self.server.stub.service_s(dict(asked.body))
            is_gone = self._is_gone_within(time_s)
            if answer.events is not None and not is_gone:
                is_gone = self._stream(answer, answer.events)
            self.close_connection = is_gone or answer.cuts
            status = None if self.close_connection else answer.status
        finally:
            self.server.stub.leave(start_s, status=status, **seen)
        if answer.events is None and (status is not None or answer.cuts):
            self._send(answer)

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


def main() -> None:
    """Serve until interrupted; then say what was seen."""
    options = argparse.ArgumentParser(prog="python -m celery_lanes.testing.llm_stub")
    options.add_argument("--port", type=int, default=0, help="0 takes a free one")
    options.add_argument("--service-ms", type=float, default=50, help="how long a request takes")
    dialects = {dialect.scheme: dialect for dialect in DIALECTS}
    options.add_argument("--api", choices=dialects, default="openai", help="what it speaks")
    given = options.parse_args()
    dialect = dialects[given.api]
    with LLMStub(given.service_ms / 1000, port=given.port, dialect=dialect) as stub:
        sys.stdout.write(f"LLM_STUB={stub.dsn}\n")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
        sys.stdout.write(f"served {stub.served}, highest {stub.highest}\n")


if __name__ == "__main__":
    main()
