"""What Python raises where a message is not what it should be, as opposed to a server's failure."""

from __future__ import annotations

from celery.exceptions import InvalidTaskError
from kombu.exceptions import ContentDisallowed, SerializationError

MALFORMED = (
    ArithmeticError,
    AttributeError,
    ContentDisallowed,
    InvalidTaskError,
    LookupError,
    RecursionError,
    SerializationError,
    TypeError,
    ValueError,
)
"""Trying again will not help, nor will another worker; no client of a server raises these."""
