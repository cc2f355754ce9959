"""LiteLLM's models (``litellm/<its name>``), with the keys that LiteLLM finds by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from types import ModuleType
from typing import Any

from celery_lanes.errors import ConfigError, TransientError, Unsupported
from celery_lanes.llm.assembly import Assembly
from celery_lanes.llm.capabilities import Capabilities
from celery_lanes.llm.deadline import Deadline
from celery_lanes.llm.dsn import Dsn
from celery_lanes.llm.http.client import Transport
from celery_lanes.llm.http.wire import NoReply
from celery_lanes.llm.provider import IDLE_S, TIMEOUT_S, Named
from celery_lanes.llm.providers import borrowed
from celery_lanes.llm.providers.openai import OpenAIWire
from celery_lanes.llm.reply import Piece, Reply
from celery_lanes.llm.request import Request
from celery_lanes.llm.stream import Stream

_WANTED = ("response_format", "tool_choice", "tools")
"""What LiteLLM may not leave out in silence, as it may all that only says how to answer."""


def litellm_provider(name: str, dsn: Dsn, *, transport: Transport | None = None) -> LiteLLMProvider:  # noqa: ARG001 # as of every provider
    """Make the provider; where it asks, and with which key, is LiteLLM's own matter."""
    return LiteLLMProvider(name)


class LiteLLMProvider(Named):
    """Asks through LiteLLM, which speaks OpenAI's format and is imported at the first call.

    Its own retries are off. A time-out is handed on to it; how it bounds a whole call is up to the
    model's provider there, but no stream goes on after it.

    Args:
        name: what stands before the slash in ``provider/model``.
        timeout_s: how many seconds a call may take if its caller does not say.
    """

    def __init__(self, name: str = "litellm", *, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__(name, timeout_s)
        self._wire = OpenAIWire()

    def capabilities(self, model: str) -> Capabilities:  # noqa: ARG002 # one format for all models
        """Say what there is a place for; what a model has none for is found when it is asked."""
        return self._wire.capabilities

    def generate(
        self, request: Request, *, timeout_s: float, idempotency_key: str | None = None
    ) -> Reply:
        """Answer, without retries. Raises ``ProviderError``."""
        assembly = Assembly(request)
        deadline = Deadline(timeout_s)
        payload = self._asked(request, deadline, idempotency_key, is_stream=False).model_dump()
        try:
            for piece in self._wire.read(payload, assembly):
                assembly.add(piece)
        except NoReply as none:
            raise none.kind(f"{self._name}/{request.model} {none}") from None
        return assembly.reply()

    def stream(
        self,
        request: Request,
        *,
        timeout_s: float,
        idle_s: float = IDLE_S,
        idempotency_key: str | None = None,
    ) -> Stream:
        """Answer piece by piece, likewise."""
        deadline = Deadline(timeout_s, idle_s=idle_s)
        chunks = self._asked(request, deadline, idempotency_key, is_stream=True)
        assembly = Assembly(request)
        pieces = self._pieces(chunks, assembly, deadline)
        failed = partial(borrowed.failure, f"{self._name}/{request.model}", deadline)
        return Stream(borrowed.relayed(pieces, assembly, failed), assembly, chunks.close)

    def close(self) -> None:
        """Close nothing: the connections are LiteLLM's."""

    def _asked(
        self, request: Request, deadline: Deadline, idempotency_key: str | None, *, is_stream: bool
    ) -> Any:
        litellm = _imported()
        body = self._wire.question(request, is_stream=is_stream).body
        try:
            self._check(body, litellm.get_supported_openai_params(model=request.model))
            return litellm.completion(
                **body,
                drop_params=True,
                extra_headers={"Idempotency-Key": idempotency_key} if idempotency_key else None,
                max_retries=0,
                num_retries=0,
                timeout=float(deadline["read"]),
            )
        except Exception as error:  # whatever LiteLLM, and who it asks, may raise
            raise borrowed.failure(f"{self._name}/{request.model}", deadline, error) from error

    def _check(self, body: Mapping[str, Any], supported: list[str] | None) -> None:
        """Refuse what would be left out, if LiteLLM knows the model."""
        if supported and (missing := [n for n in _WANTED if n in body and n not in supported]):
            raise Unsupported(
                f"{self._name}/{body['model']} has no place for {' and '.join(missing)}"
            )

    def _pieces(self, chunks: Any, assembly: Assembly, deadline: Deadline) -> Iterator[Piece]:
        for chunk in chunks:
            for piece in self._wire.read_event(chunk.model_dump(), assembly):
                yield piece
                deadline.renew()
            if deadline.is_over:
                late = TransientError(f"{self._name}/{assembly.request.model} {deadline}")
                raise deadline.noted_on(late)


def _imported() -> ModuleType:
    try:
        import litellm  # noqa: PLC0415 # an extra, and slow to import
    except ImportError as error:
        raise ConfigError("litellm/... needs LiteLLM: pip install celery-lanes[litellm]") from error
    module: ModuleType = litellm
    return module
