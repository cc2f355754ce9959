"""LiteLLM's models (``litellm/<its name>``), with the keys that LiteLLM finds by itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from functools import partial
from types import ModuleType
from typing import Any

from celery_lanes.errors import ConfigError, ProviderError, Unsupported
from celery_lanes.llm.assembly import Assembly
from celery_lanes.llm.capabilities import Capabilities
from celery_lanes.llm.deadline import Deadline
from celery_lanes.llm.dsn import Dsn
from celery_lanes.llm.http.client import Transport
from celery_lanes.llm.http.wire import NoReply
from celery_lanes.llm.provider import IDLE_S, TIMEOUT_S, Named
from celery_lanes.llm.providers import borrowed
from celery_lanes.llm.providers.loop import Loop
from celery_lanes.llm.providers.openai import OpenAIWire
from celery_lanes.llm.reply import Done, Piece, Reply
from celery_lanes.llm.request import Request
from celery_lanes.llm.stream import Stream

_WANTED = ("response_format", "tool_choice", "tools")
"""What LiteLLM may not leave out in silence, as it may all that only says how to answer."""


def litellm_provider(name: str, dsn: Dsn, *, transport: Transport | None = None) -> LiteLLMProvider:  # noqa: ARG001 # as of every provider
    """Make the provider; where it asks, and with which key, is LiteLLM's own matter."""
    return LiteLLMProvider(name)


class LiteLLMProvider(Named):
    """Asks through LiteLLM, which speaks OpenAI's format and is imported at the first call.

    Its own retries are off. It is asked on an event loop in a thread of each process: so a call
    ends at its deadline, and at once if it is stopped, with its connection.

    Args:
        name: what stands before the slash in ``provider/model``.
        timeout_s: how many seconds a call may take if its caller does not say.
    """

    def __init__(self, name: str = "litellm", *, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__(name, timeout_s)
        self._wire = OpenAIWire()
        self._loop = Loop(f"{self!r}")

    def capabilities(self, model: str) -> Capabilities:  # noqa: ARG002 # one format for all models
        """Say what there is a place for; what a model has none for is found when it is asked."""
        return self._wire.capabilities

    def generate(
        self, request: Request, *, timeout_s: float, idempotency_key: str | None = None
    ) -> Reply:
        """Answer, without retries. Raises ``ProviderError``."""
        litellm, deadline = _imported(), Deadline(timeout_s)
        with self._asked(litellm, request, deadline, idempotency_key, is_stream=False) as stream:
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
        litellm, deadline = _imported(), Deadline(timeout_s, idle_s=idle_s)
        return self._asked(litellm, request, deadline, idempotency_key, is_stream=True).begun()

    def close(self) -> None:
        """End this process's loop, and what is being asked; all connections are LiteLLM's."""
        self._loop.close()

    def _asked(
        self,
        litellm: ModuleType,
        request: Request,
        deadline: Deadline,
        idempotency_key: str | None,
        *,
        is_stream: bool,
    ) -> Stream:
        who = f"{self._name}/{request.model}"
        failed = partial(borrowed.failure, who, deadline)
        body = self._wire.question(request, is_stream=is_stream).body
        self._check(body, litellm, failed)
        ask = partial(
            litellm.acompletion,
            **body,
            drop_params=True,
            extra_headers={"Idempotency-Key": idempotency_key} if idempotency_key else None,
            max_retries=0,
            num_retries=0,
            timeout=float(deadline["read"]),
        )
        assembly = Assembly(request)
        told, end = self._loop.ask(_told(ask, is_stream=is_stream), deadline, who)
        read = self._wire.read_event if is_stream else self._wire.read
        deltas = borrowed.relayed(_pieces(told, read, assembly, who), assembly, deadline, failed)
        return Stream(deltas, assembly, end)

    def _check(
        self,
        body: Mapping[str, Any],
        litellm: ModuleType,
        failed: Callable[[Exception], ProviderError],
    ) -> None:
        """Refuse what would be left out, if LiteLLM knows the model."""
        try:
            supported = litellm.get_supported_openai_params(model=body["model"])
        except Exception as error:  # whatever LiteLLM may raise for a model that it has not
            raise failed(error) from error
        if supported and (missing := [n for n in _WANTED if n in body and n not in supported]):
            raise Unsupported(
                f"{self._name}/{body['model']} has no place for {' and '.join(missing)}"
            )


async def _told(
    ask: Callable[[], Awaitable[Any]], *, is_stream: bool
) -> AsyncGenerator[dict[str, Any], None]:
    """Give what LiteLLM tells, as OpenAI's JSON: a whole reply, or its events."""
    told = await ask()
    if not is_stream:
        yield told.model_dump()
        return
    async for chunk in told:
        yield chunk.model_dump()


def _pieces(
    told: Iterator[dict[str, Any]],
    read: Callable[[Mapping[str, Any], Assembly], Iterator[Piece]],
    assembly: Assembly,
    who: str,
) -> Iterator[Piece]:
    try:
        for payload in told:
            yield from read(payload, assembly)
    except NoReply as none:
        raise none.kind(f"{who} {none}") from None


def _imported() -> ModuleType:
    """Import LiteLLM, which may take half a minute: no part of the call's time."""
    try:
        import litellm  # noqa: PLC0415 # an extra, and slow to import
    except ImportError as error:
        raise ConfigError("litellm/... needs LiteLLM: pip install celery-lanes[litellm]") from error
    module: ModuleType = litellm
    return module
