"""What a lost broker connection must not do to running lane calls: no broker knows of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from celery.worker import state
from celery.worker.consumer import consumer


@contextmanager
def unseen(requests: Collection[Any]) -> Iterator[None]:
    """Hide these requests from Celery's consumer, in what it knows as the active ones.

    It would make the prefetch window smaller for each until the broker's own messages have widened
    it again, and say of late acknowledged ones that it terminates them. Everybody else goes on
    with the true list.
    """
    consumer.active_requests = set(state.active_requests).difference(requests)
    try:
        yield
    finally:
        consumer.active_requests = state.active_requests


@contextmanager
def jobs_kept(pool: Any, jobs: list[Any]) -> Iterator[None]:
    """Let ``pool.flush`` pass these jobs by: they stay in its cache, the unsent in its buffer.

    Celery up to 5.6 also clears the cache outright, and forgets which processes are busy.
    """
    inner = getattr(pool, "_pool", None)
    busy = set(getattr(inner, "_busy_workers", ()))
    for job in jobs:
        job.discard = _keep
    try:
        yield
    finally:
        for job in jobs:
            del job.discard
            _restore(inner, job, busy)


def _restore(inner: Any, job: Any, busy: set[int]) -> None:
    if job.ready():
        return
    inner._cache.setdefault(job._job, job)
    if (buffer := getattr(inner, "outbound_buffer", None)) is None:
        return
    process = job._write_to or job._scheduled_for
    if process is not None and process._is_alive():
        inner._busy_workers.update({process.inqW_fd} & busy)
    elif not job._accepted and job not in buffer:
        buffer.append(job)


def _keep() -> None:
    """Take the place of a job's ``discard``."""
