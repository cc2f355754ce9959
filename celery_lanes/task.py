"""The app's task class: attribution also where nothing is published (eager mode, ``apply()``)."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

from celery import Task

from celery_lanes.callinfo import HEADER, CallInfo, said_here
from celery_lanes.priority import PRIORITY, checked
from celery_lanes.publish.lineage import Lineage
from celery_lanes.publish.options import GOES_ON, check_options
from celery_lanes.router import is_stamp
from celery_lanes.worker.body import lease_of, running


class LaneTask(Task):  # type: ignore[misc] # celery is not typed
    """A task whose local runs carry attribution, too; ``Lanes`` makes it the app's base class."""

    abstract = True
    estimate_cost: Callable[..., float]

    def __init_subclass__(cls, **options: Any) -> None:
        """Keep the decorator's ``estimate_cost=f`` a function: Python would make a method of it."""
        super().__init_subclass__(**options)
        own = vars(cls)
        if "_decorated" in own and isinstance(estimate := own.get("estimate_cost"), FunctionType):
            cls.estimate_cost = staticmethod(estimate)

    def should_yield(self) -> bool:
        """Say whether the body must make room for a more urgent call, by raising ``Preempted``.

        Prefork and gevent raise it by themselves; on threads and solo a body has to ask, now and
        then. False outside a lane.
        """
        body = running(lease_of(self.request))
        return body is not None and body.is_asked

    def apply_async(self, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        """Publish; ``stream=True`` is for the body, wherever it is said (``.set``, a canvas).

        Raises ``TypeError`` for what is nearly an option of ours where the call goes to a lane, and
        what the task's own ``check_keywords`` raises, unless a canvas goes on in a worker.
        """
        if GOES_ON not in options:
            check_options(self, args, kwargs, options)
            if (check := getattr(self, "check_keywords", None)) is not None:
                check(kwargs or {})
        if "stream" in options and not is_stamp("stream", options):
            stream = options.pop("stream")
            kwargs = kwargs if stream is None else {**(kwargs or {}), "stream": stream}
        return super().apply_async(args, kwargs, *rest, **options)

    def apply(
        self,
        *args: Any,
        headers: dict[str, Any] | None = None,
        caller: str | None = None,
        run_id: str | None = None,
        lane_priority: int | None = None,
        **options: Any,
    ) -> Any:
        """Run here and now, as Celery does, with the header that a publish would have had."""
        checked(lane_priority, "lane_priority")  # there is nothing to go before
        headers = dict(headers or {})
        info = Lineage(self.app, headers.get(HEADER)).attribute(caller=caller, run_id=run_id)
        headers[HEADER] = info.to_header()
        try:
            result = super().apply(*args, headers=headers, **options)
        except Exception as error:
            info.attach_to(error)
            raise
        return _attributed(result, info)


class OnCommit:
    """What is mixed into Django's task class: a publish that waits for the end of a transaction.

    By then the ``call_context`` that it was asked for in may have ended.
    """

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """Publish on commit, as what is said here and now."""
        self.apply_async_on_commit(args, kwargs)

    def apply_async_on_commit(self, *args: Any, **options: Any) -> None:
        """Publish on commit, as what is said here and now; the options go before that."""
        on_commit = super().apply_async_on_commit  # type: ignore[misc] # the mixin's base has it
        on_commit(*args, **{**_said_as_options(), **options})


def lane_task(base: type) -> type:
    """Give the app's own task class our behaviour."""
    if issubclass(base, LaneTask):
        return base
    if base is Task:
        return LaneTask
    mixins = (OnCommit, LaneTask) if hasattr(base, "apply_async_on_commit") else (LaneTask,)
    return type("LaneTask", (*mixins, base), {"abstract": True})


def _said_as_options() -> dict[str, Any]:
    return {PRIORITY if name == "priority" else name: said for name, said in said_here().items()}


def _attributed(result: Any, info: CallInfo) -> Any:
    if isinstance(result.result, BaseException):
        info.attach_to(result.result)
    return result
