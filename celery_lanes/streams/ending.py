"""The end of a stream that its result tells: of a call that nobody could write the end of."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from celery import states
from pydantic import ValidationError

from celery_lanes.llm.reply import Reply
from celery_lanes.streams.events import Cancelled, Ending, Finished, failed, finished

logger = logging.getLogger(__name__)


def ending_of(app: Any, task_id: str) -> Ending | None:
    """Read a task's result; ``None`` while it has none, or where nobody can tell."""
    try:
        meta = app.backend.get_task_meta(task_id)
    except NotImplementedError:  # there is no result backend
        return None
    except Exception as error:  # noqa: BLE001 # of whatever it is made of; it is asked again
        logger.debug("celery_lanes: the result of %s cannot be read: %s", task_id, error)
        return None
    return _ending(meta.get("status"), meta.get("result"))


def _ending(state: Any, result: Any) -> Ending | None:
    match state:
        case states.SUCCESS:
            return _success(result)
        case states.REVOKED:
            return Cancelled()
        case states.FAILURE:
            return failed(result if isinstance(result, BaseException) else Exception(str(result)))
    return None


def _success(result: Any) -> Ending:
    """Read what ``generate`` returned; another task's result tells nothing more."""
    try:
        return finished(Reply.model_validate(result)) if isinstance(result, Mapping) else Finished()
    except ValidationError:
        return Finished()
