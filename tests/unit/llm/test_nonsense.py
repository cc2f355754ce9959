"""Whatever a server answers, a call ends in a reply or in a ``ProviderError``."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_lanes.errors import ProviderError
from celery_lanes.llm.http.waits import retry_after_s
from celery_lanes.llm.messages import Message
from celery_lanes.llm.registry import Registry
from celery_lanes.llm.reply import Reply
from celery_lanes.llm.request import Request
from tests.unit.llm.wires import EXCHANGES, Exchange

EXAMPLES = int(os.environ.get("LANES_FUZZ", "0")) or 50

ASK = Request(model="small", messages=(Message(role="user", content="hi"),))


def keys_of(value: object) -> set[str]:
    """Give every field's name in a reply."""
    if isinstance(value, dict):
        return set(value).union(*map(keys_of, value.values()))
    return set().union(*map(keys_of, value)) if isinstance(value, list) else set()


KEYS = sorted({"error", "code", *(k for e in EXCHANGES.values() for k in keys_of(e.whole))})
WORDS = ["text", "tool_use", "thinking", "STOP", "stop", "message_delta", "content_block_delta"]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS)
NONSENSE = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=20,
)


@st.composite
def spoilt(draw: st.DrawFn, value: object) -> object:
    """Take a reply, and put nonsense into one place of it."""
    if draw(st.integers(0, 4)) == 0 or not isinstance(value, (dict, list)) or not value:
        return draw(NONSENSE)
    place = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place] = draw(spoilt(value[place]))
    return copy


@st.composite
def answers(draw: st.DrawFn) -> tuple[Exchange, object]:
    exchange = EXCHANGES[draw(st.sampled_from(sorted(EXCHANGES)))]
    lines = (line.removeprefix("data: ") for line in exchange.stream.decode().split("\n"))
    events = [json.loads(line) for line in lines if line.startswith("{")]
    return exchange, draw(spoilt(draw(st.sampled_from([exchange.whole, *events]))))


def outcomes(dsn: str, content: bytes, status: int) -> list[object]:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, content=content)

    (target,) = Registry({"LLM_M1": dsn}, transport=httpx.MockTransport(answer)).parse("m1/small")
    found: list[object] = []
    with suppress(ProviderError):
        found.append(target.generate(ASK))
    with suppress(ProviderError), target.stream(ASK) as stream:
        found += list(stream)[-1:]
    return found


def assert_can_be_kept(found: list[object]) -> None:
    for reply in found:
        assert Reply.model_validate_json(getattr(reply, "reply", reply).model_dump_json())


@settings(max_examples=EXAMPLES, deadline=None)
@given(answer=answers(), status=st.sampled_from([200, 200, 400, 429, 500]), is_event=st.booleans())
def test_any_json_ends_in_a_reply_or_an_error(answer, status, is_event):
    exchange, payload = answer
    text = json.dumps(payload)

    found = outcomes(exchange.dsn, (f"data: {text}\n\n" if is_event else text).encode(), status)

    assert_can_be_kept(found)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    name=st.sampled_from(sorted(EXCHANGES)),
    cut=st.floats(0, 1),
    put=st.binary(max_size=20),
)
def test_any_bytes_in_a_stream_end_in_a_reply_or_an_error(name, cut, put):
    exchange = EXCHANGES[name]
    at = int(cut * len(exchange.stream))

    found = outcomes(exchange.dsn, exchange.stream[:at] + put + exchange.stream[at:], 200)

    assert_can_be_kept(found)


WHEN = st.from_regex(r"[0-9hmsTZ:.+ -]{0,20}", fullmatch=True) | st.text(max_size=20)
OFTEN = [
    "1..2s",
    "9" * 400 + "s",
    "1e400",
    "-5",
    "2026-13-41T99:00:00Z",
    "Wed, 21 Oct 99999 07:28:00 GMT",
    "Wed, 21 Oct 2015 07:28:00 +9999999999",
]


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    after=WHEN | st.sampled_from(OFTEN),
    reset=WHEN | st.sampled_from(OFTEN),
    delay=WHEN | NONSENSE,
)
def test_any_time_to_wait_is_seconds_or_none(after, reset, delay):
    headers = {
        "retry-after": after,
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": reset,
    }
    payload = {"error": {"details": [{"retryDelay": delay}]}}

    for found in retry_after_s(headers, payload), retry_after_s({**headers, "retry-after": ""}):
        assert found is None or 0 < found < math.inf
