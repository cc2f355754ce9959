"""How the end of a lane call's body is told, where Celery's own request would tell it wrongly."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery.worker import state

from celery_lanes.journeys.journey import Parting
from celery_lanes.store.attempts import Outcome
from celery_lanes.worker.attempt import Attempt
from celery_lanes.worker.closing import write_silent_end

logger = logging.getLogger(__name__)

Refer = Callable[[], Any]
"""Gives the request; one that it holds itself would keep the prompts until a full collection."""


def succeed(attempt: Attempt, refer: Refer, result: Any, **options: Any) -> Any:
    """Take the place of ``Request.on_success``, for which a killed greenlet is a success.

    Other results are the tracer's: the body has come to an end, which is written and stands,
    though the worker was about to stop it.
    """
    request = refer()
    if not _is_killed(result):
        attempt.is_stopped = attempt.is_stopped and not isinstance(result, tuple)
        return type(request).on_success(request, result, **options)
    attempt.is_silent = not attempt.is_terminated
    return state.task_ready(request)


def terminate(attempt: Attempt, refer: Refer, pool: Any, signal: Any = None) -> Any:
    """Take the place of ``Request.terminate``, which writes that the call was revoked.

    A greenlet has often ended before that is written.
    """
    request, attempt.is_terminated = refer(), True
    return type(request).terminate(request, pool, signal)


def fail(attempt: Attempt, refer: Refer, info: Any, *args: Any, **options: Any) -> Any:
    """Take the place of ``Request.on_failure``: a body whose call goes on has not failed."""
    request, error = refer(), getattr(info.exception, "exc", info.exception)
    if not isinstance(error, Parting) or request._already_revoked:
        return type(request).on_failure(request, info, *args, **options)
    attempt.parting = error
    logger.info("celery_lanes: %s has not ended: %s", request.id, error)
    return state.task_ready(request)


def write_end(attempt: Attempt) -> None:
    """Write that a body ended without a result; while the backend is away, leave it to others.

    Lost, an early acknowledged call is closed by whoever can write, and a late one runs again.
    """
    try:
        write_silent_end(attempt.request)
    except Exception:
        logger.exception("celery_lanes: cannot write the end of %s", attempt.grant.call)
        attempt.outcome = Outcome.LOST


def _is_killed(result: Any) -> bool:
    """Tell what Celery's gevent pool makes of a killed greenlet; tracers say 0 or 1."""
    return isinstance(result, tuple) and result[0] is False
