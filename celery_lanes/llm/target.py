"""One model of one provider."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from celery_lanes.errors import ConfigError
from celery_lanes.llm.provider import IDLE_S, TIMEOUT_S, Provider
from celery_lanes.llm.reply import Reply
from celery_lanes.llm.request import Request
from celery_lanes.llm.stream import Stream


@dataclass(frozen=True, slots=True)
class Target:
    """Who is asked; its text is ``provider/model``.

    Attributes:
        name: its provider's.
        model: its own name there.
        opens: gives its provider. Raises ``ConfigError``, such as for a missing key.
        lane: which one bounds it, if any.
        spelled: the text as it was written, by which the lane was found.
    """

    name: str
    model: str
    opens: Callable[[], Provider] = field(compare=False, repr=False)
    lane: str | None = None
    spelled: str = ""

    @property
    def provider(self) -> Provider:
        """Who serves it; opened by who first asks for it. Raises ``ConfigError``."""
        return self.opens()

    @property
    def timeout_s(self) -> float:
        """How many seconds a call may take if its caller does not say.

        Of one that cannot be opened what is usual: whoever asks it is told why.
        """
        try:
            return self.provider.timeout_s
        except ConfigError:
            return TIMEOUT_S

    @property
    def written(self) -> str:
        """What names it on its way from lane to lane: as in the spec, by which they were found."""
        return self.spelled or str(self)

    def __str__(self) -> str:
        """Give what names it in a spec."""
        return f"{self.name}/{self.model}"

    def generate(
        self,
        request: Request,
        *,
        timeout_s: float | None = None,
        idempotency_key: str | None = None,
    ) -> Reply:
        """Ask it, whatever model the request names. Raises ``ProviderError``."""
        provider = self.provider
        return provider.generate(
            self._addressed(request),
            timeout_s=provider.timeout_s if timeout_s is None else timeout_s,
            idempotency_key=idempotency_key,
        )

    def stream(
        self,
        request: Request,
        *,
        timeout_s: float | None = None,
        idle_s: float = IDLE_S,
        idempotency_key: str | None = None,
    ) -> Stream:
        """Ask it for a stream, likewise."""
        provider = self.provider
        return provider.stream(
            self._addressed(request),
            timeout_s=provider.timeout_s if timeout_s is None else timeout_s,
            idle_s=idle_s,
            idempotency_key=idempotency_key,
        )

    def _addressed(self, request: Request) -> Request:
        return request.model_copy(update={"model": self.model})
