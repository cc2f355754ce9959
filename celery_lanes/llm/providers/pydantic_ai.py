"""pydantic-ai's models (``pydantic-ai/<its name>``), with the keys that it finds by itself."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import aclosing
from functools import partial
from importlib import import_module
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import Any

from celery_lanes.errors import ConfigError, TransientError
from celery_lanes.llm.assembly import Assembly
from celery_lanes.llm.capabilities import Capabilities
from celery_lanes.llm.deadline import Deadline
from celery_lanes.llm.dsn import Dsn
from celery_lanes.llm.http.client import Transport
from celery_lanes.llm.provider import IDLE_S, TIMEOUT_S, Named
from celery_lanes.llm.providers import borrowed
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
        self._loops: dict[int, asyncio.AbstractEventLoop] = {}

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
        if (loop := self._loops.pop(os.getpid(), None)) is not None:
            loop.call_soon_threadsafe(loop.stop)

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
        queue: SimpleQueue[Any] = SimpleQueue()
        model = self._models.get(request.model, request.model)
        running = self._started(_pumped(way(model, asked, assembly), queue))
        pieces = _pieces(queue, deadline, who)
        deltas = borrowed.relayed(pieces, assembly, partial(borrowed.failure, who, deadline))
        return Stream(deltas, assembly, lambda: _cancel(running))

    def _started(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(work, self._loop())

    def _loop(self) -> asyncio.AbstractEventLoop:
        """Give this process's loop: a forked child has none of its parent's threads."""
        if (known := self._loops.get(os.getpid())) is not None:
            return known
        new = asyncio.new_event_loop()
        used = self._loops.setdefault(os.getpid(), new)  # another thread may have been first
        if used is new:
            threading.Thread(target=_run, args=(new,), name=f"{self!r}", daemon=True).start()
        else:
            new.close()
        return used


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run until the provider is closed; what is asked then is given up."""
    loop.run_forever()
    loop.run_until_complete(_given_up())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


async def _given_up() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _pumped(pieces: AsyncGenerator[Piece, None], queue: SimpleQueue[Any]) -> None:
    """Put pieces into a queue, and at the end ``None`` or what went wrong."""
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                queue.put(piece)
        queue.put(None)
    except asyncio.CancelledError:
        queue.put(ConnectionAbortedError("the provider was closed"))
        raise
    except Exception as error:  # noqa: BLE001 # is raised where the queue is read
        queue.put(error)


def _pieces(queue: SimpleQueue[Any], deadline: Deadline, who: str) -> Iterator[Piece]:
    while True:
        try:
            item = queue.get(timeout=max(deadline["read"].now(), 0))
        except Empty:
            raise deadline.noted_on(TransientError(f"{who} {deadline}")) from None
        if item is None:
            return
        if isinstance(item, Exception):
            raise item
        yield item
        deadline.renew()


def _cancel(running: Future[None]) -> None:
    running.cancel()


def _terms() -> ModuleType:
    try:
        return import_module("celery_lanes.llm.providers.pydantic_ai_terms")
    except ImportError as error:
        raise ConfigError(
            "pydantic-ai/... needs pydantic-ai: pip install celery-lanes[pydantic-ai]"
        ) from error
