"""pydantic-ai's models (``pydantic-ai/<its name>``), with the keys that it finds by itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

from celery_lanes.errors import ConfigError
from celery_lanes.llm.assembly import Assembly
from celery_lanes.llm.capabilities import Capabilities
from celery_lanes.llm.deadline import Deadline
from celery_lanes.llm.dsn import Dsn
from celery_lanes.llm.http.client import Transport
from celery_lanes.llm.provider import IDLE_S, TIMEOUT_S, Named
from celery_lanes.llm.providers import borrowed
from celery_lanes.llm.providers.loop import Loop
from celery_lanes.llm.reply import Done, Piece, Reply
from celery_lanes.llm.request import Request
from celery_lanes.llm.stream import Stream


def pydantic_ai_provider(
    name: str,
    dsn: Dsn,  # noqa: ARG001 # where it asks, and with which key, is pydantic-ai's own matter
    *,
    transport: Transport | None = None,  # noqa: ARG001 # the same
) -> PydanticAIProvider:
    """Make the provider."""
    return PydanticAIProvider(name)


class PydanticAIProvider(Named):
    """Asks through pydantic-ai, which is imported at the first call.

    Its models live on an event loop in a thread of each process; so any thread may ask, also one
    that has a loop of its own. Retries of the clients below are off, where pydantic-ai knows how.

    Args:
        name: what stands before the slash in ``provider/model``.
        models: pydantic-ai's ``Model`` for some names; all others are for it to find.
        timeout_s: how many seconds a call may take if its caller does not say.
    """

    def __init__(
        self,
        name: str = "pydantic_ai",
        *,
        models: Mapping[str, Any] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        super().__init__(name, timeout_s)
        self._models = models or {}
        self._loop = Loop(f"{self!r}")

    def capabilities(self, model: str) -> Capabilities:  # noqa: ARG002 # pydantic-ai says when asked
        """Say what there is a place for."""
        return Capabilities()

    def generate(
        self, request: Request, *, timeout_s: float, idempotency_key: str | None = None
    ) -> Reply:
        """Answer within ``timeout_s`` seconds, without retries. Raises ``ProviderError``."""
        stream = self._asked(_terms().whole, request, Deadline(timeout_s), idempotency_key)
        with stream:
            return next(piece.reply for piece in stream if isinstance(piece, Done))

    def stream(
        self,
        request: Request,
        *,
        timeout_s: float,
        idle_s: float = IDLE_S,
        idempotency_key: str | None = None,
    ) -> Stream:
        """Answer piece by piece, likewise; a silence of ``idle_s`` seconds is an error, too."""
        deadline = Deadline(timeout_s, idle_s=idle_s)
        return self._asked(_terms().streamed, request, deadline, idempotency_key).begun()

    def close(self) -> None:
        """End this process's loop, and what is being asked."""
        self._loop.close()

    def _asked(
        self,
        way: Callable[..., AsyncGenerator[Piece, None]],
        request: Request,
        deadline: Deadline,
        idempotency_key: str | None,
    ) -> Stream:
        who = f"{self._name}/{request.model}"
        asked = _terms().asked(request, timeout_s=deadline["read"], idempotency_key=idempotency_key)
        assembly = Assembly(request)
        model = self._models.get(request.model, request.model)
        pieces, end = self._loop.ask(way(model, asked, assembly), deadline, who)
        failed = partial(borrowed.failure, who, deadline)
        deltas = borrowed.relayed(pieces, assembly, deadline, failed)
        return Stream(deltas, assembly, end)


def _terms() -> ModuleType:
    try:
        return import_module("celery_lanes.llm.providers.pydantic_ai_terms")
    except ImportError as error:
        raise ConfigError(
            "pydantic-ai/... needs pydantic-ai: pip install celery-lanes[pydantic-ai]"
        ) from error
