"""A task message as bytes: what the lane store keeps of it, and how it becomes a message again.

Layout: one line of JSON (kombu's, so datetimes, decimals and UUIDs in headers keep their types),
a newline, then the body exactly as Celery serialized it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from json import JSONDecoder
from typing import Any

from kombu.message import Message
from kombu.utils import json

_ENCODER = json.JSONEncoder()
_DECODER = JSONDecoder(object_hook=json.object_hook)


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A serialized task message, independent of any broker."""

    body: bytes | str
    content_type: str | None
    content_encoding: str | None
    headers: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_message(cls, message: Message) -> Envelope:
        """Take over a message from the broker; kombu has already decompressed its body."""
        headers = {k: v for k, v in message.headers.items() if k != "compression"}
        return cls(
            body=message.body or b"",
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            headers=headers,
            properties=dict(message.properties),
        )

    def pack(self) -> bytes:
        """Give the bytes that ``unpack`` reads; ``TypeError`` for a body that is a number, say."""
        is_text = isinstance(self.body, str)
        body = self.body.encode() if isinstance(self.body, str) else bytes(memoryview(self.body))
        head = [is_text, self.content_type, self.content_encoding, self.headers, self.properties]
        line: str = _ENCODER.encode(head)
        return line.encode() + b"\n" + body

    @classmethod
    def unpack(cls, raw: bytes) -> Envelope:
        """Read packed bytes; ``ValueError`` if they are none."""
        head, _, body = raw.partition(b"\n")
        is_text, content_type, content_encoding, headers, properties = _read(head)
        return cls(
            body=body.decode() if is_text else body,
            content_type=content_type,
            content_encoding=content_encoding,
            headers=headers,
            properties=properties,
        )


def headers_in(head: bytes) -> dict[str, Any]:
    """Read the headers from the first line of packed bytes; none in what is no such line."""
    try:
        _, _, _, headers, _ = _read(head)
    except (TypeError, ValueError):
        return {}
    return headers if isinstance(headers, dict) else {}


def _read(head: bytes) -> Any:
    return _DECODER.decode(head.decode())
