"""A provider that answers by a script: for tests, also of those who use this library."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from celery_lanes.errors import ProviderError, StreamInterrupted, Unsupported
from celery_lanes.llm.assembly import Assembly
from celery_lanes.llm.capabilities import Capabilities
from celery_lanes.llm.dsn import Dsn
from celery_lanes.llm.provider import IDLE_S, Named
from celery_lanes.llm.reply import Done, Piece, Reply, TextDelta
from celery_lanes.llm.request import Request
from celery_lanes.llm.stream import Stream

if TYPE_CHECKING:
    from celery_lanes.llm.http.client import Transport

Answer = str | Reply | ProviderError | Iterable["str | Piece | ProviderError"]
"""A text or a reply; an error to raise; or what a stream brings, an error in its midst too."""

Line = Answer | Callable[[Request], Answer]


class FakeProvider(Named):
    """Answers each request with the next line of its script, and then echoes.

    Args:
        name: what stands before the slash in ``provider/model``.
        script: an answer for each of the next requests, or what gives one for the request.
        capabilities: what it can be asked for.
    """

    def __init__(
        self,
        name: str = "fake",
        *script: Line,
        capabilities: Capabilities | None = None,
    ) -> None:
        super().__init__(name)
        self._script = deque(script)
        self._capabilities = capabilities or Capabilities()
        self.requests: list[Request] = []
        self.closed_streams = 0

    def script(self, *lines: Line) -> None:
        """Add to the script."""
        self._script.extend(lines)

    def capabilities(self, model: str) -> Capabilities:  # noqa: ARG002 # all models are one
        """Say what it can be asked for."""
        return self._capabilities

    def generate(
        self,
        request: Request,
        *,
        timeout_s: float,  # noqa: ARG002 # as of every provider
        idempotency_key: str | None = None,  # noqa: ARG002 # the same
    ) -> Reply:
        """Answer. Raises what the script says."""
        stream = self._begun(request, lambda: None)
        return next(piece.reply for piece in stream if isinstance(piece, Done))

    def stream(
        self,
        request: Request,
        *,
        timeout_s: float,  # noqa: ARG002 # as of every provider
        idle_s: float = IDLE_S,  # noqa: ARG002 # the same
        idempotency_key: str | None = None,  # noqa: ARG002 # the same
    ) -> Stream:
        """Answer piece by piece. Raises what the script says."""
        return self._begun(request, self._count_closed)

    def close(self) -> None:
        """There is nothing to close."""

    def _begun(self, request: Request, close: Callable[[], None]) -> Stream:
        self.requests.append(request)
        if missing := self._capabilities.missing(request):
            raise Unsupported(
                f"{self._name}/{request.model} has no place for {' and '.join(missing)}"
            )
        answer = self._answer(request)
        if isinstance(answer, ProviderError):
            raise answer
        quotas = answer.quotas if isinstance(answer, Reply) else ()
        assembly = Assembly(request, finish_reason="stop", quotas=quotas)
        return Stream(_deltas(answer, assembly), assembly, close)

    def _answer(self, request: Request) -> Answer:
        try:
            line = self._script.popleft()
        except IndexError:
            return request.messages[-1].text
        return line(request) if callable(line) else line

    def _count_closed(self) -> None:
        self.closed_streams += 1


def fake_provider(name: str, dsn: Dsn, *, transport: Transport | None = None) -> FakeProvider:  # noqa: ARG001 # as of every provider
    """Make one that echoes, for ``LLM_<NAME>=fake://x``."""
    return FakeProvider(name)


def _deltas(answer: Answer, assembly: Assembly) -> Iterator[Piece | Done]:
    if isinstance(answer, Reply):
        yield TextDelta(text=answer.text)
        yield Done(reply=answer)
        return
    for item in (answer,) if isinstance(answer, (str, ProviderError)) else answer:
        if isinstance(item, ProviderError):
            if not assembly.has_begun:
                raise item
            raise StreamInterrupted(str(item)) from item
        piece = TextDelta(text=item) if isinstance(item, str) else item
        assembly.add(piece)
        yield piece
    yield Done(reply=assembly.reply())
