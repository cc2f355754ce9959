"""How events follow each other in the body of a streamed reply."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

MAX_LINE = 16 * 1024 * 1024
"""The longest line that is read, in bytes."""

Framing = Callable[[Iterable[bytes]], Iterator[str]]
"""Turns a body, cut anywhere, into the texts of its events."""


class LineTooLong(ValueError):  # noqa: N818 # becomes a ProviderError
    """A line does not end."""


def whole(pieces: Iterable[bytes]) -> Iterator[str]:
    """Give all of it as one event."""
    yield b"".join(pieces).decode(errors="replace")


def ndjson(pieces: Iterable[bytes]) -> Iterator[str]:
    """Give each line that is not blank."""
    return (line for line in _lines(pieces) if line.strip())


def server_sent_events(pieces: Iterable[bytes]) -> Iterator[str]:
    """Give each event's data; names, ids and comments are left out.

    An event without data is none. One that the end cuts off counts: some servers leave out the
    last blank line.
    """
    data: list[str] = []
    for line in chain(_lines(pieces), [""]):
        text = line.removeprefix("\ufeff")  # which may begin a stream, and is nothing elsewhere
        if text.startswith("data:"):
            data.append(text[5:].removeprefix(" "))
        elif not text:
            if event := "\n".join(data):
                yield event
            data = []


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """Cut at LF or CRLF, and nowhere else: JSON may hold what Unicode calls a line's end."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        *complete, rest = piece.split(b"\n")
        for line in complete:
            yield _text([*held, line])
            held, size = [], 0
        held.append(rest)
        size += len(rest)
        if size > MAX_LINE:
            raise LineTooLong(f"a line of more than {MAX_LINE} bytes")
    if any(held):
        yield _text(held)


def _text(pieces: list[bytes]) -> str:
    return b"".join(pieces).removesuffix(b"\r").decode(errors="replace")
