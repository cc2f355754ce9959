"""One body over every provider: each keeps the same promises, in the words of its API."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import httpx
import pytest

from celery_lanes.errors import (
    BadRequest,
    ProviderError,
    StreamInterrupted,
    TransientError,
)
from celery_lanes.llm import deadline
from celery_lanes.llm.http import client as http
from celery_lanes.llm.messages import Message
from celery_lanes.llm.provider import Provider
from celery_lanes.llm.registry import Registry
from celery_lanes.llm.reply import Done, Reply, TextDelta
from celery_lanes.llm.request import Request
from celery_lanes.llm.stream import Stream
from tests.unit.llm.wires import EXCHANGES, FULL, KEY, Exchange

ASK = Request(model="small", messages=(Message(role="user", content="hi you"),))


class Pieces(httpx.SyncByteStream):
    """A body that comes in pieces, and may break off."""

    def __init__(self, *pieces: bytes, breaks: bool = False) -> None:
        self._pieces = pieces
        self._breaks = breaks
        self.is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces
        if self._breaks:
            raise httpx.RemoteProtocolError("peer closed connection")

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture(params=EXCHANGES)
def exchange(request) -> Exchange:
    return EXCHANGES[request.param]


@pytest.fixture
def sent() -> list[httpx.Request]:
    return []


@pytest.fixture
def provider(exchange, sent) -> Callable[..., Provider]:
    """Make the provider, whose server answers what is given."""

    def provider(answer: object, *, status: int = 200) -> Provider:
        body = {"stream": answer} if isinstance(answer, Pieces) else {"json": answer}

        def serve(request: httpx.Request) -> httpx.Response:
            sent.append(request)
            return httpx.Response(status, headers=exchange.headers, **body)

        registry = Registry({"LLM_M1": exchange.dsn}, transport=httpx.MockTransport(serve))
        return registry.provider("m1")

    return provider


def ask(provider: Provider, request: Request = ASK) -> Reply:
    return provider.generate(request, timeout_s=5)


def open_stream(provider: Provider, request: Request = ASK) -> Stream:
    return provider.stream(request, timeout_s=5)


def read(provider: Provider) -> Reply:
    *_, done = open_stream(provider)
    assert isinstance(done, Done)
    return done.reply


def outcome(stream: Stream) -> tuple[TransientError | None, object]:
    try:
        return None, list(stream)[-1]
    except TransientError as error:
        return error, None


def test_a_whole_reply_is_read(provider, exchange):
    assert ask(provider(exchange.whole)) == exchange.reply


def test_a_streamed_reply_is_the_same(provider, exchange):
    assert read(provider(Pieces(exchange.stream))) == exchange.reply


def test_a_stream_may_be_cut_anywhere(provider, exchange):
    for at in range(1, len(exchange.stream)):
        pieces = Pieces(exchange.stream[:at], exchange.stream[at:])

        assert read(provider(pieces)) == exchange.reply, f"cut at {at}"


def test_a_stream_may_come_byte_by_byte_and_with_crlf(provider, exchange):
    stream = exchange.stream.replace(b"\n", b"\r\n")

    assert read(provider(Pieces(*(bytes([byte]) for byte in stream)))) == exchange.reply


def test_the_pieces_make_up_the_reply(provider, exchange):
    *pieces, done = open_stream(provider(Pieces(exchange.stream)))

    texts = [piece.text for piece in pieces if isinstance(piece, TextDelta)]
    assert "".join(texts) == done.reply.text
    assert len(texts) == 2


def test_a_request_is_written(provider, exchange, sent):
    ask(provider(exchange.whole), FULL)
    list(open_stream(provider(Pieces(exchange.stream)), FULL))

    whole, streamed = sent
    assert json.loads(whole.content) == exchange.body
    assert json.loads(streamed.content) == {**exchange.body, **exchange.stream_fields}
    assert (whole.url.raw_path.decode(), streamed.url.raw_path.decode()) == exchange.paths


def test_only_what_is_asked_for_is_sent(provider, exchange, sent):
    ask(provider(exchange.whole))

    asked = json.loads(sent[0].content)
    assert asked.keys() <= {"model", "messages", "max_tokens", "contents", "stream"}


def test_what_is_not_told_is_estimated(provider, exchange):
    whole, stream = exchange.bare

    for reply in ask(provider(whole)), read(provider(Pieces(stream))):
        assert reply.text == "yes!"
        assert (reply.usage.input_tokens, reply.usage.output_tokens) == (2, 1)
        assert reply.usage.is_estimated
        assert reply.model == "small"


@pytest.mark.parametrize(
    "answer",
    [[1], "text", {}, {"choices": 7, "content": 7, "candidates": 7, "message": 7}, None],
    ids=repr,
)
def test_an_odd_reply_is_transient(provider, answer):
    with pytest.raises(TransientError, match=r"^m1/small answered oddly: no "):
        ask(provider(answer))


@pytest.mark.parametrize(
    "body", [b"data: nonsense\n\n", b"nonsense\n", b"data: [1]\n\n", b"[1]\n", b"7", b"[" * 100_000]
)
def test_an_odd_stream_is_transient(provider, body):
    with pytest.raises(TransientError, match=r"^m1/small (answered oddly|broke off)"):
        read(provider(Pieces(body)))


def test_a_stream_that_ends_early_is_an_error_or_was_all_there(provider, exchange):
    lines = exchange.stream.splitlines(keepends=True)
    for count in range(len(lines)):
        stream = open_stream(provider(Pieces(b"".join(lines[:count]))))

        error, end = outcome(stream)

        if error is None:
            assert end.reply.tool_calls == exchange.reply.tool_calls, f"cut after {count} lines"
        else:
            has_begun = bool(stream.partial.reasoning)
            assert "before the reply" in str(error)
            assert isinstance(error, StreamInterrupted) is has_begun, f"cut after {count} lines"


def test_an_interruption_says_what_was_used(provider, exchange):
    half = exchange.stream[: len(exchange.stream) // 2]
    stream = open_stream(provider(Pieces(half)))

    with pytest.raises(StreamInterrupted, match="in mid-reply") as caught:
        list(stream)

    assert caught.value.usage == stream.partial.usage.model_dump()
    assert caught.value.usage["output_tokens"] > 0
    assert "Käse" not in repr(caught.value.args)


def test_a_stream_that_breaks_is_an_interruption_and_is_closed(provider, exchange):
    pieces = Pieces(exchange.stream[: len(exchange.stream) // 2], breaks=True)

    with pytest.raises(StreamInterrupted, match="peer closed connection"):
        list(open_stream(provider(pieces)))

    assert pieces.is_closed


def test_a_stream_that_breaks_before_it_begins_is_only_transient(provider):
    with pytest.raises(TransientError) as caught:
        read(provider(Pieces(breaks=True)))

    assert type(caught.value) is TransientError


def test_a_stream_is_closed_at_its_end_or_by_its_reader(provider, exchange):
    ended, left = Pieces(exchange.stream), Pieces(exchange.stream)
    list(open_stream(provider(ended)))

    with open_stream(provider(left)) as stream:
        next(stream)

    assert ended.is_closed
    assert left.is_closed
    assert list(stream) == []


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """The deadline's clock, at ``now``."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_a_stream_may_last_longer_than_its_silences(provider, exchange, clock):
    lines = exchange.stream.splitlines(keepends=True)

    class Slow(Pieces):
        def __iter__(self) -> Iterator[bytes]:
            for piece in super().__iter__():
                clock.now += 1000 / len(lines)
                yield piece

    *_, done = provider(Slow(*lines)).stream(ASK, timeout_s=5000, idle_s=400)

    assert isinstance(done, Done)
    assert clock.now > 400


