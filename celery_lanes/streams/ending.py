"""The end of a stream that its result tells: of a call that nobody could write the end of."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from celery import states
from pydantic import ValidationError

from celery_lanes.llm.reply import Reply, TextDelta
from celery_lanes.streams.events import Cancelled, Finished, Gap, What, failed, finished

logger = logging.getLogger(__name__)


def ending_of(app: Any, task_id: str) -> tuple[What, ...]:
    """Read what a task's result tells of its reply, the end last.

    Nothing while it has none, or where nobody can tell.
    """
    try:
        meta = app.backend.get_task_meta(task_id)
    except NotImplementedError:  # there is no result backend
        return ()
    except Exception as error:  # noqa: BLE001 # of whatever it is made of; it is asked again
        logger.debug("celery_lanes: the result of %s cannot be read: %s", task_id, error)
        return ()
    return _ending(meta.get("status"), meta.get("result"))


def _ending(state: Any, result: Any) -> tuple[What, ...]:
    match state:
        case states.SUCCESS:
            return _success(result)
        case states.REVOKED:
            return (Cancelled(),)
        case states.FAILURE:
            error = result if isinstance(result, BaseException) else Exception(str(result))
            return (failed(error),)
    return ()


def _success(result: Any) -> tuple[What, ...]:
    """Read what ``generate`` returned; another task's result tells nothing more."""
    try:
        reply = Reply.model_validate(result) if isinstance(result, Mapping) else None
    except ValidationError:
        reply = None
    if reply is None:
        return (Gap(), Finished())
    words = (TextDelta(text=reply.text),) if reply.text else ()
    rest = (Gap(),) if reply.tool_calls or reply.reasoning else ()
    return (*words, *rest, finished(reply))
