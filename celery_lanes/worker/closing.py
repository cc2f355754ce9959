"""Results that no running body writes: a lost worker, a cancelled or dead call, a silent end.

Celery's own backend calls are used, with the message's request, so that chord parts and errbacks
of the body are served as after any failure. The store keeps the message until that is done.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import signals, states
from celery.app.task import Context
from celery.exceptions import NotRegistered, TaskRevokedError, WorkerLostError
from celery.worker.request import Request
from celery.worker.strategy import proto1_to_proto2
from kombu.message import Message
from kombu.serialization import prepare_accept_content

from celery_lanes.envelope import Envelope
from celery_lanes.errors import Preempted
from celery_lanes.results import CANCELLED
from celery_lanes.store.attempts import Closing, Reason
from celery_lanes.worker.malformed import MALFORMED, is_data_refused

logger = logging.getLogger(__name__)

LOST = "Worker exited prematurely: the worker process that ran this call was lost."
DEAD = "Worker exited prematurely: this call lost its worker too often and is a dead letter now."
PREEMPTED = "The call made room for a more urgent one."
STRAY = "Worker exited prematurely: nobody can read to which lane this call was to move."
SILENT = "Worker exited prematurely: the task's body ended without a result."


def write_result(worker: Any, closing: Closing) -> None:
    """Write the final state of a closing call, unless the backend already has one.

    A call that no result can be written for ends without one: it would be closing for ever.
    """
    try:
        _write(worker, closing, Envelope.unpack(closing.envelope))
    except Exception as error:
        if not (isinstance(error, MALFORMED) or is_data_refused(error)):
            raise
        logger.exception(
            "celery_lanes: %s cannot be read or written; it ends without a result", closing.call
        )


def write_silent_end(request: Any) -> None:
    """Write the failure of a body that ended without telling the worker anything."""
    if not has_result(request):
        _write_failure(request, WorkerLostError(SILENT))


def _write(worker: Any, closing: Closing, envelope: Envelope) -> None:
    name, task_id = _identity(envelope)
    context = Context(envelope.headers)  # says whose call it is, also where the body is unreadable
    task = worker.app.tasks.get(name)
    if task is None:
        worker.app.backend.mark_as_failure(task_id, NotRegistered(name), request=context)
        return
    try:
        request = request_of(worker, task, envelope)
    except MALFORMED as error:
        task.backend.mark_as_failure(task_id, error, request=context)
        return
    if has_own_result(request):
        logger.info("celery_lanes: %s already has a result", request.id)
    elif closing.reason is Reason.CANCELLED:
        _write_revoked(request, CANCELLED)
    else:
        _write_failure(request, _ERRORS[closing.reason]())


def request_of(worker: Any, task: Any, envelope: Envelope) -> Request:
    """Build the request of a message outside Celery's strategies, for its context only."""
    app, consumer = worker.app, worker.consumer
    message = Message(
        body=envelope.body,
        content_type=envelope.content_type,
        content_encoding=envelope.content_encoding,
        headers=_placed(envelope.headers),
        properties=envelope.properties,
        accept=prepare_accept_content(app.conf.accept_content),
    )
    fields: dict[str, Any] = {}
    if "id" not in envelope.headers:
        body, headers, decoded, utc = proto1_to_proto2(message, message.decode())
        fields = {"body": body, "headers": headers, "decoded": decoded, "utc": utc}
    return Request(
        message,
        app=app,
        task=task,
        hostname=worker.hostname,
        eventer=getattr(consumer, "event_dispatcher", None),
        **fields,
    )


def _placed(headers: dict[str, Any]) -> dict[str, Any]:
    """Take a spoilt place in a chord for none: the Redis backend would refuse the whole part."""
    is_place = type(headers.get("group_index")) is int
    return headers if is_place else {**headers, "group_index": None}


def _identity(envelope: Envelope) -> tuple[str, str]:
    meta = envelope.headers if "id" in envelope.headers else _protocol_1(envelope)
    return str(meta["task"]), str(meta["id"])


def _protocol_1(envelope: Envelope) -> Any:
    message = Message(
        body=envelope.body,
        content_type=envelope.content_type,
        content_encoding=envelope.content_encoding,
    )
    return message.decode()


def has_result(request: Any) -> bool:
    """Ask the backend: a process may have died between writing the result and saying so."""
    if request.ignore_result:
        return False
    return bool(request.task.backend.get_state(request.id) in states.READY_STATES)


def has_own_result(request: Any) -> bool:
    """Ask the backend whether a running call's body has ended; a closing's word may be older.

    That is so with a dead letter that runs again.
    """
    return has_result(request) and not _is_closings_own(request)


def _is_closings_own(request: Any) -> bool:
    """Tell a result that a closing wrote, cut short perhaps before its chord part and errbacks.

    Those are repeated then: an errback that runs twice does less harm than a chord that hangs.
    """
    error = request.task.backend.get_result(request.id)
    is_kind = isinstance(error, (WorkerLostError, TaskRevokedError, Preempted))
    return is_kind and error.args[:1] in {(LOST,), (DEAD,), (CANCELLED,), (PREEMPTED,), (STRAY,)}


def _write_revoked(request: Any, reason: str) -> None:
    context = request._context
    request.task.backend.mark_as_revoked(
        request.id, reason, request=context, store_result=request.store_errors
    )
    request.send_event("task-revoked", terminated=False, signum=None, expired=False)
    signals.task_revoked.send(
        request.task, request=context, terminated=False, signum=None, expired=False
    )


def _write_failure(request: Any, error: Exception) -> None:
    task, context = request.task, request._context
    info = _raised(error)
    task.request_stack.push(context)  # errbacks and handlers see whose call it was
    try:
        task.backend.mark_as_failure(
            request.id, error, request=context, store_result=request.store_errors
        )
        signals.task_failure.send(
            sender=task, task_id=request.id, exception=error, args=request.args,
            kwargs=request.kwargs, traceback=info.traceback, einfo=info,
        )  # fmt: skip
        request.send_event("task-failed", exception=repr(error), traceback=info.traceback)
    finally:
        task.request_stack.pop()


def _raised(error: Exception) -> ExceptionInfo:
    """Give an error the traceback that Celery's handlers expect of a failure."""
    try:
        raise error  # raised for its traceback
    except type(error):
        return ExceptionInfo()


_ERRORS = {
    Reason.LOST: partial(WorkerLostError, LOST),
    Reason.DEAD: partial(WorkerLostError, DEAD),
    Reason.PREEMPTED: partial(Preempted, PREEMPTED),
    Reason.MOVED: partial(WorkerLostError, STRAY),
}
