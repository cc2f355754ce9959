"""``Lanes(app, ...)``: the only place where the parts are put together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

from celery import Celery
from celery.utils.imports import symbol_by_name
from celery.utils.log import get_logger

import celery_lanes.tasks  # noqa: F401 # registers celery_lanes.generate
from celery_lanes.callinfo import HEADER, CallInfo, Held, held_by
from celery_lanes.cancellation import Cancellation
from celery_lanes.config import Settings
from celery_lanes.control import cancellable, lane_control
from celery_lanes.errors import ConfigError, NotInLane, NotQueued, StoreError
from celery_lanes.herald import Herald
from celery_lanes.journey import moved, returned, stage_in
from celery_lanes.lane import Lane, checked_lane
from celery_lanes.leg import leg_of
from celery_lanes.llm.chain import Chain
from celery_lanes.llm.journey import Leg
from celery_lanes.llm.logbook import log
from celery_lanes.llm.registry import Registry
from celery_lanes.position import Position, find_position
from celery_lanes.producer import lazily
from celery_lanes.results import attribute_results
from celery_lanes.router import MODEL_ARGUMENT, LaneRouter
from celery_lanes.sender import LaneAMQP, Sender
from celery_lanes.slots.office import Office
from celery_lanes.slots.provider import within_slots
from celery_lanes.slots.slot import Slot
from celery_lanes.store.adapting import MAX_PROVIDER_WAIT_MS
from celery_lanes.store.base import Store
from celery_lanes.store.calls import Busy, Call, Verdict, fitting
from celery_lanes.store.connect import open_health, open_store, open_transcripts
from celery_lanes.store.health_memory import MemoryHealth
from celery_lanes.store.health_redis import RedisHealth
from celery_lanes.store.rules import LaneRules, Policy, Scope
from celery_lanes.store.standing import Standing
from celery_lanes.store.transcripts import Stop, Transcripts
from celery_lanes.streams.ending import ending_of
from celery_lanes.streams.press import Press, Printer
from celery_lanes.streams.reader import Reader
from celery_lanes.submission import Submission, call, submit
from celery_lanes.task import lane_task
from celery_lanes.worker.step import LanesStep

logger = get_logger(__name__)

STORE_SCHEMES = {"redis", "rediss", "redis+socket", "sentinel", "memory"}
"""Brokers whose server can be the store as well."""

VISIBILITY_TIMEOUT_S = 3600
"""kombu's own default for Redis."""


