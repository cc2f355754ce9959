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


def is_data_refused(error: Exception) -> bool:
    """Tell that a result backend refuses what it is to write, whatever backend it is.

    PEP 249 has the name, and with it every SQL driver, SQLAlchemy, Django and redis-py.
    """
    return any(cls.__name__ == "DataError" for cls in type(error).__mro__)
