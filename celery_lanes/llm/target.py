"""One model of one provider."""

from __future__ import annotations

from dataclasses import dataclass

from celery_lanes.llm.provider import IDLE_S, Provider
from celery_lanes.llm.reply import Reply
from celery_lanes.llm.request import Request
from celery_lanes.llm.stream import Stream


@dataclass(frozen=True, slots=True)
class Target:
    """Who is asked; its text is ``provider/model``.

    Attributes:
        provider: who serves it.
        model: its name there.
        lane: which one bounds it, if any.
        spelled: the text as it was written, by which the lane was found.
    """

    provider: Provider
    model: str
    lane: str | None = None
    spelled: str = ""

    @property
    def written(self) -> str:
        """What names it on its way from lane to lane: as in the spec, by which they were found."""
        return self.spelled or str(self)

    def __str__(self) -> str:
        """Give what names it in a spec."""
        return f"{self.provider.name}/{self.model}"

    def generate(
        self,
        request: Request,
        *,
        timeout_s: float | None = None,
        idempotency_key: str | None = None,
    ) -> Reply:
        """Ask it, whatever model the request names. Raises ``ProviderError``."""
        return self.provider.generate(
            self._addressed(request),
            timeout_s=self.provider.timeout_s if timeout_s is None else timeout_s,
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
        return self.provider.stream(
            self._addressed(request),
            timeout_s=self.provider.timeout_s if timeout_s is None else timeout_s,
            idle_s=idle_s,
            idempotency_key=idempotency_key,
        )

    def _addressed(self, request: Request) -> Request:
        return request.model_copy(update={"model": self.model})
