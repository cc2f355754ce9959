"""From a grant to a running task: through Celery's own receiving code and the task's own strategy.

So revokes, expiry, time limits, events, custom Request classes and bad messages behave as in
plain Celery. The strategies are built against a *view* of the consumer in which a request goes
straight to the pool: never into a rate bucket, the ETA timer or the semaphore's waiting list.
"""

from __future__ import annotations

import inspect
import logging
import time
from functools import cached_property, partial
from signal import SIGTERM
from typing import Any
from weakref import ref

from celery.exceptions import InvalidTaskError, TaskRevokedError
from celery.worker import state
from kombu.serialization import prepare_accept_content

from celery_lanes.callinfo import HEADER
from celery_lanes.config.settings import Settings
from celery_lanes.envelope import Envelope
from celery_lanes.eta import is_served
from celery_lanes.journeys.journey import GRANTED, granted_at
from celery_lanes.store.attempts import Grant, Outcome
from celery_lanes.worker.attempt import Attempt, LaneMessage
from celery_lanes.worker.closing import has_own_result
from celery_lanes.worker.endings import fail, succeed, terminate, write_end
from celery_lanes.worker.pools import PoolView
from celery_lanes.worker.view import receiver

logger = logging.getLogger(__name__)

MAX_LIMIT_S = 1e9


