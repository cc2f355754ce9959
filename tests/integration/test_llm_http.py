"""The LLM side over real sockets, and the stub that it is tried against."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress

import pytest

from celery_lanes.errors import RateLimited, TransientError
from celery_lanes.llm.messages import Message
from celery_lanes.llm.registry import Registry
from celery_lanes.llm.reply import Reply, Usage
from celery_lanes.llm.request import Request
from celery_lanes.testing.llm_stub import Answer, LLMStub

ASK_FOREVER = """
import sys, httpx
httpx.post(sys.argv[1] + "/chat/completions", json={"messages": []}, timeout=None)
"""


@pytest.fixture
def stub() -> Iterator[LLMStub]:
    with LLMStub() as stub:
        yield stub


def ask(dsn: str, prompt: str = "hello you", *, timeout_s: float = 10, **options) -> Reply:
    with closing(Registry({"LLM_M1": dsn})) as registry:
        (target,) = registry.parse("m1/small")
        key = options.pop("idempotency_key", None)
        request = Request(
            model="?", messages=(Message(role="user", content=prompt),), params=options
        )
        return target.generate(request, timeout_s=timeout_s, idempotency_key=key)


def connect(stub: LLMStub, asked: dict | None = None) -> socket.socket:
    """Send a request, and leave it at that."""
    port = int(re.search(r":(\d+)/", stub.url)[1])
    body = json.dumps(asked or {"messages": []})
    connection = socket.create_connection(("127.0.0.1", port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall((head + body).encode())
    return connection


@contextmanager
def flood() -> Iterator[str]:
    """Serve an answer that never ends."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
            while True:
                connection.sendall(b" ")

    server = threading.Thread(target=serve)
    with listener:
        server.start()
        yield f"openai+http://127.0.0.1:{listener.getsockname()[1]}/v1"
        server.join(10)


def test_a_call_is_answered(stub):
    reply = ask(stub.dsn, "hello you", idempotency_key="n1")

    usage = Usage(input_tokens=3, output_tokens=3)
    assert reply == Reply(text="hello you", usage=usage, model="small", finish_reason="stop")
    (record,) = stub.log
    assert (record.model, record.prompt, record.status) == ("small", "hello you", 200)
    assert record.idempotency_key == "n1"
    assert record.start_s <= record.end_s


def test_a_busy_provider_says_when_to_come_back(stub):
    body = {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}
    stub.script(Answer(status=429, body=body, headers={"Retry-After": "7"}))

    with pytest.raises(RateLimited, match="m1/small answered 429: slow down") as caught:
        ask(stub.dsn)

    assert (caught.value.status, caught.value.retry_after_s) == (429, 7.0)
    assert ask(stub.dsn).text == "hello you"


def test_a_provider_that_hangs_is_given_up_at_the_deadline(stub):
    stub.script(Answer(hangs=True))

    began_at = time.monotonic()
    with pytest.raises(TransientError, match=r"m1/small gave no answer within 0\.2 s"):
        ask(stub.dsn, timeout_s=0.2)

    assert 0.2 <= time.monotonic() - began_at < 2
    stub.wait_until(lambda: stub.inside == 0)
    assert stub.served == 0


def test_a_provider_that_drips_is_given_up_at_the_deadline():
    with flood() as dsn:
        began_at = time.monotonic()

        with pytest.raises(TransientError, match=r"gave no answer within 0\.2 s"):
            ask(dsn, timeout_s=0.2)

        assert 0.2 <= time.monotonic() - began_at < 2


def test_a_connection_closed_in_the_middle_is_transient(stub):
    stub.script(Answer(cuts=True))

    with pytest.raises(TransientError, match="m1/small broke off"):
        ask(stub.dsn)


def test_a_provider_that_is_away_is_transient():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    with pytest.raises(TransientError, match=f"cannot be reached at http://127.0.0.1:{port}/v1"):
        ask(f"openai+http://127.0.0.1:{port}/v1")


def test_the_stub_sees_how_many_are_inside():
    together = threading.Barrier(5, timeout=10)

    def service(_: dict) -> float:
        together.wait()
        return 1.0  # much longer than until all are there

    with LLMStub(service) as stub, ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda _: ask(stub.dsn), range(5)))

        assert (stub.highest, stub.served, stub.inside) == (5, 5, 0)
        assert stub.share_at(5) > 0.3
        assert sum(map(stub.share_at, range(6))) == pytest.approx(1)


def test_the_stub_takes_its_service_time_from_the_request(stub):
    stub.service = 60.0

    began_at = time.monotonic()
    ask(stub.dsn, service_ms=20)

    assert 0.02 <= time.monotonic() - began_at < 10


def test_the_stub_counts_no_client_that_has_gone(stub):
    stub.script(Answer(hangs=True))
    connection = connect(stub)
    stub.wait_until(lambda: stub.inside == 1)

    connection.close()

    stub.wait_until(lambda: stub.inside == 0)
    assert [record.status for record in stub.log] == [None]


def test_the_stub_counts_no_killed_process(stub):
    stub.service = 60.0
    client = subprocess.Popen([sys.executable, "-c", ASK_FOREVER, stub.url])
    stub.wait_until(lambda: stub.inside == 1)

    client.kill()
    client.wait()

    stub.wait_until(lambda: stub.inside == 0)
    assert stub.served == 0


def test_the_stub_refuses_no_one_of_five_hundred(stub):
    stub.service = 60.0
    with ExitStack() as connections:
        for _ in range(500):
            connections.enter_context(connect(stub))

        stub.wait_until(lambda: stub.inside == 500, timeout_s=30)

    stub.wait_until(lambda: stub.inside == 0, timeout_s=30)
    assert stub.highest == 500


@pytest.mark.parametrize("asked", [b"nonsense", b"[]"], ids=["no-json", "no-object"])
def test_the_stub_refuses_what_is_no_request(stub, asked):
    with connect(stub, {"messages": []}) as connection:
        connection.recv(65536)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {len(asked)}\r\n\r\n"
        connection.sendall(head.encode() + asked)

        assert connection.recv(65536).startswith(b"HTTP/1.1 404")


def test_a_stub_that_stops_cuts_its_clients_off():
    with LLMStub(60.0) as stub:
        connection = connect(stub)
        stub.wait_until(lambda: stub.inside == 1)

    with connection:
        assert connection.recv(1) == b""


@pytest.mark.parametrize("api", ["openai", "anthropic", "gemini", "ollama", "foreman"])
def test_the_stub_runs_by_itself(api):
    module = "celery_lanes.testing.llm_stub"
    command = [sys.executable, "-m", module, "--service-ms", "1", "--api", api]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            dsn = server.stdout.readline().strip().removeprefix("LLM_STUB=")
            reply = ask(dsn)
        finally:
            server.send_signal(signal.SIGINT)

        assert reply.text == "hello you"
        assert server.stdout.read() == "served 1, highest 1\n"


def test_who_has_hung_up_is_not_inside_when_the_next_one_comes(stub):
    """Its thread may be late in noticing; a counter of its own would see the cap broken."""
    late = threading.Event()
    stub.service = lambda asked: 0 if asked["model"] == "next" else int(not late.wait(30))
    first = connect(stub, {"model": "first", "messages": []})
    stub.wait_until(lambda: stub.inside == 1)

    first.close()
    with closing(connect(stub, {"model": "next", "messages": []})) as then:
        assert then.recv(1)

    assert stub.highest == 1
    late.set()
    assert [record.status for record in stub.log] == [None, 200]
    assert stub.inside == 0
