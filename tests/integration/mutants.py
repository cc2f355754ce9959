"""Real task messages as kombu puts them on a queue, and a seeded mutator of them."""

from __future__ import annotations

import base64
import json
import math
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import datetime, timezone
from typing import Any
from uuid import UUID

from celery.canvas import Signature
from kombu import serialization
from kombu.compression import compress

from celery_lanes.callinfo import HEADER
from celery_lanes.envelope import Envelope

Payload = dict[str, Any]

NUMBERS = (
    0, -1, 1, True, False, 0.5, 1e308, -1e308, 2**31, 2**63, -(2**63), 10**400,
    math.nan, math.inf, -math.inf,
)  # fmt: skip
TEXTS = ("", " ", "\0", "a\0b", "\ud800", "x\udfffy", "é🦊", "{}", "a:b:c", "\n", "%s%d{0}", "7")
DATES = (
    "2020-01-01T00:00:00", "2020-01-01T00:00:00+00:00", "9999-12-31T23:59:59", "0001-01-01",
    "9999-12-31T23:59:59.999999-23:59", "2020-13-45", "noon", "20200101",
)  # fmt: skip
SHAPES = ([], [[]], {}, {"a": {"b": [None]}}, [None, None, None], ["a", "b"], {"0": 1}, [[], {}])
TYPES = (
    "application/json", "application/x-python-serialize", "application/x-msgpack",
    "application/x-yaml", "application/data", "text/plain", "no/such", "",
)  # fmt: skip
ENCODINGS = ("utf-8", "binary", "us-ascii", "utf-16", "no-such", "", "rot13", "idna", "zlib_codec")
TASKS = ("shop.unknown", "celery.accumulate", "celery.backend_cleanup", "celery_lanes.generate")
DEEP = 150


def real_messages(app: Any, queue: str, rng: random.Random) -> list[Callable[[], Payload]]:
    """Give makers of messages; each one made has an id and a nonce of its own."""
    echo, total = "tests.integration.shop.echo", "tests.integration.shop.total"
    done = app.signature(echo, args=("ollama/x",), immutable=True)
    link: list[Signature] = [done]
    embeds: list[dict[str, Any]] = [
        {},
        {"callbacks": link, "errbacks": link},
        {"chain": link},
        {"chord": app.signature(total), "group_id": "g", "group_index": 0},
        {"time_limit": 60, "soft_time_limit": 30},
        {
            "eta": datetime(2020, 1, 1, tzinfo=timezone.utc),
            "expires": datetime(2099, 1, 1, tzinfo=timezone.utc),
        },
        {"expires": datetime(2020, 1, 1, tzinfo=timezone.utc)},
    ]

    def maker(embed: dict[str, Any], serializer: str, zipped: str | None, version: int) -> Any:
        def make() -> Payload:
            task_id = str(UUID(int=rng.getrandbits(128), version=4))
            build = app.amqp.as_task_v2 if version == 2 else app.amqp.as_task_v1
            known = embed if version == 2 else {k: v for k, v in embed.items() if k != "chain"}
            message = build(task_id, echo, ("ollama/x", 1), {}, **deepcopy(known))
            return payload_of(message, queue, serializer, zipped, rng)

        return make

    ways = [("json", None), ("pickle", None), ("msgpack", None), ("json", "zlib")]
    return [maker(e, s, z, v) for e in embeds for s, z in ways for v in (2, 2, 1)]


def payload_of(
    message: Any, queue: str, serializer: str, zipped: str | None, rng: random.Random
) -> Payload:
    """Do what kombu does with a message on its way to Redis."""
    headers, properties, body, _ = message
    kind, encoding, raw = serialization.dumps(body, serializer)
    headers = dict(headers)
    if zipped:
        raw, headers["compression"] = compress(raw, zipped)
    if rng.random() < 0.7:
        nonce, caller = f"{rng.getrandbits(128):032x}", rng.choice(["alice", "bob", ""])
        headers[HEADER] = {"lane": "ollama", "nonce": nonce, "caller": caller}
    return {
        "body": base64.b64encode(_bytes(raw)).decode(),
        "content-type": kind,
        "content-encoding": encoding,
        "headers": headers,
        "properties": {
            **properties,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": f"{rng.getrandbits(128):032x}",
        },
    }


