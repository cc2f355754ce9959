"""What a chain tells of its way from target to target."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Literal

from celery_lanes.llm.chains.effects import effect_of
from celery_lanes.llm.messages import Message
from celery_lanes.llm.value import Told

Kind = Literal[
    "attempt_failed",
    "retry",
    "advance",
    "skip_benched",
    "lane_busy",
    "bench",
    "probe",
    "recovered",
    "fail_fast",
    "wait",
    "exhausted",
]
"""An attempt failed (``attempt_failed``), after which its target is benched, too (``bench``), and
the same one (``retry``), the next (``advance``) or nobody (``fail_fast``) is asked. A benched
target is passed by (``skip_benched``), or tried for all others (``probe``), which may end its bench
(``recovered``). So is one whose lane has too long a line (``lane_busy``). Nobody is left: the call
waits for those that are busy, and comes again (``wait``), or fails (``exhausted``).
"""

_logger = logging.getLogger(__name__)


class FailoverEvent(Told):
    """Something that happened on the way of one call.

    Attributes:
        kind: what, as ``Kind`` says.
        ts: when, in seconds since the epoch.
        call_id: which call; what its providers are told as ``Idempotency-Key`` begins with it.
        run_id: of its ``CallInfo``, as is the next.
        caller: whose call it is.
        spec: what it was made with.
        target: who was, or was not, asked; ``None`` at the end of a chain that is exhausted.
        next_target: who comes next; ``None`` for nobody.
        error_class: of the failure that it is about.
        status: its HTTP status.
        attempt: which attempt at this target it was, from 1; 0 before the first.
        elapsed_s: how long the call has run; its waits in lanes do not count.
        retry_after_s: what the provider asked for; of ``wait`` and ``exhausted``, in how many
            seconds the first target is free, of ``lane_busy`` the lane.
        bench_until: when the target's bench ends, in seconds since the epoch.
        possibly_billed: the provider may charge for the failed attempt.
        is_overload: the provider was only busy.
        messages: the conversation, if ``persist_prompts`` is on.
    """

    kind: Kind
    ts: float
    call_id: str
    run_id: str = ""
    caller: str = ""
    spec: str
    target: str | None = None
    next_target: str | None = None
    error_class: str | None = None
    status: int | None = None
    attempt: int = 0
    elapsed_s: float
    retry_after_s: float | None = None
    bench_until: float | None = None
    possibly_billed: bool = False
    is_overload: bool = False
    messages: tuple[Message, ...] | None = None


Observer = Callable[[FailoverEvent], object]
"""Is told in the thread of the call, which waits for it; what it raises is logged."""


def tell(observers: Iterable[Observer], event: FailoverEvent) -> None:
    """Tell each; none can harm the call, or keep the others from being told."""
    for observer in observers:
        _tell_one(observer, event)


def _tell_one(observer: Observer, event: FailoverEvent) -> None:
    try:
        observer(event)
    except Exception as error:
        if effect_of(error).action == "stop":  # a time limit that struck just here
            raise
        _logger.exception("an observer of failovers failed")