class Lanes:
    """The lanes of a Celery app.

    ::

        app = Celery("shop", broker="redis://localhost/0")
        lanes = Lanes(app, "config/lanes.toml")

    Args:
        app: the Celery app; it is kept as ``app.lanes``.
        config: a path, a ``Settings``, or nothing: ``$CELERY_LANES_CONFIG``, else
            ``config/lanes.toml``. Read at first use; a worker with a broken file does not start.
        registry: makes the ``Registry``, at its first use, of the keywords that it is given; such
            as ``partial(Registry, chain=ChainConfig(transient_retries=0))``.
    """

    def __init__(
        self,
        app: Celery,
        config: Settings | str | Path | None = None,
        *,
        registry: Callable[..., Registry] = Registry,
    ) -> None:
        self.app: Any = app  # celery is not typed
        self._config = config
        self._make_registry = registry
        self.sender = Sender(self)
        self.herald = Herald(self)
        app.lanes = self
        _replace_classes(app)
        attribute_results(app)
        app.steps["worker"].add(LanesStep)

    @cached_property
    def settings(self) -> Settings:
        """The configuration. Raises ``ConfigError``."""
        return self._config if isinstance(self._config, Settings) else Settings.load(self._config)

    @cached_property
    def router(self) -> LaneRouter:
        """Model to lane."""
        return LaneRouter(lambda: self.settings, lambda: self.registry)

    @cached_property
    def registry(self) -> Registry:
        """What ``generate`` uses in this app: providers, and the aliases of the settings.

        Nothing is read or opened before a provider is used.
        """
        registry = self._make_registry(
            aliases=self.settings.aliases, lane_of=self._lane_of, health=self.health
        )
        registry.register_observer(log)
        registry.register_observer(self.herald)
        return registry

    def chain(self, spec: str, *, max_wait: float | None = None) -> Chain:
        """Chain a spec's targets for code that is no task: each attempt holds a slot of its lane.

        ::

            with call_context(caller="alice"):
                reply = lanes.chain("ollama/llama3.1:8b,openai/gpt-5-mini").generate(request)

        As by ``lanes.slot``, under the same caps, shares and rates; a stream holds its slot to its
        end. Inside a task that runs in a lane there is no second one.

        Args:
            spec: as ``registry.parse`` takes it, and raises for it.
            max_wait: seconds for a slot, ``None`` = any time; beyond, the next target is asked. The
                wait counts to the ``timeout_s`` of the call.
        """
        return self.registry.parse(spec).served_by(
            lambda target: within_slots(self, target, max_wait)
        )

    def _lane_of(self, model: str) -> str:
        return self.settings.lane_for(model).lane

    @cached_property
    def store(self) -> Store:
        """The process's own store, for producers and task bodies."""
        return self.open_store()

    def open_store(self) -> Store:
        """Open a store of one's own, as the worker's store thread does."""
        settings = self.settings.store
        store: Store = open_store(
            self.store_url, prefix=settings.prefix, durability=settings.durability
        )
        return store

    @cached_property
    def health(self) -> MemoryHealth | RedisHealth:
        """The health of LLM targets, as all who have the store have seen it.

        As this process has, with ``[health] shared = false``, or where there is no store.
        """
        url = self._health_url() if self.settings.health.shared else None
        prefix, config = self.settings.store.prefix, self.settings.health.config
        return open_health(url or "memory://", prefix=prefix, config=config)

    def _health_url(self) -> str | None:
        try:
            return self.store_url if self.settings.enabled else None
        except ConfigError:  # a task that is run eagerly needs no store
            return None

    @property
    def store_url(self) -> str:
        """The store's URL; the broker's, if none is set and that is a Redis."""
        if url := self.settings.store.url.get_secret_value():
            return url
        broker = self.app.conf.broker_write_url or self.app.conf.broker_url or ""
        if str(broker).partition(":")[0] in STORE_SCHEMES:
            return str(broker)
        raise ConfigError("expected [store] url to name a Redis or Valkey server, got none")

    def admit(
        self, lane: str, calls: Sequence[Call], *, max_wait_ms: int | None = None
    ) -> list[Verdict]:
        """Park calls in a lane, or refuse those that would wait longer than they may."""
        policy, scope = self.policy(lane), self.scope(lane)
        return self.store.admit(lane, calls, policy=policy, scope=scope, max_wait_ms=max_wait_ms)

    def place(
        self, lane: str, call: Call, *, max_wait_ms: int | None = None
    ) -> tuple[Verdict, Standing | None]:
        """Park one call as ``admit`` does, and read where it stands."""
        policy, scope = self.policy(lane), self.scope(lane)
        return self.store.place(lane, call, policy=policy, scope=scope, max_wait_ms=max_wait_ms)

    def lane(self, name: str) -> Lane:
        """Give a lane to read or to steer; ``ConfigError`` if there is none of that name."""
        known = checked_lane(name, self.settings, lambda: self.store)
        return Lane(known, self.store, self.settings.lane(known))

    @cached_property
    def _office(self) -> Office:
        return Office(self)

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
            model: ``provider/model``; the settings say which lane it is.
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
        lanes = self.store.lanes() if lane is None else [self.lane(lane).name]
        return find_position(self.store, str(getattr(result, "id", result)), lanes)

    def explain(self, result: Any, *, lane: str | None = None) -> str:
        """Say in one line why a call waits; see ``position``."""
        return self.position(result, lane=lane).explanation

    def cancel(self, task: Any) -> dict[str, int]:
        """Cancel a task that waits: it never runs, and its result becomes ``REVOKED``.

        Takes a task id or a result; gives the lanes in which it waited, with how many calls.
        Raises ``AlreadyStarted`` if it runs, ``NotQueued`` if it waits nowhere. If its message is
        still in the broker, on its way to a lane with broker intake that the settings name or that
        has been used before, it is cancelled when it comes, within 3 hours.
        """
        return self.cancellation().cancel(str(getattr(task, "id", task)))

    def cancel_caller(self, caller: str, *, anonymous: bool = False) -> dict[str, int]:
        """Cancel all that waits of a caller; gives how many calls in which lanes.

        What comes or goes meanwhile, or is still in the broker, may stay. ``ValueError`` for "",
        which is whoever has not said who it is, and may be a name that got lost on its way here:
        ``anonymous=True`` means it.
        """
        if not caller and not anonymous:
            raise ValueError(
                'expected the name of a caller, got ""; all calls without one are cancelled by'
                ' cancel_caller("", anonymous=True)'
            )
        return self.cancellation().cancel_caller(fitting(caller))

    def cancellation(self) -> Cancellation:
        """Begin to cancel several."""
        return Cancellation(self.settings, self.store)

    def stream(
        self, result: Any, *, after: str | None = None, timeout: float | None = None
    ) -> Reader:
        """Read what comes of a call with ``stream=True``, in any process, as it comes.

        ::

            for event in lanes.stream(result):  # or async for
                print(event.text, end="")

        The last event always comes, also if the call is cancelled, fails, or loses its worker: then
        within some 2 s of its result. A call that runs again begins with the event ``restart``.

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
            self.transcripts,
            partial(ending_of, self.app, task_id),
            partial(self._stop, task_id),
            after=after,
            timeout_s=timeout,
        )

    def stop(self, result: Any, *, drain: bool = False) -> None:
        """Have a call with ``stream=True`` end, on every pool; if it waits, it is cancelled.

        Its provider is cut off within a second; the result is a ``Reply`` of what had come, with
        ``finish_reason`` "cancelled". With ``drain``, readers are told so at once, and the provider
        is read to the end all the same, for the result and its true cost.
        """
        self._stop(str(getattr(result, "id", result)), "drain" if drain else "abort")

    def _stop(self, task_id: str, how: Stop) -> None:
        self.transcripts.stop(task_id, how)
        with suppress(NotQueued):  # it runs, then, and has been told
            self.cancel(task_id)

    @cached_property
    def transcripts(self) -> Transcripts:
        """What is kept of streamed replies, beside the store."""
        return open_transcripts(self.store_url, prefix=self.settings.store.prefix)

    @cached_property
    def _printer(self) -> Printer:
        return Printer(lambda: self.transcripts)

    def press(self) -> Press:
        """Give what prints this process's streamed replies."""
        return self._printer.press()

    def policy(self, lane: str) -> Policy:
        """How a lane orders its callers."""
        return self.settings.lane(lane).policy

    def scope(self, lane: str) -> Scope:
        """Whose calls a priority orders."""
        return self.settings.lane(lane).priority_scope

    def rules(self, lane: str) -> LaneRules:
        """Give what the store must know of a lane, and which tasks Celery acknowledges early."""
        tasks = (task for task in self.app.tasks.values() if not task.name.startswith("celery."))
        early = {task.name: self._is_early(lane, task) for task in tasks}
        return replace(self.settings.rules_of(lane), acks_early=early)

    def _is_early(self, lane: str, task: Any) -> bool:
        acks = self.settings.lane(lane).acks
        return not task.acks_late if acks == "task" else acks == "early"

    @cached_property
    def redelivery_ms(self) -> int:
        """How late, at least 1, the broker may bring a message again that was not acknowledged.

        Redis and SQS wait for their visibility time-out; RabbitMQ, if it does not notice that a
        consumer has gone, for half an hour.
        """
        if self.app.connection_for_read().transport.driver_type == "memory":
            return 1
        options = self.app.conf.broker_transport_options or {}
        return int(options.get("visibility_timeout", VISIBILITY_TIMEOUT_S) * 1000)

    def task(self, name: str) -> Any:
        """Find a task without finalizing the app, as ``send_task`` does; ``None`` if unknown."""
        return self.app._tasks.get(name) if hasattr(self.app._tasks, "get") else None

    def is_lane_task(self, task: Any) -> bool:
        """Whether a task may run in a lane: it names one, or has an argument with the model."""
        if getattr(task, "lane", None) or getattr(task, "model_arg", None):
            return True
        return MODEL_ARGUMENT in inspect.signature(task.run).parameters

    def settle(self, request: Any, cost: float) -> None:
        """Charge the caller what a running call really cost, in a lane that counts tokens.

        The estimate stands if that fails.
        """
        held = held_by(request)
        if held is None or self.settings.lane(held.lane).cost != "tokens":
            return
        call, token = held.call, held.token
        try:
            self.store.settle(held.lane, call=call, token=token, cost=max(1.0, float(cost)))
        except StoreError as error:
            logger.warning("celery_lanes: the real cost of %s is not charged: %s", call, error)

    def overloaded(self, request: Any, *, retry_after: float | None = None) -> None:
        """Say that a running call's provider refused it for being busy: 429, 503, 529.

        With ``retry_after``, nothing starts in the lane for so many seconds, up to 10 minutes; in
        a lane with ``adaptive = true`` it halves the cap. Outside a lane it does nothing. A call
        says so once for each attempt; ``generate`` does it by itself. If the store is away, so be
        it.

        Args:
            request: the task's own, ``self.request``.
            retry_after: seconds that the provider asked to wait, if it did.
        """
        held = held_by(request)
        wait_ms = round(min(max(0.0, retry_after or 0.0) * 1000, MAX_PROVIDER_WAIT_MS))
        if held is None or not (wait_ms or self.settings.lane(held.lane).adaptive):
            return
        call, token = held.call, held.token
        try:
            self.store.report(held.lane, call=call, token=token, wait_ms=wait_ms)
        except StoreError as error:
            logger.warning("celery_lanes: nobody learns that %s met an overload: %s", call, error)

    def move(
        self,
        request: Any,
        lane: str,
        stage: Mapping[str, Any] | None = None,
        *,
        model: str | None = None,
    ) -> NoReturn:
        """End the body of a running call, which goes on as the same task in another lane.

        Its result stays pending, and nobody who waits for it notices. It waits there before its
        caller's other calls of the same priority, for it has waited; its slot here is free at once.
        The body begins anew, as attempt 1 of that lane, and finds its ``stage``.

        Args:
            request: the task's own, ``self.request``.
            lane: where it goes; ``ConfigError`` if there is none of that name.
            stage: what its body is to know then, a JSON object of up to 64 KB, else ``ValueError``.
            model: ``provider/model``, if it is another one now; its lane need not be named yet.

        Raises ``NotInLane`` for a task that runs in none. What it raises else ends the body, as
        Celery's ``Ignore`` does: let it pass.
        """
        held = _held(request)
        is_models = model is not None and self._lane_of(model) == lane
        known = lane if is_models else checked_lane(lane, self.settings, lambda: self.store)
        raise moved(known, stage, model=model, cost=self._cost_there(request, held.lane, known))

    def give_back(
        self,
        request: Any,
        stage: Mapping[str, Any] | None = None,
        delay: float | None = None,
    ) -> NoReturn:
        """End the body of a running call, which waits again in its lane, at its place.

        Its result stays pending, and it is charged nothing; no retry is counted.

        Args:
            request: the task's own, ``self.request``.
            stage: what its body is to know when it runs again; ``None`` = what it knows already.
            delay: seconds, ``None`` = none: it waits from then on.

        Raises ``NotInLane`` and ``ValueError`` as ``move`` does, and else ends the body.
        """
        _held(request)
        raise returned(stage, delay)

    def stage(self, request: Any) -> dict[str, Any] | None:
        """Give what a call's body has left for its next run, by ``move`` or ``give_back``."""
        return stage_in(getattr(request, HEADER, None))

    def foresee(self, request: Any, lane: str) -> Busy | None:
        """Say how long a running call would wait in another lane, and behind how many.

        ``None`` if nobody can tell: the lane is paused or new, or no call of it has ended yet.
        """
        held = _held(request)
        info = CallInfo.from_request(request) or CallInfo()
        cost = self._cost_there(request, held.lane, lane) or info.cost or 1.0
        call = Call(
            id=held.call, task_id=request.id, task=request.task, caller=info.caller,
            priority=info.priority or 0, cost=cost, has_waited=True, envelope=b"",
        )  # fmt: skip
        return self.store.foresee(lane, call, policy=self.policy(lane))

    def leg(self, request: Any) -> Leg | None:
        """Let a chain within a task ask each model in its own lane, as ``generate`` does.

        ::

            @app.task(bind=True, acks_late=True, model_arg="model")
            def ask(self, model, text):
                chain = lanes.registry.parse(model)
                asked = Request(model=model, messages=(Message(role="user", content=text),))
                return chain.generate(asked, leg=lanes.leg(self.request)).text

        The body ends, and begins anew in the next lane: what it does before has to bear that. Let
        pass what the chain raises. ``None`` outside a lane: all models are asked here.
        """
        return leg_of(self, request)

    def _cost_there(self, request: Any, here: str, there: str) -> float | None:
        """Estimate what a call costs in a lane that counts in another unit; ``None`` = the same."""
        unit = self.settings.lane(there).cost
        if unit == self.settings.lane(here).cost:
            return None
        task = self.task(request.task)
        return self.sender.estimate(there, task, request.args, request.kwargs) or 1.0

    def is_own_broker(self, connection: Any) -> bool:
        """Whether a connection leads to the app's own broker; another's messages are not ours."""
        if connection is None:
            return True
        if connection not in self._own:
            self._own[connection] = _address(connection) == self._own_address
        return self._own[connection]

    @cached_property
    def _own(self) -> WeakKeyDictionary[Any, bool]:
        return WeakKeyDictionary()

    @cached_property
    def _own_address(self) -> tuple[str, ...]:
        return _address(self.app.connection_for_write())


def _held(request: Any) -> Held:
    if (held := held_by(request)) is None:
        raise NotInLane
    return held


def _address(connection: Any) -> tuple[str, ...]:
    """Say where a connection leads; with failover hosts, to any of them."""
    return tuple(connection.alt) or (connection.as_uri(),)


def _replace_classes(app: Any) -> None:
    """Put our classes in place, also if the app has already made objects of its own."""
    app.amqp_cls = LaneAMQP
    app.__dict__.pop("amqp", None)
    app.control_cls = lane_control(symbol_by_name(app.control_cls))
    app.__dict__.pop("control", None)
    app.AsyncResult = cancellable(app.AsyncResult)
    app.producer_or_acquire = lazily(app)
    app.task_cls = lane_task(symbol_by_name(app.task_cls))