class Mutator:
    """Spoils messages and envelopes; the same seed spoils them the same way."""

    def __init__(self, app: Any, queue: str, seed: int) -> None:
        self._rng = random.Random(seed)
        self._makers = real_messages(app, queue, self._rng)

    def good(self) -> Payload:
        """Make a message that nobody has spoilt."""
        return self._rng.choice(self._makers)()

    def message(self) -> Payload:
        """Make a message with one to three things wrong, that kombu can still take off a queue."""
        payload = self.good()
        for _ in range(self._rng.choice((1, 1, 1, 2, 3))):
            self._rng.choice((self._body, self._kind, self._header, self._header, self._lanes,
                              self._property, self._embed))(payload)  # fmt: skip
        return payload

    def envelope(self) -> bytes:
        """Make a stored message that is none, or another's, or of another shape."""
        payload = self.message()
        raw = self._packed(payload)
        return self._rng.choice((self._same, self._spoilt, self._spoilt_head, self._foreign))(raw)

    # -- one thing each ------------------------------------------------------------------------

    def _body(self, payload: Payload) -> None:
        if self._rng.random() < 0.1:  # JSON holds more than text
            payload["body"] = self._odd()
            payload["properties"].pop("body_encoding", None)
            return
        raw = _body_of(payload)
        payload["properties"]["body_encoding"] = "base64"
        payload["body"] = base64.b64encode(self._spoilt(raw)).decode()

    def _kind(self, payload: Payload) -> None:
        name = self._rng.choice(("content-type", "content-encoding"))
        values = TYPES if name == "content-type" else ENCODINGS
        payload[name] = self._rng.choice((self._rng.choice(values), self._odd()))
        if self._rng.random() < 0.1:
            del payload[name]

    def _header(self, payload: Payload) -> None:
        headers = payload["headers"]
        if not headers:
            return
        name = self._rng.choice((*headers, "id", "task", "timelimit", "eta", "expires", "retries",
                                 "compression", "x-death", "stamped_headers"))  # fmt: skip
        if self._rng.random() < 0.25:
            headers.pop(name, None)
        elif name in {"eta", "expires"}:
            headers[name] = self._rng.choice((self._rng.choice(DATES), self._odd()))
        elif name == "task":
            headers[name] = self._rng.choice((self._rng.choice(TASKS), self._odd()))
        elif name == "timelimit":
            headers[name] = self._rng.choice(([self._odd(), self._odd()], self._odd()))
        elif name == "x-death":
            headers[name] = self._rng.choice(([{"count": self._odd()}], [self._odd()], self._odd()))
        else:
            headers[name] = self._odd()

    def _lanes(self, payload: Payload) -> None:
        header: Any = payload["headers"].get(HEADER)
        names = ("caller", "run_id", "model", "lane", "attempt", "priority", "cost", "nonce",
                 "wait_s", "token", "unknown")  # fmt: skip
        if not isinstance(header, dict) or self._rng.random() < 0.1:
            payload["headers"][HEADER] = self._odd()
            return
        for _ in range(self._rng.randint(1, 3)):
            name = self._rng.choice(names)
            header[name] = "twice" if name == "nonce" and self._rng.random() < 0.2 else self._odd()

    def _property(self, payload: Payload) -> None:
        properties = payload["properties"]
        name = self._rng.choice(("priority", "priority", "correlation_id", "reply_to",
                                 "delivery_mode", "delivery_info", "odd"))  # fmt: skip
        if name == "delivery_info":  # without its two keys kombu takes no message
            field = self._rng.choice(("exchange", "routing_key", "redelivered", "consumer_tag"))
            properties[name][field] = self._odd()
        else:
            properties[name] = self._odd()

    def _embed(self, payload: Payload) -> None:
        """Spoil what is inside a JSON body: arguments, callbacks, a chord; protocol 1's fields."""
        try:
            body = json.loads(_body_of(payload))
            spot = self._rng.choice(list(_spots(body)))
        except (TypeError, ValueError, IndexError, RecursionError):  # not JSON, nothing in it
            return
        holder, key = spot
        if isinstance(holder, dict) and self._rng.random() < 0.2:
            del holder[key]
        else:
            holder[key] = self._odd()
        payload["body"] = base64.b64encode(json.dumps(body).encode()).decode()

    # -- values -----------------------------------------------------------------------------------

    def _odd(self) -> Any:
        kind = self._rng.randrange(12)
        if kind < 4:
            return self._rng.choice(NUMBERS)
        if kind < 8:
            return self._rng.choice(TEXTS)
        if kind < 10:
            return deepcopy(self._rng.choice(SHAPES))
        return self._rng.choice((None, None, None, "x" * 5_000, _nested(DEEP)))

    def _spoilt(self, raw: bytes) -> bytes:
        rng, at = self._rng, self._rng.randrange(len(raw) + 1)
        other = rng.choice((b"[" * 5_000, b"{" * 99, b"null", b"[[],{}]", b'"\\ud800"', b"NaN"))
        inserted = raw[:at] + rng.randbytes(rng.randint(1, 9)) + raw[at:]
        huge = raw + b"x" * 20_000
        flips = [self._flipped(raw)] * 3
        return rng.choice((b"", raw[:at], raw[at:], inserted, other, huge, *flips))

    def _flipped(self, raw: bytes) -> bytes:
        flipped = bytearray(raw)
        for _ in range(min(len(raw), self._rng.randint(1, 4))):
            flipped[self._rng.randrange(len(raw))] ^= 1 << self._rng.randrange(8)
        return bytes(flipped)

    def _same(self, raw: bytes) -> bytes:
        return raw

    def _spoilt_head(self, raw: bytes) -> bytes:
        head, _, body = raw.partition(b"\n")
        fields = json.loads(head)
        fields[self._rng.randrange(len(fields))] = self._odd()
        if self._rng.random() < 0.2:
            del fields[self._rng.randrange(len(fields))]
        return json.dumps(fields).encode() + b"\n" + body

    def _foreign(self, _raw: bytes) -> bytes:
        value = self._odd()
        odd = json.dumps(value, default=str).encode()
        return self._rng.choice((odd, odd + b"\n", b"\n" + odd, b"\x80\x04N.", b"", b"\n\n\n"))

    def _packed(self, payload: Payload) -> bytes:
        return Envelope(
            body=_body_of(payload),
            content_type=payload.get("content-type"),
            content_encoding=payload.get("content-encoding"),
            headers=payload["headers"],
            properties=payload["properties"],
        ).pack()


def wire_form(payload: Payload) -> bytes:
    """Give the bytes that a Redis list holds."""
    return json.dumps(payload).encode()


def _body_of(payload: Payload) -> bytes:
    is_whole = payload["properties"].get("body_encoding") == "base64"
    return base64.b64decode(payload["body"]) if is_whole else b""


def _spots(value: Any) -> Iterator[tuple[Any, Any]]:
    if not isinstance(value, (dict, list)):
        return
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield value, key
        yield from _spots(inner)


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def _bytes(raw: str | bytes) -> bytes:
    return raw.encode() if isinstance(raw, str) else raw
