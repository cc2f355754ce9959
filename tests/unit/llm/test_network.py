"""What a server may do to its sockets, and what the environment says of the way to it."""

from __future__ import annotations

import json
import re
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import httpcore
import pytest

from celery_lanes.errors import ConfigError, TransientError, Unreachable
from celery_lanes.llm.deadline import Deadline
from celery_lanes.llm.http import answer, network
from celery_lanes.llm.http.hangup import CallCancelled, Hangup, interruptible
from celery_lanes.llm.http.network import _Sockets
from celery_lanes.llm.messages import Message
from celery_lanes.llm.registry import Registry
from celery_lanes.llm.reply import Done, Reply
from celery_lanes.llm.request import Request
from celery_lanes.llm.stream import Stream
from celery_lanes.store.health import HealthConfig
from tests.waiting import pass_time

ASK = Request(model="small", messages=(Message(role="user", content="hi"),))
SECRET = "sk-very-secret"

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
PACKED = HEAD + b"Content-Encoding: deflate\r\n\r\n"
EMPTY_BLOCK = b"\x00\x00\x00\xff\xff"


class Server:
    """Serves each connection by a function of it, which ends when the test does."""

    def __init__(self, serve: Callable[[socket.socket], object]) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def dsn(self) -> str:
        return f"openai+http://{SECRET}@127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            self._serve(connection)


def read_request(connection: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536) or _gone()
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1])
    while len(body) < length:
        body += connection.recv(65536) or _gone()
    return head


def _gone() -> bytes:
    raise OSError


def dripping(head: bytes, drop: bytes, pause_s: float = 0.02) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(head)
        while True:
            connection.sendall(drop)
            pass_time(pause_s, because="it drips")

    return serve


def deflated(text: bytes) -> bytes:
    packer = zlib.compressobj()
    return packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH)


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "serve",
    [
        dripping(b"HTTP/1.1 200 OK\r\n", b"X"),
        dripping(b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
        dripping(CHUNKED + b"5;", b"x"),
        dripping(PACKED + deflated(b":"), EMPTY_BLOCK),
        dripping(PACKED + deflated(b":"), EMPTY_BLOCK * 1000, pause_s=0),
    ],
    ids=["header", "interim-answers", "chunk-extension", "empty-blocks", "flood-of-nothing"],
)
def test_a_drip_that_is_no_body_ends_at_the_deadline_too(serve, is_stream):
    with closing(Server(serve)) as server, closing(Registry({"LLM_M1": server.dsn})) as registry:
        provider = registry.provider("m1")
        provider._http._client()  # certificates are read before the clock runs
        outcome: list[BaseException] = []

        def call() -> None:
            try:
                if is_stream:
                    list(provider.stream(ASK, timeout_s=0.5))
                provider.generate(ASK, timeout_s=0.5)
            except TransientError as error:
                outcome.append(error)

        caller = threading.Thread(target=call, daemon=True)  # it would never end
        caller.start()
        caller.join(30)

    assert [error.given_s for error in outcome] == [0.5]


def serve_one_piece(connection: socket.socket) -> None:
    """Begin a stream, and fall silent until the client goes."""
    delta = {"choices": [{"index": 0, "delta": {"content": "yes"}}]}
    read_request(connection)
    connection.sendall(CHUNKED + chunk(f"data: {json.dumps(delta)}\n\n"))
    connection.recv(1)


def test_an_impatient_caller_benches_a_server_for_nobody():
    health = HealthConfig(failure_threshold=1)
    with (
        closing(Server(serve_one_piece)) as server,
        closing(Registry({"LLM_M1": server.dsn}, health=health)) as registry,
    ):
        chain = registry.parse("m1/small")
        with pytest.raises(TransientError, match="gave no answer") as whole:
            chain.generate(ASK, attempt_timeout_s=0.2)
        with pytest.raises(TransientError, match="was silent") as streamed:
            list(chain.stream(ASK, idle_s=0.2))

    assert (whole.value.given_s, streamed.value.given_s) == (0.2, 0.2)
    assert registry.health.conditions() == []


