"""Which lane a publish goes to: a callable for Celery's ``task_routes``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from celery_lanes.config.settings import DEFAULT_LANE, Settings
from celery_lanes.errors import SpecError
from celery_lanes.llm.registry import Registry

MODEL_ARGUMENT = "model"

MODEL_OPTION = "lanes_model"
"""The publish option in which the router tells the sender the model it has found."""


@dataclass(frozen=True, slots=True)
class Routed:
    """The lane of a publish, and the model it is for ("" if none is known)."""

    lane: str
    model: str = ""


@dataclass(frozen=True, slots=True)
class _Parameter:
    """Where a task's signature has an argument; the position is ``None`` if only by keyword."""

    position: int | None = None
    default: object = None


_NONE = _Parameter()


class LaneRouter:
    """Routes tasks to lanes; whatever is not a lane's is left to the routes after it.

    In this order: the queue that the publish or the task names (a lane's, or none of ours); the
    lane that either names; the model in the argument that ``task.model_arg`` names, or in an
    argument called ``model``, which may begin with an alias. A ``model`` that is neither (a Django
    model's name, say) is no LLM's and is not routed; one that ``model_arg`` points at goes to the
    lane ``default``.
    """

    def __init__(
        self,
        settings: Settings | Callable[[], Settings],
        registry: Callable[[], Registry] | None = None,
    ) -> None:
        """Take settings, or what gives them anew at each publish; and who knows the aliases."""
        self._settings = settings if callable(settings) else lambda: settings
        self._registry = registry
        self._parameters: WeakKeyDictionary[Any, dict[str, _Parameter]] = WeakKeyDictionary()

    def __call__(
        self,
        name: str,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any] | None,
        task: Any = None,
        **_: Any,
    ) -> dict[str, Any] | None:
        """Answer Celery: the lane's queue, or ``None`` to ask the next route."""
        routed = self.route(name, args, kwargs, options, task)
        if routed is None:
            return None
        return {"queue": self._settings().queue(routed.lane), MODEL_OPTION: routed.model}

    def route(
        self,
        name: str,  # noqa: ARG002 - Celery's protocol; a lane goes by model, not by task
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any] | None,
        task: Any = None,
    ) -> Routed | None:
        """Find the lane and the model; ``None`` if the publish is not a lane's."""
        settings = self._settings()
        if not settings.enabled:
            return None
        model, is_certain = self._model(args or (), kwargs or {}, task)
        if (queue := _destination(options or {})) is not None:
            lane = settings.lane_of_queue(queue)
        else:
            lane = _named_lane(options or {}) or getattr(task, "lane", None)
            lane = lane or _lane_of(settings, model, is_certain=is_certain)
        return Routed(lane, model) if lane else None

    def _model(self, args: Sequence[Any], kwargs: Mapping[str, Any], task: Any) -> tuple[str, bool]:
        """Find the model among the arguments, and whether it is sure to be one."""
        named = getattr(task, "model_arg", None)
        value = self._argument(named or MODEL_ARGUMENT, args, kwargs, task)
        if isinstance(value, str) and _has_provider(value):
            return value, True
        if isinstance(value, str) and (named or self._is_alias(value)):
            return self._unaliased(value), True
        if task is None and args and isinstance(args[0], str) and _has_provider(args[0]):
            return args[0], False
        return "", True

    def _is_alias(self, text: str) -> bool:
        return self._registry is not None and self._registry().knows_alias(text)

    def _unaliased(self, spec: str) -> str:
        """Give the first model of a spec that begins with an alias."""
        try:
            return self.first_model(spec)
        except SpecError:  # for the task itself to raise, where the caller sees it
            return spec

    def first_model(self, spec: object) -> str:
        """Give the first model of a spec, which may begin with an alias. Raises ``SpecError``."""
        if self._registry is None or (isinstance(spec, str) and _has_provider(spec)):
            return str(spec)
        return "/".join(self._registry().names(spec)[0])

    def spec(self, args: Sequence[Any], kwargs: Mapping[str, Any], task: Any) -> str:
        """Find all that a call says of its models, as it says it; "" if that is nothing."""
        named = getattr(task, "model_arg", None) or MODEL_ARGUMENT
        value = self._argument(named, args, kwargs, task)
        return value if isinstance(value, str) else ""

    def _argument(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], task: Any
    ) -> object:
        if name in kwargs or task is None:
            return kwargs.get(name)
        parameter = self._parameters_of(task).get(name, _NONE)
        if parameter.position is not None and parameter.position < len(args):
            return args[parameter.position]
        return parameter.default

    def _parameters_of(self, task: Any) -> dict[str, _Parameter]:
        if (known := self._parameters.get(task)) is None:
            known = self._parameters[task] = _read_signature(task.run)
        return known


def is_lane_task(task: Any) -> bool:
    """Whether a task may run in a lane: it names one, or has an argument with the model."""
    if getattr(task, "lane", None) or getattr(task, "model_arg", None):
        return True
    return MODEL_ARGUMENT in inspect.signature(task.run).parameters


def is_stamp(name: str, options: Mapping[str, Any]) -> bool:
    """Tell a stamp from an option of that name: a signature keeps both in one place."""
    return name in (options.get("stamped_headers") or ())


def _named_lane(options: Mapping[str, Any]) -> Any:
    lane = options.get("lane")
    return None if lane is None or is_stamp("lane", options) else lane


def _lane_of(settings: Settings, model: str, *, is_certain: bool) -> str | None:
    """Find a model's lane; a mere guess must have a provider that the settings name."""
    if not model:
        return None
    if not _has_provider(model):
        return DEFAULT_LANE
    return settings.lane_for(model).lane if is_certain or settings.knows(model) else None


def _has_provider(text: str) -> bool:
    provider, _, rest = text.split(",", 1)[0].partition("/")
    return bool(provider.strip() and rest.strip())


def _destination(options: Mapping[str, Any]) -> str | None:
    """Name the queue that the publish asks for itself; "" is one that is none of ours.

    A retry names no queue: it repeats the exchange and the routing key it was delivered by.
    """
    if queue := options.get("queue"):
        return str(getattr(queue, "name", queue))
    exchange, key = options.get("exchange"), options.get("routing_key")
    if not exchange and not key:
        return None
    return key if key and getattr(exchange, "name", exchange) in {None, "", key} else ""


def _read_signature(run: Callable[..., Any]) -> dict[str, _Parameter]:
    parameters = enumerate(inspect.signature(run).parameters.values())
    return {
        parameter.name: _Parameter(
            position if parameter.kind is parameter.POSITIONAL_OR_KEYWORD else None,
            None if parameter.default is parameter.empty else parameter.default,
        )
        for position, parameter in parameters
        if parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
    }
