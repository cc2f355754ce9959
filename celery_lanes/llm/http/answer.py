"""The answer to a request, whose body is read once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

import httpx

from celery_lanes.llm.deadline import Deadline

DRAIN_S = 0.1
"""How long a server may take to end an answer that was all there, to have its connection kept."""

MAX_REST = 64 * 1024
"""How much of it may follow then, in bytes."""


class Answer:
    """A status, headers, and a body that comes in pieces.

    ``was_read``: all of the body that matters; what follows has only to be read away.
    """

    def __init__(self, response: httpx.Response, deadline: Deadline) -> None:
        self._response = response
        self._deadline = deadline
        self._pieces = response.iter_bytes()
        self.was_read = False

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._response.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers, in any case."""
        return self._response.headers

    def __iter__(self) -> Iterator[bytes]:
        """Give the pieces that have not been given yet. Raises ``httpx.RequestError``."""
        return self._pieces

    def close(self) -> None:
        """Close it; its connection is kept for the next call if all of the body has been read."""
        if self.was_read:
            self._drain()
        self._response.close()

    def _drain(self) -> None:
        """Read on, in a hurry: a connection lives on only when the end of the body has come."""
        self._deadline.hurry(DRAIN_S)
        left = MAX_REST
        with suppress(httpx.RequestError):  # which costs no more than the connection
            for piece in self._pieces:
                left -= len(piece)
                if left < 0 or self._deadline.is_over:
                    return
