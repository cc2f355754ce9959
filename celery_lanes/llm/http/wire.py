"""One kind of API: how it is asked, and how its answers are read. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from celery_lanes.errors import BadRequest, ProviderError, TransientError
from celery_lanes.llm.assembly import Assembly
from celery_lanes.llm.capabilities import Capabilities
from celery_lanes.llm.http.framing import Framing
from celery_lanes.llm.reply import Piece
from celery_lanes.llm.request import Request


class NoReply(Exception):  # noqa: N818 # becomes a ProviderError that names the provider
    """What came holds no reply.

    Args:
        what: what came, after the provider's name.
        kind: the error that it is.
    """

    def __init__(self, what: str, kind: type[ProviderError] = TransientError) -> None:
        super().__init__(what)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Question:
    """A request as it is sent: the path under the base URL, and a JSON body."""

    path: str
    body: Mapping[str, Any]


class Wire(Protocol):
    """How one kind of API is spoken."""

    @property
    def capabilities(self) -> Capabilities:
        """What there is a place for."""

    @property
    def framing(self) -> Framing:
        """How events follow each other in a stream."""

    def headers(self, token: str) -> Mapping[str, str]:
        """Give the headers of each request; the token may be empty."""

    def question(self, request: Request, *, is_stream: bool) -> Question:
        """Write a request. Raises ``BadRequest`` for ``params`` that are the wire's own."""

    def read(self, payload: Mapping[str, Any], into: Assembly) -> Iterable[Piece]:
        """Read a whole reply: pieces are given, what else it says is set. Raises ``NoReply``."""

    def read_event(self, event: Mapping[str, Any], into: Assembly) -> Iterable[Piece]:
        """Read one event of a stream, likewise; the last sets ``has_ended`` or its reason."""


def given(**fields: Any) -> dict[str, Any]:
    """Leave out what the request leaves to the provider."""
    return {name: value for name, value in fields.items() if value not in (None, (), "")}


def joined(turns: Iterable[dict[str, Any]], parts: str) -> list[dict[str, Any]]:
    """Put neighbours of one role together: the results of calls that were made together must be.

    ``parts`` is the field that holds a turn's list of parts; a turn with a text stays as it is.
    """
    found: list[dict[str, Any]] = []
    for turn in turns:
        last = found[-1] if found else {}
        is_same = last.get("role") == turn["role"]
        if is_same and isinstance(last[parts], list) and isinstance(turn[parts], list):
            found[-1] = {**last, parts: [*last[parts], *turn[parts]]}
        else:
            found.append(turn)
    return found


def merged(body: Mapping[str, Any], params: Mapping[str, Any], *ours: str) -> dict[str, Any]:
    """Add a request's ``params`` to a body, also within an object that both have.

    Raises ``BadRequest`` for one that is the library's own.
    """
    if taken := sorted({"model", "messages", "stream", *ours} & params.keys()):
        raise BadRequest(f"expected no {' or '.join(taken)} among the parameters")
    both = {
        name: {**body[name], **value}
        for name, value in params.items()
        if isinstance(value, Mapping) and isinstance(body.get(name), Mapping)
    }
    return {**body, **params, **both}
