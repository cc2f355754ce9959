"""One attempt: a granted call in this worker, until its lease is released."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from billiard.exceptions import WorkerLostError
from celery.worker import state
from kombu.message import Message

from celery_lanes.journeys.journey import Parting
from celery_lanes.store.attempts import Grant, Outcome, Release


class Attempt:
    """A lease in this worker's hands.

    Of one that must make room: ``is_asked``, ``is_killed`` because it would not hear. ``parting``:
    what has ended its body, if the call goes on: to make room, in another lane, later in this one.

    ``is_early``: a body that has begun counts as run, as the lane or its task acknowledges it.

    ``good_until``: until then, by the monotonic clock, the lease is ours; a process that has been
    paused for longer may find that it is another's.

    It is *finished* when the pool's job object has ended. Celery's acknowledgements only say how:
    an early one comes before the body has run, and some endings never acknowledge at all.
    """

    def __init__(
        self,
        lane: str,
        grant: Grant,
        released: Callable[[Attempt], None],
        good_until: float = math.inf,
    ) -> None:
        self.lane = lane
        self.grant = grant
        self.good_until = good_until
        self.request: Any = None
        self.job: Any = None
        self.is_early = False
        self.acked = False
        self.requeue: bool | None = None
        self.is_lost = False
        self.is_stopped = False
        self.is_asked = False
        self.is_killed = False
        self.is_terminated = False
        self.parting: Parting | None = None
        self.is_strange = False
        self.is_silent = False
        self.is_placed = False
        self.outcome = Outcome.BACK
        self._released = released
        self._claims = [True]
        self._kills = [True]
        self._ends = [True]

    def claim(self) -> bool:
        """Take the attempt for dispatch or for giving it back; only the first one gets it."""
        return _take(self._claims)

    @property
    def lease(self) -> tuple[str, str]:
        """Name the attempt: (call, token)."""
        return self.grant.call, self.grant.token

    def claim_kill(self) -> bool:
        """Take the attempt's process for killing: a second blow would hit its next job."""
        return _take(self._kills)

    def end(self) -> None:
        """Release the lease; only the first end counts, and what is known by then."""
        if not _take(self._ends):
            return
        self.outcome = self._outcome()
        try:
            self._released(self)
        finally:
            self.request = self.job = None  # they refer to us: prompts would stay until a full GC

    @property
    def has_ended(self) -> bool:
        """Whether its release is on the way to the store."""
        return not self._ends

    @property
    def goes_back(self) -> bool:
        """Whether the call is to run again, so that nothing is written for it."""
        return bool(self.is_stopped or self.parting or self.is_killed or self.requeue)

    @property
    def has_vanished(self) -> bool:
        """Whether a process pool has dropped the job without calling anybody."""
        job = self.job
        return job is not None and not job.ready() and job._job not in job._cache

    def note(self, result: Any) -> None:
        """See from a pool result whether the body ended by itself, or its process was lost."""
        error = getattr(result, "exception", None)
        self.is_stopped = self.is_stopped and error is not None
        self.is_killed = self.is_killed and error is not None
        self.is_lost = isinstance(getattr(error, "exc", error), WorkerLostError)

    def release(self) -> Release:
        """Say to the store how the attempt ended."""
        if self.parting and not self.is_strange:
            return self.parting.release(self.grant)
        return Release(call=self.grant.call, token=self.grant.token, outcome=self.outcome)

    def _outcome(self) -> Outcome:
        if self.is_strange:
            return Outcome.STRANGE
        if self.parting or self.is_killed:
            return self.parting.outcome if self.parting else Outcome.PREEMPTED
        if self.is_stopped and not self._is_revoked:
            return Outcome.LOST if self.is_early and self._has_begun else Outcome.BACK
        if self.requeue:
            return Outcome.LOST if self.is_lost else Outcome.BACK
        if self.request is None and not self.acked and self.requeue is None:
            return Outcome.BACK  # it never reached the pool
        return Outcome.DONE if self._has_succeeded else Outcome.FAILED

    @property
    def _has_succeeded(self) -> bool:
        """Say whether Celery has heard so; on every pool before the job ends."""
        return self.request is not None and self.request.id in state.successful_requests

    @property
    def _has_begun(self) -> bool:
        """Say whether the pool has told of its beginning; a stop counts as none for Celery."""
        return self.acked or (self.request is not None and self.request.time_start is not None)

    @property
    def _is_revoked(self) -> bool:
        """Say whether it was stopped for good, which has been written."""
        return self.request is not None and self.request._already_revoked


class LaneMessage(Message):  # type: ignore[misc] # kombu is not typed
    """A task message whose acknowledgement goes to its attempt instead of a broker."""

    def __init__(self, attempt: Attempt, **fields: Any) -> None:
        super().__init__(
            delivery_tag=f"{attempt.grant.call}.{attempt.grant.token}", channel=None, **fields
        )
        self.attempt = attempt

    def ack(self, multiple: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 # kombu's
        """Note that Celery is done with the message."""
        self.attempt.acked = True
        self._state = "ACK"

    def reject(self, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 # kombu's
        """Note that Celery rejects the message, to run it again or never."""
        self.attempt.requeue = requeue
        self._state = "REQUEUED" if requeue else "REJECTED"


def _take(tokens: list[bool]) -> bool:
    """Pop in one atomic step: the same attempt is seen from several threads."""
    try:
        return tokens.pop()
    except IndexError:
        return False
