"""How a task asks a model so that it can be heard, stopped and made to yield meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded, TaskPredicate

from celery_lanes.errors import ConfigError, Preempted
from celery_lanes.journeys.journey import granted_ms_of
from celery_lanes.llm.assembly import Assembly
from celery_lanes.llm.chains.chain import Chain
from celery_lanes.llm.http.hangup import CallCancelled, Hangup, interruptible
from celery_lanes.llm.ledger import Attempt
from celery_lanes.llm.reply import Done, Reply, Usage
from celery_lanes.llm.request import Request
from celery_lanes.llm.stream import Stream
from celery_lanes.streams.events import failed, finished
from celery_lanes.streams.press import Press
from celery_lanes.streams.pump import Patience, Pump
from celery_lanes.worker.body import conclude, lease_of, running

Ask = Callable[..., Reply]
"""Asks a chain a request; its terms are those that ``generate`` and ``stream`` have in common."""


@contextmanager
def asking(task: Any, patience: Patience | None) -> Iterator[Ask]:
    """Give what asks a chain for a task; with ``patience``, what comes is streamed to its readers.

    A task that is called directly has none: there is no id to read it by.

    What the block raises is the end of the stream, unless it is a word to Celery, such as Retry, or
    the call makes room: then it goes on when the call runs again.
    """
    hangup = Hangup()
    with interruptible(hangup), _yielding(task, hangup):
        if patience is None or task.request.id is None:
            yield Chain.generate
            return
        with _streaming(task, hangup, patience) as ask:
            yield ask


@contextmanager
def _streaming(task: Any, hangup: Hangup, patience: Patience) -> Iterator[Ask]:
    lanes = _lanes(task)
    press = lanes.parts.printer.press()
    pump = Pump(task.request.id, hangup, patience, granted_ms_of(task.request))
    teller = _Teller(press, pump, patience, partial(lanes.established, task.request))
    try:
        press.open(pump)
        try:
            yield teller.ask
        except Exception as error:
            if _is_final(task, error):
                pump.end(failed(error))
                press.close(pump)
            raise
        conclude(lease_of(task.request))
        pump.end(finished(teller.reply))
        with suppress(SoftTimeLimitExceeded):  # the reply is whole; it is not lost for its readers
            press.close(pump)
    finally:
        pump.leave()


class _Teller:
    """Reads a chain's stream for a task, and tells the press of each piece.

    ``established`` is called when the first one has come.
    """

    def __init__(
        self, press: Press, pump: Pump, patience: Patience, established: Callable[[], None]
    ) -> None:
        self._press, self._pump, self._established = press, pump, established
        self._idle_s = max(patience.first_token_s, patience.idle_s)  # the press is exact
        self.reply: Reply

    def ask(self, chain: Chain, request: Request, **terms: Any) -> Reply:
        try:
            with chain.stream(request, idle_s=self._idle_s, **terms) as stream:
                with self._pump.hangup.excused():
                    self._established()
                self.reply = self._read(stream)
        except CallCancelled as cancelled:
            self.reply = _cut_short(Assembly(request).reply(), cancelled)
        return self.reply

    def _read(self, stream: Stream) -> Reply:
        try:
            for piece in stream:
                if isinstance(piece, Done):
                    return piece.reply
                if self._pump.add(piece):
                    self._press.nudge()
        except CallCancelled as cancelled:
            return _cut_short(stream.partial, cancelled)
        raise AssertionError("a chain's stream ends with Done")


@contextmanager
def _yielding(task: Any, hangup: Hangup) -> Iterator[None]:
    """Let the body end between two chunks, on threads and solo: nobody can raise in it there."""
    if (body := running(lease_of(task.request))) is None:
        yield
        return
    body.when_asked = lambda: hangup.cut(Preempted())
    try:
        if body.is_asked:
            body.when_asked()
        yield
    finally:
        body.when_asked = None


def _lanes(task: Any) -> Any:
    lanes = getattr(task.app, "lanes", None)
    if lanes is None:
        raise ConfigError("expected an app with Lanes(app) for stream=True: its store has streams")
    return lanes


def _is_final(task: Any, error: Exception) -> bool:
    """Say whether Celery makes a failure of an error; what makes room, or retries, is none."""
    body = running(lease_of(task.request))
    makes_room = isinstance(error, Preempted) or (body is not None and body.is_asked)
    return not isinstance(error, TaskPredicate) and not makes_room


def _cut_short(reply: Reply, cancelled: CallCancelled) -> Reply:
    """Make what came the reply; what was never asked for costs nothing."""
    attempts = tuple(map(Attempt.model_validate, cancelled.attempts))
    usage = reply.usage if attempts else Usage(input_tokens=0, output_tokens=0)
    return reply.model_copy(
        update={"finish_reason": "cancelled", "attempts": attempts, "usage": usage}
    )
