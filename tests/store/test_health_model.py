"""The memory's health and the scripts', step by step with the same inputs: they never disagree.

Replies are lost and repeated, leaves are told of late, twice, or never, names are odd, workers go
by numbers of their own, and the clock moves, also back.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import replace

import pytest
import redis as redis_py
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from celery_lanes.store.connect import open_health
from celery_lanes.store.health import Benched, HealthConfig, Pass
from celery_lanes.store.memory.health import MemoryHealth
from celery_lanes.testing.embedded import EmbeddedValkey
from tests import services
from tests.store.clocked import ClockedFunctions, ClockedScripts, ServerClock

EXAMPLES = int(os.environ.get("LANES_MODEL_EXAMPLES", "70"))

LONG = "m1/" + "ü" * 300
OFTEN = ["m1/x"] * 9
TARGETS = [*OFTEN, "m1/y", "m2/x", "m1", "m1/", "/", LONG, LONG + "1", "m1/\udc80\x00 {m1}"]
HEALTHS = ["none", "count", "bench", "count_provider", "bench_provider"]
CONFIGS = [
    HealthConfig(),
    HealthConfig(failure_threshold=1, base_cooldown_s=0.0123, multiplier=1.7),
    HealthConfig(failure_threshold=3, multiplier=1, quota_cooldown_s=7.1, max_quota_cooldown_s=9),
]
SPANS_S = [0.001, 0.5, 5.0, 6.0, 60.0, 400.0, 3600.0, 30 * 3600.0]


class TwoHealths(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.clock = ServerClock(self.client)
        self.tokens: list[str] = []
        self.leaves: list[tuple[Pass, Pass]] = []

    @initialize(config=st.sampled_from(CONFIGS), most=st.sampled_from([3, 10_000]))
    def begin(self, config, most):
        self.memory = MemoryHealth(config, clock=lambda: self.clock() / 1000, max_entries=most)
        self.server = open_health(self.url, prefix=f"m-{uuid.uuid4().hex}", config=config)
        self.server._wire.speak(self.dialect)
        self.server._max_entries = most
        self.server._token = self.token

    def teardown(self):
        if hasattr(self, "server"):
            self.server.close()

    def token(self):
        return self.tokens.pop() if self.tokens else uuid.uuid4().hex

    def lossy(self, is_repeated, ask):
        """Ask the server, and again with the same words if its reply is lost."""
        if not is_repeated:
            return ask()
        name = uuid.uuid4().hex
        self.tokens = [name, name]
        first, second = ask(), ask()
        self.tokens = []
        assert first == second
        return second

    @rule(ms=st.sampled_from([1, 500, 4999, 5000, 60_000, 300_000, 5 * 3600_000, 48 * 3600_000]))
    def wait(self, ms):
        self.clock.sleep_ms(ms)

    @rule(ms=st.sampled_from([-1, 0, 0, 1]))
    def wait_for_the_end_of_a_bench(self, ms):
        left_s = max((known.left_s for known in self.memory.conditions()), default=0)
        self.clock.sleep_ms(max(1, left_s * 1000 + ms))

    @rule(ms=st.sampled_from([1, 50, 5000, 3600_000]))
    def be_set_back(self, ms):
        self.clock.now -= ms + 1
        self.clock.sleep_ms(1)

    @rule(
        model=st.sampled_from(TARGETS),
        probe_s=st.sampled_from([0.0, *SPANS_S, 1e9]),
        is_alone=st.booleans(),
        is_repeated=st.booleans(),
    )
    def enter(self, model, probe_s, is_alone, is_repeated):
        how = {"probe_s": probe_s, "is_alone": is_alone}
        ours = self.memory.enter(model, **how)
        theirs = self.lossy(is_repeated, lambda: self.server.enter(model, **how))
        if isinstance(theirs, Benched):
            assert ours == theirs
            return
        assert replace(ours, token="") == replace(theirs, token="")
        self.leaves.append((ours, theirs))

    @precondition(lambda self: self.leaves)
    @rule(
        at=st.integers(0, 9),
        health=st.sampled_from(HEALTHS),
        retry_after_s=st.sampled_from([None, 0.0, -1.0, 0.25, 7.3, 100.0, 1e9, float("nan")]),
        is_repeated=st.booleans(),
        is_over=st.booleans(),
    )
    def report(self, at, health, retry_after_s, is_repeated, is_over):
        ours, theirs = self.leave(at, is_over)
        asked = {"retry_after_s": retry_after_s}
        benched = self.memory.report(ours, health, **asked)
        told = self.lossy(is_repeated, lambda: self.server.report(theirs, health, **asked))
        assert benched == told

    @precondition(lambda self: self.leaves)
    @rule(at=st.integers(0, 9), is_over=st.booleans())
    def recover(self, at, is_over):
        ours, theirs = self.leave(at, is_over)
        assert self.memory.recover(ours) == self.server.recover(theirs)

    @rule(model=st.sampled_from(TARGETS), health=st.sampled_from(HEALTHS))
    def tell_of_a_call_that_found_the_store_away(self, model, health):
        leave = Pass(target=model, token=uuid.uuid4().hex)
        assert self.memory.report(leave, health) == self.server.report(leave, health)
        assert self.memory.recover(leave) == self.server.recover(leave)

    @rule(name=st.sampled_from(TARGETS))
    def clear(self, name):
        assert self.memory.clear(name) == self.server.clear(name)

    @rule(config=st.sampled_from(CONFIGS))
    def come_by_other_numbers(self, config):
        self.memory._config = self.server._config = config

    @invariant()
    def what_is_known_agrees_to_the_last_bit(self):
        if hasattr(self, "server"):
            assert self.memory.conditions() == self.server.conditions()

    @invariant()
    def what_is_over_leaves_no_keys(self):
        if not hasattr(self, "server"):
            return
        keys = self.server._wire.keys.of_lane("*health", ("benches", "fading"))
        for key in keys:
            ttl = self.client.pttl(key)
            assert ttl == -2 or ttl > 0
        entries, fading = self.client.hkeys(keys[0]), self.client.zrange(keys[1], 0, -1)
        assert sorted(entries) == sorted(fading)

    def leave(self, at, is_over):
        at = -1 - at % len(self.leaves)  # the youngest most often
        return self.leaves.pop(at) if is_over else self.leaves[at]


@pytest.mark.parametrize("kind", ["functions", "scripts"])
def test_memory_and_scripts_agree_step_by_step(kind):
    assert_they_agree(kind)


def assert_they_agree(kind):
    program = services.redis_program() if kind == "scripts" else None
    dialect = ClockedFunctions() if kind == "functions" else ClockedScripts()
    with EmbeddedValkey(program=program) as server:
        client = redis_py.Redis.from_url(server.url())
        parts = {"client": client, "url": server.url(), "dialect": dialect}
        run_state_machine_as_test(
            type("Machine", (TwoHealths,), parts),
            settings=settings(
                max_examples=EXAMPLES // 2,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        client.close()
