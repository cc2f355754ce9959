"""The thread that prints what all streamed calls of a process have to say: one for many."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from threading import Lock, Thread

from celery_lanes.errors import StoreError
from celery_lanes.store.transcripts import Draft, Heard, Transcripts
from celery_lanes.streams.pump import Pump

logger = logging.getLogger(__name__)

TURN_BYTES = 1024 * 1024
"""What is written at once, more or less: the store is waited for only so long."""

AGAIN_S = 0.5
"""How long it waits before it tries a store again that is away."""

PATIENCE_S = 2.0
"""How long the end of a call waits for its last event to be printed."""


class Press:
    """Prints batches of all calls together, so that many take few round trips.

    While the store is away pieces wait here, and calls go on; what is not printed when a call ends
    is lost to its readers, who end by its result.
    """

    def __init__(self, transcripts: Transcripts) -> None:
        self.pid = os.getpid()
        self._transcripts = transcripts
        self._news: SimpleQueue[Pump | None] = SimpleQueue()
        self._open: list[Pump] = []
        self._is_away = False
        self._starting = Lock()
        self._is_started = False

    def open(self, pump: Pump) -> None:
        """Begin to print a call's events."""
        self._start()
        self._news.put(pump)

    def nudge(self) -> None:
        """Say that there is something to print."""
        self._news.put(None)

    def close(self, pump: Pump) -> None:
        """Wait until the end has been printed, or for 2 s."""
        self.nudge()
        if not pump.is_over.wait(PATIENCE_S):
            logger.warning("celery_lanes: readers of %s will miss its last words", pump.task_id)
            pump.leave()

    def _start(self) -> None:
        """Start the thread with the first call: several threads may make a press at once."""
        with self._starting:
            if not self._is_started:
                Thread(target=self._work, name="lanes-press", daemon=True).start()
                self._is_started = True  # not before: there may be no room for a thread

    def _work(self) -> None:
        while True:
            self._wait()
            try:
                self._turn()
                for pump in self._open:
                    pump.look()
            except Exception:  # a thread that ends here would leave all streams without an end
                logger.exception("celery_lanes: cannot print what streamed calls say")
                time.sleep(AGAIN_S)

    def _wait(self) -> None:
        """Wait until a call is due, and take what has been opened or said meanwhile."""
        due_at = min((pump.due_at() for pump in self._open), default=math.inf)
        wait_s = None if due_at == math.inf else max(0.0, due_at - time.monotonic())
        with suppress(Empty):
            self._note(self._news.get(wait_s != 0, wait_s))
            while True:
                self._note(self._news.get_nowait())

    def _note(self, news: Pump | None) -> None:
        if news is not None:
            self._open.append(news)

    def _turn(self) -> None:
        self._open = [pump for pump in self._open if not pump.is_over.is_set()]
        if not (drafts := self._drafts()):
            return
        heard = self._transcripts.write(list(drafts.values()))
        for pump, answer in zip(drafts, heard, strict=True):
            with _apart(pump):
                self._tell(pump, answer)
        if self._is_away and not any(pump.is_unheard for pump in self._open):
            self._is_away = False
            logger.info("celery_lanes: streamed calls are heard again")

    def _drafts(self) -> dict[Pump, Draft]:
        """Give what is due; if that is too much at once, of those first who have waited longest."""
        now = time.monotonic()
        drafts: dict[Pump, Draft] = {}
        size = 0
        for pump in sorted(self._open, key=lambda pump: pump.asked_at):
            if pump.due_at() <= now and size < TURN_BYTES:
                with _apart(pump):
                    drafts[pump] = draft = pump.draft()
                    size += draft.size
        return drafts

    def _tell(self, pump: Pump, answer: Heard | StoreError) -> None:
        if isinstance(answer, StoreError):
            self._bear(pump, answer)
        else:
            pump.hear(answer)

    def _bear(self, pump: Pump, error: StoreError) -> None:
        """Try one call again later; the store may be away for some, and have the others' words."""
        pump.rest(AGAIN_S)
        if not self._is_away:
            self._is_away = True
            logger.warning("celery_lanes: not all hear what streamed calls say: %s", error)


@contextmanager
def _apart(pump: Pump) -> Iterator[None]:
    """Let one that says what cannot be written hold up no other; its readers end by its result."""
    try:
        yield
    except Exception:
        logger.exception("celery_lanes: cannot write what %s says", pump.task_id)
        pump.leave()


class Printer:
    """Gives this process's press; a forked child makes its own."""

    def __init__(self, open_transcripts: Callable[[], Transcripts]) -> None:
        self._open_transcripts = open_transcripts
        self._presses: dict[int, Press] = {}

    def press(self) -> Press:
        """Find it, or make it, of several at once one that counts; a child might inherit a lock."""
        pid = os.getpid()
        if (press := self._presses.get(pid)) is None:
            press = self._presses.setdefault(pid, Press(self._open_transcripts()))
        return press