def test_a_reader_whose_patience_ends_has_given_the_time_until_then():
    hangup, began = Hangup(), threading.Event()

    def serve(connection: socket.socket) -> None:
        read_request(connection)
        began.set()
        connection.recv(1)

    def lapse() -> None:
        began.wait(60)
        while not is_over.wait(0.01):
            hangup.lapse("began no answer within 0.01 s")

    is_over = threading.Event()
    reader = threading.Thread(target=lapse)
    with closing(Server(serve)) as server, closing(Registry({"LLM_M1": server.dsn})) as registry:
        reader.start()
        with interruptible(hangup), pytest.raises(TransientError, match="no answer") as caught:
            registry.provider("m1").generate(ASK, timeout_s=3600)
        is_over.set()
        reader.join()

    assert 0 < caught.value.given_s < 3600


def test_a_body_in_a_coding_that_may_grow_to_any_size_is_not_read():
    def serve(connection: socket.socket) -> None:
        head = read_request(connection).lower()
        assert b"accept-encoding: identity" in head
        connection.sendall(HEAD + b"Content-Encoding: gzip, gzip\r\n\r\n")

    with (
        closing(Server(serve)) as server,
        closing(Registry({"LLM_M1": server.dsn})) as registry,
        pytest.raises(TransientError, match="in the coding 'gzip, gzip'"),
    ):
        registry.provider("m1").generate(ASK, timeout_s=20)


def chunk(text: str) -> bytes:
    return f"{len(text):x}\r\n{text}\r\n".encode()


def serve_streams(connection: socket.socket, *drops: bytes) -> None:
    """Answer each request with a stream whose last chunk comes a little late, or just drops."""
    delta = {"choices": [{"index": 0, "delta": {"content": "yes"}, "finish_reason": "stop"}]}
    while True:
        read_request(connection)
        connection.sendall(CHUNKED + chunk(f"data: {json.dumps(delta)}\n\n"))
        connection.sendall(chunk("data: [DONE]\n\n"))
        pass_time(0.01, because="the last chunk comes late")
        for drop in drops:
            while not threading.Event().wait(0.001):
                connection.sendall(drop)
        connection.sendall(b"0\r\n\r\n")


def until_its_end(stream: Stream) -> Reply:
    *_, done = stream
    return done.reply


def until_done(stream: Stream) -> Reply:
    with stream:
        return next(piece.reply for piece in stream if isinstance(piece, Done))


READERS = pytest.mark.parametrize("read", [until_its_end, until_done])


@READERS
@pytest.mark.parametrize("asked", ["provider", "chain"])
def test_the_connection_of_a_stream_that_was_read_is_used_again(monkeypatch, asked, read):
    monkeypatch.setattr(answer, "DRAIN_S", 30.0)  # on a slow machine, too
    with (
        closing(Server(serve_streams)) as server,
        closing(Registry({"LLM_M1": server.dsn})) as registry,
    ):
        asks = registry.provider("m1") if asked == "provider" else registry.parse("m1/small")
        replies = [read(asks.stream(ASK, timeout_s=60)) for _ in range(3)]

    assert [reply.text for reply in replies] == ["yes"] * 3
    assert server.connections == 1


@READERS
@pytest.mark.parametrize(
    ("drop", "drain_s"),
    [(b"1\r\n:\r\n", 0.1), (chunk(":" * 4096), 3600.0)],
    ids=["drip", "flood"],
)
def test_a_server_that_does_not_end_its_answer_is_not_waited_for(monkeypatch, drop, drain_s, read):
    monkeypatch.setattr(answer, "DRAIN_S", drain_s)

    def serve(connection: socket.socket) -> None:
        serve_streams(connection, drop)

    with closing(Server(serve)) as server, closing(Registry({"LLM_M1": server.dsn})) as registry:
        reply = read(registry.parse("m1/small").stream(ASK, timeout_s=3600, idle_s=3600))

    assert reply.text == "yes"


