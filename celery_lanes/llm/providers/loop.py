"""Where other libraries are asked: on an event loop, whose work can be ended at any moment."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future
from contextlib import aclosing
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from celery_lanes.errors import TransientError
from celery_lanes.llm.deadline import Deadline, Left
from celery_lanes.llm.http.hangup import Hangup, hangup_here

Item = TypeVar("Item")

_ENDED = ConnectionAbortedError("the call was ended")


class Loop:
    """One, in a thread of each process; so any thread may ask, also one that has a loop of its own.

    ``name``: the thread's.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._loops: dict[int, asyncio.AbstractEventLoop] = {}

    def ask(
        self, items: AsyncGenerator[Item, None], deadline: Deadline, who: str
    ) -> tuple[Iterator[Item], Callable[[], None]]:
        """Begin to ask; give what comes of it as it comes, and what ends it.

        The items raise what was raised on the loop, ``TransientError`` at the deadline, and at once
        what ends the call of this thread from without; if that has ended, it is raised here.
        Whoever reads no more must end it: that cancels what waits for the provider, and so closes
        its connection.
        """
        hangup_here().opens()
        queue: SimpleQueue[Any] = SimpleQueue()
        running = asyncio.run_coroutine_threadsafe(_pumped(items, queue), self._loop())
        return _taken(queue, deadline, who), partial(_cancel, running)

    def close(self) -> None:
        """End this process's loop, and what is being asked."""
        if (loop := self._loops.pop(os.getpid(), None)) is not None:
            loop.call_soon_threadsafe(loop.stop)

    def _loop(self) -> asyncio.AbstractEventLoop:
        """Give this process's loop: a forked child has none of its parent's threads."""
        if (known := self._loops.get(os.getpid())) is not None:
            return known
        new = asyncio.new_event_loop()
        used = self._loops.setdefault(os.getpid(), new)  # another thread may have been first
        if used is new:
            threading.Thread(target=_run, args=(new,), name=self._name, daemon=True).start()
        else:
            new.close()
        return used


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run until it is closed; what is asked then is given up."""
    loop.run_forever()
    loop.run_until_complete(_given_up())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


async def _given_up() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _cancel(running: Future[None]) -> None:
    running.cancel()


async def _pumped(items: AsyncGenerator[Item, None], queue: SimpleQueue[Any]) -> None:
    """Put items into a queue, and at the end ``None`` or what went wrong."""
    try:
        async with aclosing(items):
            async for item in items:
                queue.put(item)
        queue.put(None)
    except asyncio.CancelledError:
        queue.put(ConnectionAbortedError("the provider was closed"))
        raise
    except Exception as error:  # noqa: BLE001 # is raised where the queue is read
        queue.put(error)


def _taken(queue: SimpleQueue[Any], deadline: Deadline, who: str) -> Iterator[Any]:
    hangup, left = hangup_here(), deadline["read"]
    while True:
        try:
            item = _waited_for(queue, left, hangup)
        except Empty:
            raise deadline.noted_on(TransientError(f"{who} {deadline}")) from None
        if hangup.is_over:
            hangup.check()
            lapsed = TransientError(f"{who} {hangup.lapsed}")
            lapsed.given_s = hangup.silent_s
            raise lapsed
        if item is None:
            return
        if isinstance(item, Exception):
            raise item
        yield item


def _waited_for(queue: SimpleQueue[Any], left: Left, hangup: Hangup) -> Any:
    """Wait for an item; another thread may end the wait."""
    with hangup.during(partial(queue.put, _ENDED)):
        return _ENDED if hangup.is_over else queue.get(timeout=max(left.now(), 0))
