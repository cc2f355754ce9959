"""A lane under test, driven by one line per step; and a clock that tests may turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import count

from celery_lanes.store.attempts import Closing, Grant, Outcome, Release, Turn
from celery_lanes.store.base import Store, Wakeups
from celery_lanes.store.calls import Call, Verdict
from celery_lanes.store.rules import LaneRules, Policy, Scope
from celery_lanes.store.standing import Standing
from tests.waiting import pass_time

DEADLINE_S = 10.0


class FakeClock:
    """Milliseconds since the epoch, as the test says."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now

    def sleep_ms(self, ms: float) -> None:
        self.now += max(1, round(ms))


class RealClock:
    """The server's clock; tests can only wait."""

    def __call__(self) -> int:
        return time.time_ns() // 1_000_000

    def sleep_ms(self, ms: float) -> None:
        pass_time(ms / 1000, because="the clock is a real server's")


class Driver:
    """One lane of a store, with its workers' request numbers."""

    def __init__(self, store: Store, clock: FakeClock | RealClock, lane: str = "ollama") -> None:
        self.store = store
        self.clock = clock
        self.lane = lane
        self.policy = Policy.FAIR
        self.scope = Scope.CALLER
        self._ids = count(1)
        self._requests = count(1)

    def configure(self, max_concurrent: int = 1, **rules) -> None:
        self.store.configure(self.lane, LaneRules(max_concurrent=max_concurrent, **rules))

    def call(self, caller: str = "ann", **fields) -> Call:
        name = fields.pop("id", None) or f"c{next(self._ids)}"
        fields = {"task_id": f"task-{name}", "task": "generate", "envelope": name.encode()} | fields
        return Call(id=name, caller=caller, **fields)

    def admit(self, *calls: Call, max_wait_ms: int | None = None) -> list[Verdict]:
        how = {"policy": self.policy, "scope": self.scope, "max_wait_ms": max_wait_ms}
        return self.store.admit(self.lane, calls, **how)

    def place(self, call: Call, max_wait_ms: int | None = None) -> tuple[Verdict, Standing | None]:
        how = {"policy": self.policy, "scope": self.scope, "max_wait_ms": max_wait_ms}
        return self.store.place(self.lane, call, **how)

    def park(self, caller: str = "ann", times: int = 1, **fields) -> list[Call]:
        calls = [self.call(caller, **fields) for _ in range(times)]
        self.admit(*calls)
        return calls

    def turn(
        self,
        want: int = 1,
        *releases: Release,
        worker: str = "w1",
        closings: int = 0,
        request: int | None = None,
    ) -> Turn:
        return self.store.next(
            self.lane,
            worker=worker,
            request=request or next(self._requests),
            want=want,
            releases=releases,
            closings=closings,
        )

    def take(self, worker: str = "w1") -> Grant:
        (grant,) = self.turn(1, worker=worker).grants
        return grant

    def release(self, grant: Grant, outcome: Outcome = Outcome.DONE, cost: float | None = None):
        self.turn(0, Release(grant.call, grant.token, outcome, cost))

    def closing(self, worker: str = "w1") -> Closing:
        (closing,) = self.turn(0, worker=worker, closings=1).closings
        return closing

    def order(self, grants: int, *, ends: Callable[[Grant], Release] | None = None) -> list[str]:
        """Serve calls one after another; say whose each was."""
        ends = ends or (lambda grant: Release(grant.call, grant.token))
        served: list[str] = []
        releases: Sequence[Release] = ()
        for _ in range(grants):
            (grant,) = self.turn(1, *releases).grants
            served.append(grant.caller)
            releases = (ends(grant),)
        self.turn(0, *releases)
        return served

    def until(self, is_so: Callable[[], object], step_ms: float = 5) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not is_so():
            assert time.monotonic() < deadline, "it did not come to pass"
            self.clock.sleep_ms(step_ms)

    def heard(self, ear: Wakeups) -> set[str]:
        """Wait until an ear has heard something; say what."""
        seen: set[str] = set()
        self.until(lambda: seen.update(ear.drain()) or seen)
        return seen

    def reap_until(self, is_so: Callable[[], object]) -> None:
        """Let leases expire, the way workers do: somebody reaps all the time."""

        def step() -> object:
            self.store.reap(self.lane)
            return is_so()

        self.until(step)

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Running, waiting, delayed, closing."""
        now = self.store.snapshot(self.lane)
        return now.running, now.waiting, now.delayed, now.closing
