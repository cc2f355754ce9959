"""Providers whose every call holds a slot of its model's lane: for code that is no task."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from celery_lanes.callinfo import held_by
from celery_lanes.errors import ProviderError
from celery_lanes.llm.capabilities import Capabilities
from celery_lanes.llm.chains.queueing import note_queued
from celery_lanes.llm.provider import IDLE_S, Provider
from celery_lanes.llm.reply import Done, Piece, Reply
from celery_lanes.llm.request import Request, checked_request
from celery_lanes.llm.stream import Stream
from celery_lanes.llm.target import Target
from celery_lanes.slots.slot import Slot
from celery_lanes.store.checks import MAX_TIME_MS
from celery_lanes.store.quota import Quota

if TYPE_CHECKING:
    from celery_lanes.app import Lanes

Take = Callable[[str, float], Slot | None]
"""Gives a slot for a model, and for a call that may take so many seconds."""

SHORTEST_S = 0.001


class LaneProvider:
    """Another provider, asked only inside a slot; ``take`` gives one for a model.

    ``wait_counts``: the wait for it counts to the time of the call. A stream holds its slot until
    it ends or is closed, or until its first piece has come: ``stream_slot`` says so of a lane.
    ``is_alone``: the call has nobody else to ask, so that the lane waits as this one asks it to.
    """

    def __init__(
        self,
        provider: Provider,
        take: Take,
        lanes: Lanes,
        *,
        wait_counts: bool = False,
        is_alone: bool = True,
    ) -> None:
        self._provider, self._take, self._lanes = provider, take, lanes
        self._wait_counts, self._is_alone = wait_counts, is_alone

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
        """Wait for a slot, and answer within ``timeout_s`` seconds.

        Raises ``ProviderError``, and what a ``Slot`` does: ``LaneBusy``, ``WaitCancelled``.
        """
        with self._held(request, timeout_s) as (_, slot, left_s):
            reply = self._provider.generate(
                request, timeout_s=left_s, idempotency_key=idempotency_key
            )
            self._forewarn(slot, reply.quotas)
            return reply

    def stream(
        self,
        request: Request,
        *,
        timeout_s: float,
        idle_s: float = IDLE_S,
        idempotency_key: str | None = None,
    ) -> Stream:
        """Answer piece by piece, likewise."""
        with self._held(request, timeout_s) as (held, slot, left_s):
            stream = self._provider.stream(
                request, timeout_s=left_s, idle_s=idle_s, idempotency_key=idempotency_key
            )
            self._forewarn(slot, stream.quotas)
            give_back = held.pop_all().close
            pieces = stream if slot is None else self._pieces(stream, slot, give_back)
            return stream.relayed(pieces, give_back)

    def close(self) -> None:
        """Close this process's connections."""
        self._provider.close()

    @contextmanager
    def _held(
        self, request: Request, timeout_s: float
    ) -> Iterator[tuple[ExitStack, Slot | None, float]]:
        """Hold a slot; give what holds it, the slot, and how much time is left then."""
        began_at = time.monotonic()
        with ExitStack() as held:
            if (slot := self._take(checked_request(request).model, timeout_s)) is not None:
                try:
                    held.enter_context(slot)
                finally:
                    note_queued(time.monotonic() - began_at)
            waited_s = time.monotonic() - began_at if self._wait_counts else 0.0
            with self._telling(slot):
                yield held, slot, max(SHORTEST_S, timeout_s - waited_s)

    def _pieces(
        self, stream: Stream, slot: Slot, give_back: Callable[[], None]
    ) -> Iterator[Piece | Done]:
        """Give a stream's pieces, and the slot back with the first one if that is all it needs."""
        is_held_on = self._lanes.settings.lane(slot.lane).stream_slot == "full"
        try:
            with self._telling(slot):
                for piece in stream:
                    if not is_held_on:
                        give_back()
                    yield piece
        except Exception:
            slot.release(failed=True)  # the time of one that breaks tells nothing
            raise

    @contextmanager
    def _telling(self, slot: Slot | None) -> Iterator[None]:
        """Tell the lane of an overload, while the slot is held: no grant comes before that."""
        try:
            yield
        except ProviderError as error:
            if slot is not None and error.is_overload:
                waits = self._is_alone or self._lanes.settings.lane(slot.lane).adaptive
                self._lanes.overloaded(slot, retry_after=error.retry_after_s if waits else None)
            raise

    def _forewarn(self, slot: Slot | None, quotas: Sequence[Quota]) -> None:
        """Tell the lane what is left of its provider's limits."""
        if slot is not None:
            self._lanes.forewarned(slot, quotas)


def wrap_provider_for_lane(
    provider: Provider, lanes: Lanes, *, max_wait: float | None = None
) -> LaneProvider:
    """Let every call of a provider hold a slot of its model's lane; none inside a lane's task.

    ``max_wait``: seconds for the slot, ``None`` = any time; ``LaneBusy`` beyond.
    """
    return LaneProvider(
        provider,
        lambda model, _: slot_of(lanes, f"{provider.name}/{model}", max_wait),
        lanes,
    )


def within_slots(
    lanes: Lanes, target: Target, max_wait: float | None, *, is_alone: bool
) -> LaneProvider:
    """Do so for one target of a chain, whose lane is found by its name as it is written.

    The wait counts to the time of the call, which bounds it. ``is_alone``: it has no other target.
    """

    def take(_: str, timeout_s: float) -> Slot | None:
        bounds = [seconds for seconds in (max_wait, timeout_s) if seconds is not None]
        return slot_of(lanes, target.written, min(*bounds, MAX_TIME_MS / 1000))

    return LaneProvider(target.provider, take, lanes, wait_counts=True, is_alone=is_alone)


def slot_of(lanes: Lanes, model: str, max_wait: float | None) -> Slot | None:
    """Give a slot of a model's lane; ``None`` to a task that has been granted one already."""
    task = lanes.parts.app.current_worker_task
    if task is not None and held_by(task.request) is not None:
        return None
    return lanes.slot(model, max_wait=max_wait)
