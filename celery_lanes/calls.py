"""What producers and readers do with the calls of an app's lanes."""

from __future__ import annotations

from functools import partial
from typing import Any

from celery_lanes.cancellation import Cancellation
from celery_lanes.errors import AlreadyStarted, NotQueued
from celery_lanes.lane import Lane
from celery_lanes.llm.chains.chain import Chain
from celery_lanes.once import once
from celery_lanes.parts import Parts
from celery_lanes.position import Position, find_position
from celery_lanes.publish.submission import Submission, call, submit
from celery_lanes.slots.office import Office
from celery_lanes.slots.provider import within_slots
from celery_lanes.slots.slot import Slot
from celery_lanes.store.calls import fitting
from celery_lanes.store.transcripts import Stop
from celery_lanes.streams.ending import ending_of
from celery_lanes.streams.reader import Reader


class Calls:
    """Calls from without: published, looked for, cancelled, read."""

    parts: Parts

    def lane(self, name: str) -> Lane:
        """Give a lane to read or to steer; ``ConfigError`` if there is none of that name."""
        known = self.parts.known_lane(name)
        return Lane(known, self.parts.store, self.parts.settings.lane(known))

    def slot(
        self,
        model: str | None = None,
        *,
        lane: str | None = None,
        caller: str | None = None,
        priority: int | None = None,
        max_wait: float | None = None,
        cost: float = 1.0,
        preemptible: bool = False,
    ) -> Slot:
        """Hold a slot of a lane in code that is no task, under the same cap, shares and rates.

        ::

            with lanes.slot("ollama/llama3.1:8b", caller="alice", max_wait=10) as slot:
                ...  # async with does the same in an event loop

        Args:
            model: ``provider/model``, or an alias for it; the settings say which lane it is.
            lane: a lane's name, instead of a model.
            caller: whose it is; else as the ``call_context`` or the task around it says.
            priority: -1000 to 1000, higher first; else as the ``call_context`` says, else 0.
            max_wait: seconds; ``LaneBusy`` at once if it would wait longer, and when it has.
            cost: estimate in the lane's unit, 1 to 1e9; ``slot.release(cost=...)`` corrects it.
            preemptible: a more urgent call may ask for the slot: ``slot.should_yield()`` says so.

        Raises ``ValueError`` for what is none of these, ``ConfigError`` for a lane that is none.
        """
        return self._office.slot(
            model,
            lane,
            caller=caller,
            priority=priority,
            max_wait_s=max_wait,
            cost=cost,
            preemptible=preemptible,
        )

    @once
    def _office(self) -> Office:
        return Office(self.parts)

    def chain(self, spec: str, *, max_wait: float | None = None) -> Chain:
        """Chain a spec's targets for code that is no task: each attempt holds a slot of its lane.

        ::

            with call_context(caller="alice"):
                reply = lanes.chain("ollama/llama3.1:8b,openai/gpt-5-mini").generate(request)

        As by ``lanes.slot``, under the same caps, shares and rates; a stream holds its slot to its
        end, or as ``stream_slot`` says. Inside a task that runs in a lane there is no second one.
        The lane hears of overloads and of limits that are used up, as by ``generate``.

        Args:
            spec: as ``registry.parse`` takes it, and raises for it.
            max_wait: seconds for a slot, ``None`` = any time; beyond, the next target is asked. The
                wait counts to the ``timeout_s`` of the call.
        """
        chain, lanes = self.parts.registry.parse(spec), self.parts.app.lanes
        is_alone = len(chain) == 1
        return chain.served_by(
            lambda target: within_slots(lanes, target, max_wait, is_alone=is_alone)
        )

    def submit(self, signature: Any, max_wait: float | None = None) -> Submission:
        """Publish a signature, and say in the same step where it stands and when it starts.

        The place is read as the store takes the call: one round trip, and nothing comes between.

        Args:
            signature: ``task.s(...)``, with options by ``.set(caller=...)``; of a chain, the first
                call is placed. Groups and chords begin with several: ``TypeError``.
            max_wait: seconds; ``None`` = any time. If it would wait longer ``LaneBusy`` says its
                ``position``, ``eta_s`` and ``retry_after_s``, and nothing is published.
        """
        return submit(signature, max_wait)

    def call(self, signature: Any, *, timeout: float | None = None) -> Any:
        """Publish a signature and wait for its result.

        If you stop waiting, by ``timeout`` in seconds (``celery.exceptions.TimeoutError``) or by an
        interrupt, what still waits of it is cancelled, of a chain, group or chord each call; what
        runs goes on, and so does a chain whose first call does.
        """
        return call(signature, timeout, self.cancel)

    def position(self, result: Any, *, lane: str | None = None) -> Position:
        """Say where a call stands: its place in fair order, when it starts, what holds it up.

        Args:
            result: an ``AsyncResult`` or a task id; of several calls of it in a lane, the last one
                counts, and of several lanes one where it waits.
            lane: where to look, ``ConfigError`` if there is none of that name; ``None`` = in every
                lane that has been used.

        Raises ``NotQueued`` if no lane has it: it has ended, was never published, or is still in
        the broker (``intake = "broker"``).
        """
        lanes = self.parts.store.lanes() if lane is None else [self.parts.known_lane(lane)]
        return find_position(self.parts.store, str(getattr(result, "id", result)), lanes)

    def explain(self, result: Any, *, lane: str | None = None) -> str:
        """Say in one line why a call waits; see ``position``."""
        return self.position(result, lane=lane).explanation

    def cancel(self, task: Any) -> dict[str, int]:
        """Cancel a task that waits: it never runs, and its result becomes ``REVOKED``.

        A worker of the lane writes that, with what hangs on the call, such as a chord's part; where
        none is up, the result is written here, and the rest when one comes.

        Takes a task id or a result; gives the lanes in which it waited, with how many calls.
        Raises ``AlreadyStarted`` if it runs, ``NotQueued`` if it waits nowhere. If its message is
        still in the broker, on its way to a lane with broker intake that the settings name or that
        has been used before, it is cancelled when it comes, within 3 hours.
        """
        return Cancellation.of(self.parts).cancel(str(getattr(task, "id", task)))

    def cancel_caller(self, caller: str, *, anonymous: bool = False) -> dict[str, int]:
        """Cancel all that waits of a caller; gives how many calls in which lanes.

        Their results are written by the lane's workers, when there are any.
        What comes or goes meanwhile, or is still in the broker, may stay. ``ValueError`` for "",
        which is whoever has not said who it is, and may be a name that got lost on its way here:
        ``anonymous=True`` means it.
        """
        if not caller and not anonymous:
            raise ValueError(
                'expected the name of a caller, got ""; all calls without one are cancelled by'
                ' cancel_caller("", anonymous=True)'
            )
        return Cancellation.of(self.parts).cancel_caller(fitting(caller))

    def stream(
        self, result: Any, *, after: str | None = None, timeout: float | None = None
    ) -> Reader:
        """Read what comes of a call with ``stream=True``, in any process, as it comes.

        ::

            for event in lanes.stream(result):  # or async for
                print(event.text, end="")

        The last event always comes, also if the call is cancelled, fails, or loses its worker: then
        within some 2 s of its result. A call that runs again begins with the event ``restart``. Of
        one without ``stream=True`` the text comes at once, when it has ended.

        Args:
            result: an ``AsyncResult`` or a task id.
            after: the ``id`` of an event: exactly what came after it is read; ``ValueError`` if it
                is none.
            timeout: seconds without any event, as of a call that never was, until ``TimeoutError``;
                ``None`` = wait for ever.
        """
        task_id = str(getattr(result, "id", result))
        return Reader(
            task_id,
            self.parts.transcripts,
            partial(ending_of, self.parts.app, task_id),
            partial(self._stop, task_id),
            after=after,
            timeout_s=timeout,
        )

    def stop(self, result: Any, *, drain: bool = False) -> bool:
        """Have a call with ``stream=True`` end, on every pool; if it waits, it is cancelled.

        Its provider is cut off within a second; the result is a ``Reply`` of what had come, with
        ``finish_reason`` "cancelled". With ``drain``, readers are told so at once, and the provider
        is read to the end all the same, for the result and its true cost. Gives whether a lane has
        the call: not if it has ended, or was never published. One without ``stream=True`` runs on.
        """
        return self._stop(str(getattr(result, "id", result)), "drain" if drain else "abort")

    def _stop(self, task_id: str, how: Stop) -> bool:
        transcripts = self.parts.transcripts
        transcripts.stop(task_id, how)
        try:
            self.cancel(task_id)
        except AlreadyStarted:  # it runs, then, and has been told
            return True
        except NotQueued:  # so has one that runs in no lane
            return False
        transcripts.stop(task_id, "")  # it may be published again
        return True