class Dispatcher:
    """Starts granted calls in the thread that owns the pool, and stops them."""

    def __init__(self, worker: Any, settings: Settings, view: PoolView) -> None:
        self.is_cold = False
        self.is_shut = False
        self._worker = worker
        self._settings = settings
        self._pool = view
        self._running: set[Attempt] = set()
        self._receive: Any = None

    def forget(self, consumer: Any) -> None:
        """Build the strategies anew: tasks were reloaded, or the consumer has reconnected."""
        self._receive = receiver(consumer, self.execute)

    def jobs(self) -> list[Any]:
        """List the pool's jobs of running lane calls."""
        return [job for attempt in list(self._running) if (job := attempt.job) is not None]

    def requests(self) -> list[Any]:
        """List the requests of running lane calls."""
        return [request for a in list(self._running) if (request := a.request) is not None]

    def shut(self) -> None:
        """Start nothing more, and give back what no process has been sent yet.

        When the worker's event loop ends, nobody writes the pool's buffer to the processes.
        """
        self.is_shut = True
        buffer = getattr(self._worker.pool._pool, "outbound_buffer", None)
        for attempt in list(self._running):
            if buffer and (job := attempt.job) in buffer:
                buffer.remove(job)
                job.discard()
                _give_back(attempt)

    def go_cold(self) -> None:
        """Stop, at a cold shutdown, also what Celery has not heard a process begin.

        Celery cancels the requests that it knows as active. A body whose first message still
        stands in the pool's pipe would run on, the worker waiting for it or leaving it behind.
        """
        self.is_cold = True
        self.shut()
        for attempt in list(self._running):
            if attempt.request not in state.active_requests:
                self._end_stopped(attempt)

    def start(self, attempt: Attempt) -> None:
        """Hand a granted call to Celery, unless it was given back, or may be lost by now."""
        if not attempt.claim():
            return
        if self.is_shut or time.monotonic() > attempt.good_until:
            attempt.end()
            return
        try:
            self._receive(self._message(attempt))
        except Exception:
            logger.exception("celery_lanes: cannot start %s", attempt.grant.call)
            attempt.is_strange = True
        finally:
            attempt.is_placed = True
        if attempt.request is None:  # revoked, expired, unknown, not decodable
            attempt.end()

    def execute(self, request: Any) -> None:
        """Send a request to the pool; the strategy calls this instead of the worker's handler."""
        if not _are_time_limits(request.time_limits):
            state.task_ready(request)
            raise InvalidTaskError(f"invalid time limits {request.time_limits!r}")
        attempt = request.message.attempt
        attempt.request = request
        request.cancel = partial(self._cancel, attempt)
        request.terminate = partial(terminate, attempt, ref(request))
        request.on_success = partial(succeed, attempt, ref(request))
        request.on_failure = partial(fail, attempt, ref(request))
        attempt.is_early = self._settings.is_early(attempt.lane, request.task)
        semaphore = self._semaphore
        if (self._pool.free() if semaphore is None else semaphore.value) <= 0:
            _give_back(attempt)  # a plain task was faster; behind it we would hold the slot idle
        elif semaphore is None:
            self._execute(request, attempt)
        else:
            semaphore.acquire(self._execute, request, attempt)

    def stop(self, attempt: Attempt) -> None:
        """Stop a body whose lease is gone; it writes no result, for the call is another's now."""
        request = attempt.request
        if attempt.claim() or request is None:
            attempt.end()
            return
        attempt.is_stopped = True
        if attempt.claim_kill():
            self._kill(request)

    def stop_unheard(self, attempt: Attempt) -> None:
        """Stop a body from any thread, the event loop being away: kill its process, no more.

        The loop waits for a broker, or for the pool to drain in a warm shutdown; the lease is
        another's by now. A job that no process has been sent yet is left to the loop.
        """
        if attempt.claim():
            attempt.end()
        else:
            self._end_stopped(attempt)

    def make_room(self, attempt: Attempt, grace_s: float) -> None:
        """Have a body end for a more urgent call; one that has not begun goes back."""
        if attempt.claim():
            attempt.end()
        elif not attempt.has_ended:
            logger.info("celery_lanes: %s makes room for a more urgent call", attempt.grant.call)
            self._pool.make_room(attempt, grace_s)

    @cached_property
    def _accept(self) -> Any:
        return prepare_accept_content(self._worker.app.conf.accept_content)

    @property
    def _semaphore(self) -> Any:
        """Give the semaphore that Celery's own handler would take; it counts the pool's jobs."""
        worker = self._worker
        return worker.semaphore if worker.pool_putlocks and worker.pool.uses_semaphore else None

    def _execute(self, request: Any, attempt: Attempt) -> None:
        self._running.add(attempt)
        try:
            job = request.execute_using_pool(self._worker.pool)
        except TaskRevokedError:
            if (semaphore := self._semaphore) is not None:
                semaphore.release()
            attempt.end()
        except BaseException:
            attempt.is_strange = request.time_start is None
            try:
                attempt.end()
            finally:
                self.give_up(request)
            raise
        else:
            self._pool.watch(job, attempt)

    def give_up(self, request: Any) -> None:
        """Give back the place of a request that the pool has not taken; Celery would keep it."""
        state.task_ready(request)
        if (semaphore := self._semaphore) is not None:
            semaphore.release()

    def finished(self, attempt: Attempt) -> None:
        """See to an attempt that has ended, before its lease goes back."""
        self._running.discard(attempt)
        request, goes_back = attempt.request, attempt.goes_back
        if attempt.is_killed and has_own_result(request):
            attempt.outcome = Outcome.FAILED  # it had ended: what is written stands
        is_silent = attempt.is_silent or request in state.active_requests
        if request is not None and is_silent and not goes_back:
            state.task_ready(request)  # nobody told it of the end, or its own part of that failed
            write_end(attempt)

    def _end_stopped(self, attempt: Attempt) -> None:
        """Kill the process that has been sent a call; the attempt ends when the pool notices.

        Nothing says whether the body has begun. The pool counts such a job as accepted, so that
        an early acknowledged call ends as lost, and only a late one runs again.
        """
        request, job = attempt.request, attempt.job
        process = getattr(job, "_write_to", None) or getattr(job, "_scheduled_for", None)
        if process is not None and not job.ready() and attempt.claim_kill():
            attempt.is_stopped = request._already_cancelled = True
            job.terminate(SIGTERM)  # not to be sent to another process
            self._worker.pool.terminate_job(process.pid)

    def _cancel(self, attempt: Attempt, _pool: Any, signal: Any = None, **_: Any) -> None:
        """Take the place of ``Request.cancel``: a lost broker does not concern a lane call."""
        if self.is_cold and not attempt.has_ended:
            attempt.is_stopped = True
            self._kill(attempt.request, signal)

    def _kill(self, request: Any, signal: Any = None) -> None:
        try:
            type(request).cancel(request, self._worker.pool, signal, **_quietly(request))
        except NotImplementedError:
            logger.warning("celery_lanes: this pool cannot stop %s; it runs on", request.id)

    def _message(self, attempt: Attempt) -> LaneMessage:
        envelope = Envelope.unpack(attempt.grant.envelope)
        return LaneMessage(
            attempt,
            body=envelope.body,
            content_type=envelope.content_type,
            content_encoding=envelope.content_encoding,
            headers=self._headers(attempt, envelope.headers),
            properties=envelope.properties,
            delivery_info={
                "exchange": "",
                "routing_key": self._settings.queue(attempt.lane),
                "redelivered": attempt.grant.attempt > 1,
            },
            accept=self._accept,
        )

    def _headers(self, attempt: Attempt, headers: dict[str, Any]) -> dict[str, Any]:
        """Complete the headers: attribution, the lane's time limits; the ETA has been served."""
        if "id" not in headers:  # protocol 1: everything is in the body
            return {**headers, HEADER: _header(attempt, headers)}
        return {
            **headers,
            "eta": None if is_served(headers.get("eta")) else headers["eta"],
            "timelimit": self._time_limits(attempt.lane, headers),
            HEADER: _header(attempt, headers),
        }

    def _time_limits(self, lane: str, headers: dict[str, Any]) -> list[float | None]:
        """Give [hard, soft] seconds: the message's own, the task's own, else the lane's."""
        given = headers.get("timelimit") or [None, None]
        task = self._worker.app.tasks.get(headers.get("task"))
        own = (getattr(task, "time_limit", None), getattr(task, "soft_time_limit", None))
        if any(given) or any(own):
            return list(given)
        settings = self._settings.lane(lane)
        return [settings.hard_timeout_s, settings.exec_timeout_s]


def _are_time_limits(limits: Any) -> bool:
    """Tell [hard, soft] seconds from what would end the event loop when their time has come."""
    try:
        hard, soft = limits
    except (TypeError, ValueError):
        return False
    given = [seconds for seconds in (hard, soft) if seconds]
    return all(isinstance(s, (int, float)) and abs(s) <= MAX_LIMIT_S for s in given)


def _give_back(attempt: Attempt) -> None:
    state.task_ready(attempt.request)
    attempt.is_stopped = True
    attempt.end()


def _quietly(request: Any) -> dict[str, bool]:
    """Ask for no RETRY state; Celery before 5.6 has no such choice, and emits it."""
    known = inspect.signature(type(request).cancel).parameters
    return {"emit_retry": False} if "emit_retry" in known else {}


def _header(attempt: Attempt, headers: dict[str, Any]) -> dict[str, Any]:
    grant: Grant = attempt.grant
    given = headers.get(HEADER)
    return {
        **(given if isinstance(given, dict) else {}),
        "lane": attempt.lane,
        "nonce": grant.call,
        "token": grant.token,
        "attempt": grant.attempt,
        "wait_s": grant.wait_ms / 1000,
        GRANTED: granted_at(grant, given),
    }
