"""Who serves models."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from celery_lanes.llm.capabilities import Capabilities
from celery_lanes.llm.reply import Reply
from celery_lanes.llm.request import Request
from celery_lanes.llm.stream import Stream

TIMEOUT_S = 300.0
"""How long a call may take where nobody says otherwise."""

IDLE_S = 120.0
"""How long a stream may be silent where nobody says otherwise."""


@runtime_checkable
class Provider(Protocol):
    """Serves models over some API, without retries. Safe to share between threads and to fork.

    A failure by time-out says how long that was, as ``ProviderError.given_s``.
    """

    @property
    def name(self) -> str:
        """What stands before the slash in ``provider/model``."""

    @property
    def timeout_s(self) -> float:
        """How many seconds a call may take if its caller does not say."""

    def capabilities(self, model: str) -> Capabilities:
        """Say what a model can be asked for."""

    def generate(
        self, request: Request, *, timeout_s: float, idempotency_key: str | None = None
    ) -> Reply:
        """Answer within ``timeout_s`` seconds. Raises ``ProviderError``."""

    def stream(
        self,
        request: Request,
        *,
        timeout_s: float,
        idle_s: float = IDLE_S,
        idempotency_key: str | None = None,
    ) -> Stream:
        """Answer piece by piece, within ``timeout_s`` seconds and without longer silences.

        Returns once the provider has begun to answer. Raises ``ProviderError``.
        """

    def close(self) -> None:
        """Close this process's connections."""


class Named:
    """The name and the time of a provider that is made with them."""

    def __init__(self, name: str, timeout_s: float = TIMEOUT_S) -> None:
        self._name = name
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r})"

    @property
    def name(self) -> str:
        """What stands before the slash in ``provider/model``."""
        return self._name

    @property
    def timeout_s(self) -> float:
        """How many seconds a call may take if its caller does not say."""
        return self._timeout_s
