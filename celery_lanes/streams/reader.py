"""``lanes.stream(result)``: what comes of a reply, read in any process, also from half-way on."""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from types import TracebackType

from typing_extensions import Self

from celery_lanes.errors import StoreUnavailable
from celery_lanes.store.transcripts import Entry, Follower, Mark, Stop, Transcripts, is_readable
from celery_lanes.streams.events import (
    Began,
    Cancelled,
    Ending,
    Event,
    Failed,
    Gap,
    What,
    from_json,
)

SILENCE_S = 2.0
"""After so long a silence it is looked whether the call has a result."""

GRACE_S = 1.0
"""How much later the store may say that nothing came, before it is taken for gone."""

AGAIN_S = 0.5
"""The pause before a store is asked again that is away."""

AWAY_S = 10.0
"""How long a store may be away."""

THREADS = 32
"""Of a process, for its readers in event loops: each is needed for a moment only."""


class Reader(Iterator[Event], AsyncIterator[Event]):
    """The events of one reply, by ``for`` or ``async for``; the last one ends it.

    Both take the same steps, which may block; in an event loop each is taken in a thread, when
    there is something to read. Closed by its end, by ``with`` or ``async with``, or by ``close``.

    ``cursor``: the id of the last event that was given out; before the first, what it was to go on
    after.
    """

    def __init__(
        self,
        task_id: str,
        transcripts: Transcripts,
        find_ending: Callable[[], Sequence[What]],
        stop: Callable[[Stop], object],
        *,
        after: str | None = None,
        timeout_s: float | None = None,
    ) -> None:
        self.task_id = task_id
        self.cursor = after
        self._place = Mark() if after is None else Mark.parse(after)
        self._transcripts, self._find_ending, self._stop = transcripts, find_ending, stop
        self._timeout_s = math.inf if timeout_s is None else timeout_s
        self._ready: deque[Event] = deque()
        self._has_ended = False
        self._follower: Follower = transcripts.follow(task_id)
        self._is_asked = False
        self._due_at = 0.0
        self._away_since: float | None = None
        self._step_taken: asyncio.Future[None] | None = None
        self._waiting: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"Reader({self.task_id!r}, cursor={self.cursor!r})"

    def cancel(self, *, drain: bool = False) -> None:
        """Have the call end; see ``Lanes.stop``. The last event is still to come."""
        self._stop("drain" if drain else "abort")

    def close(self) -> None:
        """Read no more. May be repeated. A step that is being taken closes it when it is done."""
        self._has_ended = True
        if self._waiting is not None:  # in a loop, which must let go of the descriptor first
            _wake(self._waiting)
        elif self._step_taken is None or self._step_taken.done():
            self._follower.close()

    def __del__(self) -> None:
        with suppress(Exception):  # it was never made, or the interpreter ends
            self._follower.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __next__(self) -> Event:
        """Wait for the next event.

        Raises ``TimeoutError`` after ``timeout`` seconds without one, and ``StoreUnavailable`` if
        the store is away for 10 s; it may be asked again then.
        """
        until = time.monotonic() + self._timeout_s
        while not self._ready:
            if self._has_ended:
                raise StopIteration
            if self._wait(until):
                self._step()
        return self._give()

    async def __anext__(self) -> Event:
        """Wait for the next event in the running event loop; see ``__next__``.

        Whoever gives up waiting may wait again: nothing is lost.
        """
        until = time.monotonic() + self._timeout_s
        while not self._ready:
            if self._has_ended:
                raise StopAsyncIteration
            if self._step_taken is not None or await self._wait_in_loop(until):
                await self._step_in_loop(until)
        return self._give()

    def _give(self) -> Event:
        event = self._ready.popleft()
        self.cursor = event.id
        return event

    def _wait(self, until: float) -> bool:
        """Wait until a step may be taken; False if it may not yet."""
        wait_s = self._wait_s(until)
        if (descriptor := self._descriptor) < 0:
            time.sleep(wait_s)
        elif is_readable(descriptor, wait_s):
            return True
        return time.monotonic() >= self._due_at

    async def _wait_in_loop(self, until: float) -> bool:
        wait_s = self._wait_s(until)
        if (descriptor := self._descriptor) < 0:
            await asyncio.sleep(wait_s)
        elif await self._is_readable_in_loop(descriptor, wait_s):
            return not self._has_ended
        return not self._has_ended and time.monotonic() >= self._due_at

    async def _is_readable_in_loop(self, descriptor: int, wait_s: float) -> bool:
        """Wait; not by ``wait_for``, which may swallow a cancellation up to Python 3.11."""
        loop = asyncio.get_running_loop()
        is_there = self._waiting = loop.create_future()
        loop.add_reader(descriptor, _wake, is_there)
        try:
            await asyncio.wait([is_there], timeout=wait_s)
        finally:
            loop.remove_reader(descriptor)
            self._waiting = None
            if self._has_ended:
                self._follower.close()
        return is_there.done()

    def _wait_s(self, until: float) -> float:
        left_s = self._left_s(until)
        return max(0.0, min(self._due_at - time.monotonic(), left_s))

    def _left_s(self, until: float) -> float:
        if (left_s := until - time.monotonic()) <= 0:
            raise TimeoutError(f"nothing came of {self.task_id} within {self._timeout_s:g} s")
        return left_s

    @property
    def _descriptor(self) -> int:
        return self._follower.fileno() if self._is_asked else -1

    async def _step_in_loop(self, until: float) -> None:
        """Take a step in a thread, or wait for one that somebody has begun and not waited for."""
        left_s = self._left_s(until)
        if self._step_taken is None:
            loop = asyncio.get_running_loop()
            self._step_taken = loop.run_in_executor(_threads(os.getpid()), self._step)
        taken = self._step_taken
        await asyncio.wait([taken], timeout=None if left_s == math.inf else left_s)
        if taken.done():
            self._step_taken = None
            taken.result()

    def _step(self) -> None:
        """Take the answer, if the store has been asked, and ask it for what comes next."""
        try:
            if self._is_asked and not self._has_ended:
                self._is_asked = False
                self._take(self._follower.take())
            if not self._has_ended:
                self._follower.ask(self._place, round(SILENCE_S * 1000))
                self._is_asked, self._due_at = True, time.monotonic() + SILENCE_S + GRACE_S
        except StoreUnavailable as error:
            self._bear(error)
        if self._has_ended:
            self._follower.close()

    def _take(self, entries: list[Entry]) -> None:
        self._away_since = None
        for entry in entries:
            self._read(entry)
        if not entries:
            self._look_for_end()

    def _read(self, entry: Entry) -> None:
        """Give out what is new in an entry, and say so if something before it is missing."""
        run, events = entry.last.run, json.loads(entry.payload)
        first = entry.last.index - len(events) + 1
        following = self._place.index + 1 if run == self._place.run else 1
        if first > following:
            self._add(Mark(run, first - 1), Gap())
        for index, told in enumerate(events, first):
            if index >= following and (what := from_json(told)) is not None:
                self._add(Mark(run, index), self._as_seen_from_here(run, what))
        self._place = entry.last

    def _as_seen_from_here(self, run: int, what: What) -> What:
        """Void what was read of an earlier run, also where the store has forgotten that one."""
        if isinstance(what, Began) and self._place.run not in {0, run}:
            return what.model_copy(update={"type": "restart"})
        return what

    def _look_for_end(self) -> None:
        """End as the transcript says, whose end may have been read before, or as the result.

        The last words may have been written while the result was asked for: they come first.
        """
        newest = self._newest()
        if newest is not None and newest.last > self._place:
            return
        if newest is not None and newest.last == self._place:
            *_, last = json.loads(newest.payload)
            if isinstance(known := from_json(last), Ending):
                self._add(self._place, known)
                return
        if (told := self._find_ending()) and self._newest() == newest:
            self._end(told)

    def _newest(self) -> Entry | None:
        return self._transcripts.last(self.task_id)

    def _end(self, told: Sequence[What]) -> None:
        """End by the result; if nothing was ever streamed, it has the reply as well."""
        *before, ending = told
        if self._place != Mark() or self.cursor is not None:
            is_all = isinstance(ending, Failed) or ending == Cancelled()
            before = [] if is_all else [Gap()]
        for what in (*before, ending):
            self._add(self._place, what)

    def _add(self, place: Mark, what: What) -> None:
        self._ready.append(Event(str(place), what))
        self._has_ended = self._has_ended or isinstance(what, Ending)

    def _bear(self, error: StoreUnavailable) -> None:
        """Wait for a store that is away, but not for ever; the result may tell the end, too."""
        now = time.monotonic()
        is_first = self._away_since is None
        self._away_since = now if self._away_since is None else self._away_since
        self._due_at = now if is_first else now + AGAIN_S
        if now - self._away_since < AWAY_S:
            return
        self._away_since = None
        if not (told := self._find_ending()):
            raise error
        self._end(told)


@cache
def _threads(pid: int) -> ThreadPoolExecutor:  # noqa: ARG001 # a forked child has none of them
    """Give threads for steps: those of the loop's own would be missed if the store hangs."""
    return ThreadPoolExecutor(THREADS, "lanes-readers")


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
