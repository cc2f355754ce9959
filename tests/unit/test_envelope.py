"""A task message on its way through the store comes out as it went in, types and all."""

from __future__ import annotations

from datetime import date, datetime, time, timezone
from decimal import Decimal
from uuid import UUID

import pytest
from kombu.message import Message

from celery_lanes.envelope import Envelope, headers_in
from celery_lanes.store.attempts import Closing, Grant, Reason
from celery_lanes.store.calls import Call

TYPED = {
    "when": datetime(2026, 2, 28, 12, 30, 1, 500, tzinfo=timezone.utc),
    "naive": datetime(2026, 2, 28, 12, 30),  # noqa: DTZ001 # as a user may write it
    "day": date(2026, 2, 28),
    "hour": time(12, 30),
    "price": Decimal("0.10"),
    "order": UUID(int=17),
    "raw": b"\xff\n\x00",
    "nested": {"prices": [Decimal("1.5"), None, 1.5, "ä"]},
}


@pytest.mark.parametrize("name", TYPED)
def test_typed_headers_and_properties_keep_their_types(name):
    fields = {name: TYPED[name]}
    envelope = Envelope(
        body="[]", content_type="application/json", content_encoding="utf-8",
        headers=fields, properties=fields,
    )  # fmt: skip

    came = Envelope.unpack(envelope.pack())

    assert came == envelope
    assert type(came.headers[name]) is type(fields[name])


@pytest.mark.parametrize(
    "body",
    [b"", b"\x80\x05\n\n\xff\x00", "", "text\nof two lines, ä🦊"],
    ids=["nothing", "bytes", "no text", "text"],
)
def test_a_body_is_kept_to_the_byte(body):
    envelope = Envelope(body=body, content_type="x", content_encoding=None)

    assert Envelope.unpack(envelope.pack()) == envelope


def test_a_brokers_buffer_is_taken_as_bytes():
    message = Message(body=memoryview(b"\x00\x01"), content_type="x", content_encoding="binary")

    assert Envelope.unpack(Envelope.of_message(message).pack()).body == b"\x00\x01"


def test_a_body_that_kombu_has_decompressed_is_not_decompressed_again():
    message = Message(body=b"plain", headers={"id": "t", "compression": "application/x-gzip"})

    assert Envelope.of_message(message).headers == {"id": "t"}


@pytest.mark.parametrize(
    "holder",
    [
        Call(id="c", task_id="t", task="ask", envelope=b"a secret"),
        Grant("c", "token", "ann", 1, 0, b"a secret"),
        Closing("c", "token", Reason.LOST, b"a secret"),
    ],
    ids=lambda holder: type(holder).__name__,
)
def test_what_users_wrote_is_in_no_log(holder):
    assert "secret" not in repr(holder)


def test_the_headers_are_read_from_the_first_line_alone():
    packed = Envelope(
        body=b"a long body", content_type=None, content_encoding=None, headers=TYPED
    ).pack()

    assert headers_in(packed.partition(b"\n")[0]) == TYPED


@pytest.mark.parametrize("head", [b"", b"\xff", b"{}", b"7", b"[1]", b"[0, 0, 0, [], 0]"])
def test_a_line_that_is_none_has_no_headers(head):
    assert headers_in(head) == {}