def test_a_call_that_is_cut_after_its_last_word_keeps_its_reply(monkeypatch):
    monkeypatch.setattr(answer, "DRAIN_S", 3600.0)
    hangup, is_closed = Hangup(), threading.Event()

    def cut() -> None:
        while not is_closed.wait(0.01):
            hangup.cut(CallCancelled())

    def serve(connection: socket.socket) -> None:
        serve_streams(connection, b"")

    with closing(Server(serve)) as server, closing(Registry({"LLM_M1": server.dsn})) as registry:
        with interruptible(hangup):
            stream = registry.parse("m1/small").stream(ASK)
            done = next(piece for piece in stream if isinstance(piece, Done))
            cutter = threading.Thread(target=cut)
            cutter.start()
            stream.close()
        is_closed.set()
        cutter.join()

    assert done.reply.text == "yes"


def test_many_addresses_share_the_time_of_one_connection(monkeypatch):
    shares = []

    def connect_tcp(_, address, port, timeout, *rest):
        shares.append((address, timeout))
        raise httpcore.ConnectTimeout

    monkeypatch.setattr(network, "_addresses", lambda *_: ["10.0.0.1", "10.0.0.2", "10.0.0.3"])
    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect_tcp)

    with pytest.raises(httpcore.ConnectTimeout):
        _Sockets().connect_tcp("many.test", 443, Deadline(6.0)["connect"])

    assert [address for address, _ in shares] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert [share for _, share in shares] == pytest.approx([2.0, 3.0, 6.0], rel=0.1)


@pytest.mark.parametrize("timeout_s", [1e10, 1e300, float("inf")])
def test_sockets_are_not_asked_to_wait_for_longer_than_they_can(timeout_s):
    with (
        closing(Server(serve_streams)) as server,
        closing(Registry({"LLM_M1": server.dsn})) as registry,
    ):
        stream = registry.provider("m1").stream(ASK, timeout_s=timeout_s, idle_s=timeout_s)

        assert next(stream).text == "yes"
        stream.close()


@pytest.fixture
def direct(monkeypatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def serve_proxy(heads: list[bytes]) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        heads.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")

    return serve


@pytest.fixture
def proxy(direct, monkeypatch) -> Iterator[list[bytes]]:
    """A proxy that the environment names for all: what it was sent."""
    heads: list[bytes] = []
    with closing(Server(serve_proxy(heads))) as server:
        monkeypatch.setenv("ALL_PROXY", server.dsn.split("@")[1].removesuffix("/v1"))
        yield heads


def ask(dsn: str) -> None:
    with closing(Registry({"LLM_M1": dsn})) as registry, pytest.raises(TransientError):
        registry.provider("m1").generate(ASK, timeout_s=20)


def test_a_key_goes_through_a_proxy_only_within_tls(proxy):
    ask(f"openai://{SECRET}@llm.test/v1")

    (head,) = proxy
    assert head.startswith(b"CONNECT llm.test:443 ")
    assert SECRET.encode() not in head


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "box.internal"])
def test_this_machine_and_what_no_proxy_names_are_asked_directly(proxy, monkeypatch, host):
    monkeypatch.setenv("NO_PROXY", ".internal")

    ask(f"ollama+http://{host}:9")

    assert proxy == []


@pytest.mark.usefixtures("direct")
@pytest.mark.parametrize("url", ["ftp://x", "http://h:99999", "http://[h", "socks4://h"])
def test_a_proxy_that_is_none_is_a_matter_of_configuration(monkeypatch, url):
    monkeypatch.setenv("HTTPS_PROXY", url)

    with pytest.raises(ConfigError, match="expected HTTPS_PROXY or ALL_PROXY to be the URL"):
        Registry({"LLM_M1": "openai://llm.test"}).provider("m1").generate(ASK, timeout_s=20)


def test_certificates_that_are_none_are_a_matter_of_configuration(monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")

    with pytest.raises(ConfigError, match="expected SSL_CERT_FILE or SSL_CERT_DIR"):
        Registry({"LLM_M1": "openai://llm.test"}).provider("m1").generate(ASK, timeout_s=20)


def test_a_name_that_cannot_be_looked_up_is_unreachable(monkeypatch):
    def getaddrinfo(*_, **__):
        raise UnicodeError("label empty or too long")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    with pytest.raises(Unreachable, match="label empty or too long"):
        Registry({"LLM_M1": "ollama+http://odd"}).provider("m1").generate(ASK, timeout_s=20)