def test_a_slow_reader_is_no_silent_provider(provider, exchange, clock):
    lines = exchange.stream.splitlines(keepends=True)

    for piece in provider(Pieces(*lines)).stream(ASK, timeout_s=5000, idle_s=60):
        clock.now += 100
        last = piece

    assert isinstance(last, Done)


def test_a_refusal_in_place_of_a_stream_is_raised_at_once(provider):
    pieces = Pieces(b'{"error": {"message": "who?"}}')

    with pytest.raises(ProviderError, match="m1/small answered 404: who") as caught:
        open_stream(provider(pieces, status=404))

    assert caught.value.status == 404
    assert pieces.is_closed


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_a_reply_that_does_not_end_is_given_up(provider, exchange, monkeypatch, is_stream):
    monkeypatch.setattr(http, "MAX_REPLY", 1000)
    body = exchange.stream.split(b"\n")[0] + b" " * 1001

    with pytest.raises(TransientError, match="sent more than 1000 bytes"):
        (read if is_stream else ask)(provider(Pieces(body, body)))


def test_a_line_that_does_not_end_is_given_up(provider, monkeypatch):
    monkeypatch.setattr("celery_lanes.llm.http.framing.MAX_LINE", 1000)

    with pytest.raises(TransientError, match="a line of more than 1000 bytes"):
        read(provider(Pieces(b"x" * 501, b"x" * 501)))


@pytest.mark.parametrize("name", ["model", "messages", "stream"])
def test_a_parameter_that_is_ours_is_refused(provider, sent, name):
    with pytest.raises(BadRequest, match=name):
        ask(provider({}), ASK.model_copy(update={"params": {name: 1}}))

    assert sent == []


def test_the_key_goes_out_and_is_seen_nowhere_else(provider, exchange, sent, caplog):
    caplog.set_level("DEBUG")
    header, value = exchange.key_header

    one = provider(exchange.whole)
    reply = ask(one)
    stream = open_stream(provider(Pieces(exchange.stream)))
    pieces = list(stream)

    assert [request.headers[header] for request in sent] == [value, value]
    seen = [repr(x) for x in (one, one._http, one._wire, reply, stream, pieces)]
    assert KEY not in "".join(seen) + caplog.text + reply.model_dump_json()
    assert KEY.encode() not in pickle.dumps(reply) + pickle.dumps(pieces)


@pytest.mark.parametrize("shape", [str, lambda said: {"message": said}], ids=["text", "object"])
@pytest.mark.parametrize("status", [200, 401, 500])
def test_a_key_that_is_echoed_is_cut_out(provider, status, shape):
    with pytest.raises(ProviderError) as caught:
        ask(provider({"error": shape(f"your key {KEY} is odd")}, status=status))

    assert "your key *** is odd" in str(caught.value)
    assert KEY.encode() not in pickle.dumps(caught.value)
    assert KEY not in json.dumps(caught.value.args)
