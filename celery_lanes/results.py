"""The result side: every error that ``result.get()`` raises says whose call it was.

The attribution is stored in the result's own meta data by whoever writes the result (the pool's
child, or the worker after a time-out, a revoke or a lost process: Celery hands all of them the
request), and attached to the exception when the result is read. The error keeps its class,
message and args.

What is published for it there, an errback, is that call's child, though no task is running.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from celery import states
from celery.backends.base import DisabledBackend
from celery.backends.rpc import RPCBackend

from celery_lanes.callinfo import HEADER, CallInfo, call_context

logger = logging.getLogger(__name__)

CANCELLED = "cancelled"
"""What a revoked result says; a closing knows its own by it."""


class AttributedBackend:
    """What is mixed into the app's result backend, whichever it is."""

    def _get_result_meta(
        self, result: Any, state: str, traceback: Any, request: Any, **options: Any
    ) -> Any:
        make_meta = super()._get_result_meta  # type: ignore[misc] # the mixin's base has it
        meta = make_meta(result, state, traceback, request, **options)
        return self._attributed(meta, state, request)

    def _to_result(
        self, task_id: str, state: str, result: Any, traceback: Any, request: Any
    ) -> Any:
        """Do the same for ``rpc://``, which in Celery 5.5 composes its messages itself."""
        make_meta = super()._to_result  # type: ignore[misc] # the mixin's base has it
        return self._attributed(
            make_meta(task_id, state, result, traceback, request), state, request
        )

    def _attributed(self, meta: Any, state: str, request: Any) -> Any:
        info = CallInfo.from_request(request) if request else None
        if info is not None and state in self.EXCEPTION_STATES:  # type: ignore[attr-defined]
            meta[HEADER] = info.to_header()
        return meta

    def mark_as_failure(self, *args: Any, **options: Any) -> Any:
        """Write it; what hangs on it, errbacks and a chord's, is published as whose it was.

        A worker writes the end of a body that it has lost or stopped outside of any task.
        """
        with _acting_for(options.get("request")):
            mark = super().mark_as_failure  # type: ignore[misc] # the mixin's base has it
            return mark(*args, **options)

    def mark_as_revoked(self, *args: Any, **options: Any) -> Any:
        """Write it, in the same way."""
        with _acting_for(options.get("request")):
            mark = super().mark_as_revoked  # type: ignore[misc] # the mixin's base has it
            return mark(*args, **options)

    def meta_from_decoded(self, meta: Any) -> Any:
        """Attach the attribution to the error that a stored result becomes."""
        meta = super().meta_from_decoded(meta)  # type: ignore[misc] # the mixin's base has it
        error = meta.get("result")
        if isinstance(error, BaseException) and HEADER in meta:
            CallInfo.from_header(meta[HEADER]).attach_to(error)
        return meta

    def __reduce__(self, *arguments: Any, **options: Any) -> Any:
        """Be pickled, as results are that carry their backend, as the app's own backend."""
        reduce: Any = super().__reduce__
        make, (_, *rest) = reduce(*arguments, **options)
        return make, (type(self).__mro__[2], *rest)


def _acting_for(request: Any) -> AbstractContextManager[Any]:
    info = CallInfo.from_request(request) if request else None
    if info is None:
        return nullcontext()
    return call_context(caller=info.caller, run_id=info.run_id)


def write_revoked(app: Any, task_id: str) -> None:
    """Write that a call will never run, unless it has ended; the rest is left to a worker.

    That is its chord part and its attribution: only its message tells of them. On ``rpc://`` it
    names the reader, too, so there all is a worker's.
    """
    backend = app.backend
    if isinstance(backend, (DisabledBackend, RPCBackend)):
        return
    try:
        if backend.get_state(task_id) not in states.READY_STATES:
            backend.mark_as_revoked(task_id, CANCELLED)
    except Exception as error:  # noqa: BLE001 # a result backend may raise anything; it is cancelled
        logger.warning(
            "celery_lanes: %s is cancelled; a worker will have to write its result: %r",
            task_id,
            error,
        )


def attribute_results(app: Any) -> None:
    """Have every backend that the app makes carry attribution, and one that it has made already."""
    make_backend = app._get_backend
    classes: dict[type, type] = {}

    def attributing(backend: Any) -> Any:
        own = type(backend)
        if issubclass(own, AttributedBackend):  # the app has had lanes before
            return backend
        if own not in classes:
            classes[own] = _attributed(own)
        backend.__class__ = classes[own]
        return backend

    app._get_backend = lambda: attributing(make_backend())
    if app._backend is not None:
        attributing(app._backend)


def _attributed(cls: type) -> type:
    name = f"Attributed{cls.__name__}"
    return type(name, (AttributedBackend, cls), {"__module__": cls.__module__})
