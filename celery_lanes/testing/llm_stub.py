"""An LLM that is not one: an OpenAI-compatible HTTP server that counts who is inside.

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
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, final

from celery_lanes.llm.cost import estimate_tokens

PATH = "/v1/chat/completions"

Service = float | Callable[[dict[str, Any]], float]
"""Seconds that a request takes, or what gives them for a request's body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one request is answered; ``hangs`` never answers, ``cuts`` closes half-way."""

    status: int = 200
    body: Mapping[str, Any] | str | None = None
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

    def __init__(self, service: Service = 0.0, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__()
        self.service = service
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
        """The base URL: http://127.0.0.1:PORT/v1."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}/v1"

    @property
    def dsn(self) -> str:
        """The value for ``LLM_<NAME>``."""
        return self.url.replace("http://", "openai+http://key@")

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
        asked = self._read()
        if self.path != PATH or not isinstance(asked, dict):
            self._send(Answer(status=404, body={"error": {"message": f"POST JSON to {PATH}"}}))
        elif self._is_gone_within(0):  # killed before it was read: it was never inside
            self.close_connection = True
        else:
            self._serve(asked, self.server.stub.next_answer())

    def log_message(self, *_: Any) -> None:
        pass

    def _serve(self, asked: dict[str, Any], answer: Answer) -> None:
        status, seen = None, self._seen(asked)
        start_s = self.server.stub.enter()
        try:
            time_s = None if answer.hangs else self.server.stub.service_s(asked)
            self.close_connection = self._is_gone_within(time_s) or answer.cuts
            status = None if self.close_connection else answer.status
        finally:
            self.server.stub.leave(start_s, status=status, **seen)
        if status is not None or answer.cuts:
            self._send(answer if answer.body is not None else _completed(answer, asked))

    def _read(self) -> Any:
        try:
            return json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        except ValueError:
            return None

    def _seen(self, asked: dict[str, Any]) -> dict[str, Any]:
        key = self.headers.get("Idempotency-Key")
        return {"model": asked.get("model"), "prompt": _prompt(asked), "idempotency_key": key}

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
        self.send_response(answer.status)
        for name, value in {**own, **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if answer.cuts else content)


def _prompt(asked: Mapping[str, Any]) -> str:
    messages = asked.get("messages") or [{}]
    return str(messages[-1].get("content", ""))


def _completed(answer: Answer, asked: Mapping[str, Any]) -> Answer:
    """Answer with the prompt itself."""
    text = _prompt(asked)
    tokens = estimate_tokens(text)
    message = {"role": "assistant", "content": text}
    body = {
        "object": "chat.completion",
        "model": asked.get("model"),
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": tokens, "completion_tokens": tokens},
    }
    return replace(answer, body=body)


def main() -> None:
    """Serve until interrupted; then say what was seen."""
    options = argparse.ArgumentParser(prog="python -m celery_lanes.testing.llm_stub")
    options.add_argument("--port", type=int, default=0, help="0 takes a free one")
    options.add_argument("--service-ms", type=float, default=50, help="how long a request takes")
    given = options.parse_args()
    with LLMStub(given.service_ms / 1000, port=given.port) as stub:
        sys.stdout.write(f"LLM_STUB={stub.dsn}\n")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
        sys.stdout.write(f"served {stub.served}, highest {stub.highest}\n")


if __name__ == "__main__":
    main()
