"""Providers whose answers are scripted, on a clock that is turned; and lanes to go through."""

from __future__ import annotations

import pytest

from celery_lanes import errors
from celery_lanes.callinfo import CallInfo
from celery_lanes.llm.chains.effects import ChainConfig
from celery_lanes.llm.chains.journey import Journey, Leg
from celery_lanes.llm.messages import Message
from celery_lanes.llm.providers.fake import FakeProvider
from celery_lanes.llm.registry import Registry
from celery_lanes.llm.request import Request

ASK = Request(model="?", messages=(Message(role="user", content="tell me hunter2"),))
INFO = CallInfo(caller="ann", run_id="r1")
DOWN = errors.TransientError("a/x answered 500: oh dear", 500)


class Chains:
    """A registry with providers a, b and c, a clock for all, and what the observers were told."""

    def __init__(self, **chain) -> None:
        self.now = 1000.0
        self.slept = []
        self.told = []
        config = ChainConfig(**{"backoff_s": 0, **chain})
        self.registry = Registry({}, chain=config, clock=lambda: self.now)
        self.registry.register_observer(self.told.append)
        for name in "abc":
            provider = FakeProvider(name)
            self.registry.register_provider(provider)
            setattr(self, name, provider)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def ask(self, spec: str = "a/x,b/y,c/z", **terms):
        return self.registry.parse(spec).generate(ASK, **terms)

    def stream(self, spec: str = "a/x,b/y,c/z", **terms):
        return self.registry.parse(spec).stream(ASK, **terms)

    def whole(self, spec: str = "a/x,b/y,c/z", **terms):
        """Stream, and give the reply."""
        with self.stream(spec, **terms) as stream:
            *_, done = stream
        return done.reply

    def fails(self, spec: str = "a/x,b/y,c/z", **terms) -> errors.LanesError:
        with pytest.raises(errors.LanesError) as caught:
            self.ask(spec, info=INFO, **terms)
        return caught.value

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.told]


def targets(attempts) -> list[tuple[str, str | None]]:
    return [(a["target"], a["error_class"]) for a in map(as_json, attempts)]


def as_json(attempt):
    return attempt if isinstance(attempt, dict) else attempt.model_dump(mode="json")


WAYS = pytest.mark.parametrize("way", ["ask", "whole"])


class LegEndedError(Exception):
    """The body has to let it pass."""


class Legs:
    """Takes calls from lane to lane as a task does, by way of JSON; ``trip`` is what happened.

    ``queue_s`` pass in each queue, where ``on_hop`` is called; ``full`` lanes have too long a line.
    """

    def __init__(self, chains: Chains, *full: str) -> None:
        self.chains, self.full = chains, full
        self.trip, self.refused, self.forewarned = [], [], []
        self.queue_s, self.on_hop = 3600, lambda: None
        self.usual_s = 300.0
        self._next = None

    def ask(self, spec: str, *, lane: str = "a", journey=None, left_s: float = 300.0, **terms):
        self._next = (lane, journey)
        while True:
            lane, journey = self._next
            leg = self.leg(lane, journey, left_s)
            self._lane = lane
            try:
                return self.chains.registry.parse(spec).generate(ASK, info=INFO, leg=leg, **terms)
            except LegEndedError:
                self.chains.now += self.queue_s
                self.on_hop()

    def leg(self, lane: str, journey=None, left_s: float = 300.0) -> Leg:
        return Leg(
            lane=lane,
            move=self.move,
            wait=self.wait,
            refused=self.refused.append,
            forewarned=self.forewarned.append,
            left_s=left_s,
            usual_s=self.usual_s,
            queued_s=self.queue_s,
            journey=journey and Journey.model_validate_json(journey),
        )

    def move(self, target, journey):
        if target.lane in self.full:
            raise errors.LaneBusy(f"lane {target.lane} has too long a line", 9, 60.0, 55.0)
        self.trip.append(f"to {target.lane}")
        self._next = (target.lane, journey.model_dump_json())
        raise LegEndedError

    def wait(self, wait, journey):
        self.trip.append(("lane" if wait.is_lanes else "call", wait.seconds))
        self._next = (self._lane, journey.model_dump_json())
        raise LegEndedError
