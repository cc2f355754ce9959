"""What lanes must know of each pool: how many calls it can start now, and when one has ended.

"Free" is what could start *at once*. A lane call never goes into the worker's semaphore or into
the buffer of a busy child: it would hold a slot there without running.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from billiard.exceptions import TimeLimitExceeded
from celery.concurrency import prefork, solo, thread
from celery.concurrency.asynpool import SCHED_STRATEGY_FAIR

from celery_lanes.errors import ConfigError
from celery_lanes.worker.attempt import Attempt
from celery_lanes.worker.body import ASKED_BY, running
from celery_lanes.worker.closing import has_own_result

ASK_EVERY_S = 0.1
KILL_AFTER_S = 2.0
"""How long a body may go on after it has been made to end."""

DYING_S = 0.5
"""How long a process may take to end that has been killed."""

GEVENT = "celery.concurrency.gevent"
"""Its pool's module: named, not imported, for it imports gevent."""


class PoolView(Protocol):
    """One worker's pool, seen from the lanes."""

    def free(self) -> int:
        """Count the calls that could start at once; read from any thread."""

    def watch(self, job: Any, attempt: Attempt) -> None:
        """End the attempt when the job has ended."""

    def make_room(self, attempt: Attempt, grace_s: float) -> None:
        """Have a running body end within about its grace, if the pool can; see ``body``."""

    def grow(self) -> None:
        """Start another process, if the worker may; called where a call waits for one."""


def refuse_unknown_pool(pool: type) -> None:
    """Raise ``ConfigError`` for a pool that lanes do not know, as for eventlet's."""
    is_known = issubclass(pool, (prefork.TaskPool, thread.TaskPool, solo.TaskPool))
    if not is_known and not any(base.__module__ == GEVENT for base in pool.__mro__):
        raise ConfigError(
            f"expected the pool to be prefork, threads, gevent or solo, got {pool.__module__}"
        )


def pool_view(worker: Any) -> PoolView:
    """Choose the view of a worker's pool."""
    pool = worker.pool
    if isinstance(pool, prefork.TaskPool):
        view = Prefork if worker.semaphore is not None else BlockingPrefork
        return view(worker)
    if isinstance(pool, thread.TaskPool):
        return Threads(pool)
    if isinstance(pool, solo.TaskPool):
        return Solo(pool)
    return Green(pool)


class BlockingPrefork:
    """Processes with helper threads: where the broker has no event loop (memory, filesystem)."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker

    def free(self) -> int:
        """Count processes without a job."""
        pool = self._worker.pool._pool
        return max(0, pool._processes - len(pool._cache)) if pool else 0

    def watch(self, job: Any, attempt: Attempt) -> None:
        """Wrap the job's callbacks; billiard calls one of them at every end."""
        if job is None:  # the pool is closing and took nothing
            attempt.is_stopped = True
            attempt.end()
            return
        attempt.job = job
        job._callback = partial(self._conclude, attempt, job._callback)
        job._error_callback = partial(self._conclude, attempt, job._error_callback)
        if job.ready():
            attempt.end()

    def make_room(self, attempt: Attempt, grace_s: float) -> None:
        """Let it run on, untold: its process may have another job before we hear of its end."""

    def grow(self) -> None:
        """Leave it to Celery."""

    def _conclude(self, attempt: Attempt, callback: Any, result: Any) -> None:
        try:
            callback(result)
        except BaseException:
            attempt.is_silent = True
            raise
        finally:  # MemoryError passes through here and stops the worker; the lease must go first
            attempt.note(result)
            try:
                if _is_overdue(result) and attempt.job is not None:
                    self._kill(attempt.job)
            finally:
                attempt.end()

    def _kill(self, job: Any) -> None:
        """Kill the process of a body at its hard time limit, before its lease goes to another.

        The pool does so, too, but only after it has told us of the limit.
        """
        pool = self._worker.pool._pool
        process, _ = pool._process_by_pid(job._worker_pid)
        if process is not None:
            pool._timeout_handler._trywaitkill(process)
            process._popen.wait(timeout=DYING_S)


