"""Providers whose every call holds a slot of its model's lane: for code that is no task."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from celery_lanes.callinfo import held_by
from celery_lanes.llm.capabilities import Capabilities
from celery_lanes.llm.provider import IDLE_S, Provider
from celery_lanes.llm.reply import Reply
from celery_lanes.llm.request import Request
from celery_lanes.llm.stream import Stream
from celery_lanes.llm.target import Target
from celery_lanes.slots.slot import Slot

if TYPE_CHECKING:
    from celery_lanes.calls import Calls


class LaneProvider:
    """Another provider, asked only inside a slot; ``take`` gives one for a model.

    A stream holds its slot until it ends or is closed.
    """

    def __init__(self, provider: Provider, take: Callable[[str], Slot | None]) -> None:
        self._provider, self._take = provider, take

    def __repr__(self) -> str:
        return f"LaneProvider({self._provider!r})"

    @property
    def name(self) -> str:
        """What stands before the slash in ``provider/model``."""
        return self._provider.name

    @property
    def timeout_s(self) -> float:
        """How many seconds a call may take, once it has its slot."""
        return self._provider.timeout_s

    def capabilities(self, model: str) -> Capabilities:
        """Say what a model can be asked for."""
        return self._provider.capabilities(model)

    def generate(
        self, request: Request, *, timeout_s: float, idempotency_key: str | None = None
    ) -> Reply:
        """Wait for a slot, and answer within ``timeout_s`` seconds from then on.

        Raises ``ProviderError``, and what a ``Slot`` does: ``LaneBusy``, ``WaitCancelled``.
        """
        with self._held(request):
            return self._provider.generate(
                request, timeout_s=timeout_s, idempotency_key=idempotency_key
            )

    def stream(
        self,
        request: Request,
        *,
        timeout_s: float,
        idle_s: float = IDLE_S,
        idempotency_key: str | None = None,
    ) -> Stream:
        """Answer piece by piece, likewise."""
        with self._held(request) as slot:
            stream = self._provider.stream(
                request, timeout_s=timeout_s, idle_s=idle_s, idempotency_key=idempotency_key
            )
            return stream.relayed(stream, slot.pop_all().close)

    def close(self) -> None:
        """Close this process's connections."""
        self._provider.close()

    def _held(self, request: Request) -> ExitStack:
        held = ExitStack()
        if (slot := self._take(request.model)) is not None:
            held.enter_context(slot)
        return held


def wrap_provider_for_lane(
    provider: Provider, lanes: Calls, *, max_wait: float | None = None
) -> LaneProvider:
    """Let every call of a provider hold a slot of its model's lane; none inside a lane's task.

    ``max_wait``: seconds for the slot, ``None`` = any time; ``LaneBusy`` beyond.
    """
    return LaneProvider(
        provider, lambda model: slot_of(lanes, f"{provider.name}/{model}", max_wait)
    )


def within_slots(lanes: Calls, target: Target, max_wait: float | None) -> LaneProvider:
    """Do so for one target of a chain, whose lane is found by its name as it is written."""
    return LaneProvider(target.provider, lambda _: slot_of(lanes, target.written, max_wait))


def slot_of(lanes: Calls, model: str, max_wait: float | None) -> Slot | None:
    """Give a slot of a model's lane; ``None`` to a task that has been granted one already."""
    task = lanes.app.current_worker_task
    if task is not None and held_by(task.request) is not None:
        return None
    return lanes.slot(model, max_wait=max_wait)
