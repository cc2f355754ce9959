"""Running lane calls while the event loop stands still: Celery waits in it for its broker.

It waits for up to 32 s between two tries. No broker has to do with a lane call; its slot must not
be kept for that long after its end, nor its time limit wait.
"""

from __future__ import annotations

import select
import time
from collections.abc import Collection
from inspect import isgenerator
from typing import Any

from celery.utils.log import get_logger

logger = get_logger(__name__)

IN_PARTS_MS = 1000
"""How long a process may take to write the rest of a result that it has begun to write."""


def attend(pool: Any, hub: Any, jobs: Collection[Any]) -> None:
    """Take the results of these jobs of an ``AsynPool``, look at their time limits, miss the lost.

    All as the loop would. Other jobs are left to it, whose messages the broker has still.
    """
    for job in jobs:
        _attend(pool, hub, job)
    if any(job._write_to and not job._write_to._is_alive() for job in jobs):
        pool.maintain_pool()


def limits_of(pool: Any, jobs: Collection[Any]) -> set[Any]:
    """Give the timer's entries of these jobs' time limits."""
    entries = (pool._tref_for_id.get(job._job) for job in jobs)
    return {entry for entry in entries if entry is not None}


def _attend(pool: Any, hub: Any, job: Any) -> None:
    try:
        _take_results(pool, hub, job._write_to)
        _look_at_limits(pool, hub, job)
    except Exception:
        logger.exception("celery_lanes: cannot see to a call while the broker is away")


def _take_results(pool: Any, hub: Any, process: Any) -> None:
    """Read what a process has said, to the end of its last message; a half one would stay half."""
    if process is None or pool._fileno_to_outq.get(fd := process.outqR_fd) is not process:
        return
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    is_half = _is_half_read(hub, fd)
    while _is_readable(poll, IN_PARTS_MS if is_half else 0):
        if is_half:
            next(hub.readers[fd][0], None)
        else:
            pool.handle_result_event(fd)
        is_half = _is_half_read(hub, fd)


def _is_readable(poll: select.poll, timeout_ms: int) -> bool:
    return any(event & select.POLLIN for _, event in poll.poll(timeout_ms))


def _is_half_read(hub: Any, fd: int) -> bool:
    """Whether a message has been begun: the loop would go on with its generator."""
    reader, _ = hub.readers.get(fd, (None, ()))
    return isgenerator(reader)


def _look_at_limits(pool: Any, hub: Any, job: Any) -> None:
    """Make what the timer would call by now of a job's time limits; it will not do so again."""
    now = time.monotonic()
    limit = pool._tref_for_id.get(job._job)
    if any(entry is limit and eta <= now for eta, _, entry in list(hub.timer._queue)):
        limit.cancel()
        limit()