class Prefork(BlockingPrefork):
    """Celery's asynchronous process pool. Free = children that are up and idle."""

    def free(self) -> int:
        """Count idle children, less the jobs that already wait for one."""
        pool = self._worker.pool._pool
        if pool is None:
            return 0
        idle = len(pool._all_inqueues) - len(pool._busy_workers) - len(pool.outbound_buffer)
        return int(max(0, min(idle, self._worker.semaphore.value)))

    def watch(self, job: Any, attempt: Attempt) -> None:
        """Do as the base does; then write the job to an idle child at once.

        Celery's loop would do it a turn later, which costs more than the writing.
        """
        super().watch(job, attempt)
        pool, hub = self._worker.pool._pool, self._worker.hub
        idle = pool._all_inqueues - pool._busy_workers - pool._active_writes
        if idle and pool.outbound_buffer and hub.consolidate_callback:
            with suppress(OSError):  # a child has just died: the pool will find its job again
                hub.consolidate_callback(list(idle))

    def make_room(self, attempt: Attempt, grace_s: float) -> None:
        """Signal its process until the body ends; kill it if that goes on after its grace.

        What has written its end is over, and only Celery and the task's handlers are at work.

        A process gets its next job only when the loop, which is here now, has seen the last one
        end; so the signal can come too early or too late for the body, but never to another's.
        With ``-O fast`` more jobs wait in its pipe; there it is let run on.
        """
        pool = self._worker.pool._pool
        if pool is not None and pool.sched_strategy == SCHED_STRATEGY_FAIR:
            self._ask(attempt, time.monotonic() + grace_s + KILL_AFTER_S)

    def _ask(self, attempt: Attempt, kill_at: float) -> None:
        job, request = attempt.job, attempt.request
        if job is None or job.ready() or attempt.has_ended:
            return
        self._worker.hub.call_later(ASK_EVERY_S, self._ask, attempt, kill_at)
        process = job._write_to or job._scheduled_for
        is_there = process is not None and process._is_alive()  # else the number may be another's
        if is_there and time.monotonic() < kill_at:
            os.kill(process.pid, ASKED_BY)
        elif is_there and not has_own_result(request) and attempt.claim_kill():
            attempt.is_killed = not request._already_revoked
            request._already_cancelled = True
            job.terminate(signal.SIGKILL)  # not to be sent to another process
            self._worker.pool.terminate_job(process.pid, signal.SIGKILL)

    def grow(self) -> None:
        """Scale up under ``--autoscale``, one child at a time; in the main thread only."""
        scaler = getattr(self._worker, "autoscaler", None)
        pool = self._worker.pool
        if scaler is None or pool.num_processes >= scaler.max_concurrency:
            return
        if len(pool._pool._all_inqueues) >= pool.num_processes:  # no child is still booting
            scaler.scale_up(1)
            pool.maintain_pool()


class Threads:
    """A thread pool. Free = threads without a job of any kind, that is without a live future.

    Celery's own count of reserved requests keeps those whose callbacks have failed.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._live: set[Any] = set()
        pool.on_apply = partial(self._apply, pool.on_apply)

    def free(self) -> int:
        """Count idle threads."""
        return int(max(0, self._pool.limit - len(self._live)))

    def watch(self, job: Any, attempt: Attempt) -> None:
        """End with the future, which also ends when a callback has raised."""
        job.f.add_done_callback(partial(self._end, attempt))

    def make_room(self, attempt: Attempt, grace_s: float) -> None:
        """Leave it to the body to look at ``should_yield``."""

    def grow(self) -> None:
        """Threads do not grow."""

    def _apply(self, apply: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Take the place of the pool's ``on_apply``: every job goes through it."""
        job = apply(*args, **options)
        self._live.add(job.f)
        job.f.add_done_callback(self._live.discard)
        return job

    def _end(self, attempt: Attempt, future: Any) -> None:
        """End; a future that a shutdown has cancelled never ran."""
        attempt.is_stopped = attempt.is_stopped or future.cancelled()
        attempt.end()


class Green:
    """gevent."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._greenlets: WeakKeyDictionary[Attempt, Any] = WeakKeyDictionary()

    def free(self) -> int:
        """Count free greenlets."""
        pool = self._pool._pool
        return max(0, pool.free_count()) if pool is not None else 0

    def watch(self, job: Any, attempt: Attempt) -> None:
        """End with the greenlet."""
        self._greenlets[attempt] = job
        job.link(lambda *_: attempt.end())

    def make_room(self, attempt: Attempt, grace_s: float) -> None:  # noqa: ARG002 # the body knows
        """Raise in its greenlet, wherever the body waits."""
        import gevent  # noqa: PLC0415 # optional dependency

        gevent.get_hub().loop.run_callback(self._ask, attempt)

    def _ask(self, attempt: Attempt) -> None:
        """Be in the hub: no greenlet runs now, and one whose body is known waits within it."""
        import gevent  # noqa: PLC0415 # optional dependency

        greenlet = self._greenlets.get(attempt)
        if greenlet is None or greenlet.dead:
            return
        body = running(attempt.lease)
        gevent.spawn_later(ASK_EVERY_S, self.make_room, attempt, 0)
        if body and (error := body.reason_to_end()):
            greenlet.throw(error)

    def grow(self) -> None:
        """Greenlets do not grow."""


class Solo:
    """The worker's own thread runs the task."""

    def __init__(self, pool: Any) -> None:
        self._running: list[str] = []
        pool.on_apply = partial(self._apply, pool.on_apply)

    def free(self) -> int:
        """One, unless a task runs."""
        return 0 if self._running else 1

    def watch(self, job: Any, attempt: Attempt) -> None:  # noqa: ARG002 # the pool's signature
        """End at once: the body has run when the pool returns."""
        attempt.end()

    def make_room(self, attempt: Attempt, grace_s: float) -> None:
        """Leave it to the body to look at ``should_yield``."""

    def grow(self) -> None:
        """One thread is all there is."""

    def _apply(self, apply: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Take the place of the pool's ``on_apply``; on some brokers two threads come here."""
        self._running.append("a task")
        try:
            return apply(*args, **options)
        finally:
            self._running.pop()


def _is_overdue(result: Any) -> bool:
    """Whether a job has ended for its hard time limit."""
    error = getattr(result, "exception", None)
    return isinstance(getattr(error, "exc", error), TimeLimitExceeded)
