"""When a target is left alone, for how long, and who tries it again."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from celery_lanes.store.connect import open_health
from celery_lanes.store.health import (
    MAX_RETRY_AFTER_S,
    Benched,
    Condition,
    HealthConfig,
    Pass,
)
from celery_lanes.store.memory.health import MemoryHealth
from celery_lanes.store.redis.health import RedisHealth
from tests.store.clocked import KEY, ClockedFunctions, ClockedScripts

X, Y = "m1/x", "m1/y"

AnyHealth = MemoryHealth | RedisHealth


@dataclass
class Clock:
    """Seconds, as the test says; a server reads them from a key."""

    client: Redis | None = None
    _now: float = 0.0

    def __post_init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self._now

    @property
    def now(self) -> float:
        return self._now

    @now.setter
    def now(self, now: float) -> None:
        self._now = now
        if self.client is not None:
            self.client.set(KEY, round(now * 1000))


@pytest.fixture
def server(kind, request):
    """Give the url of a store and its client; ``None`` for memory."""
    if kind == "memory":
        return None
    url = request.getfixturevalue(kind).url()
    return url, Redis.from_url(url)


@pytest.fixture
def clock(server) -> Clock:
    return Clock(server and server[1])


@pytest.fixture
def make(kind, server, clock) -> Iterator:
    """Make the health of targets that is tested, by the test's own clock."""
    made = []

    def make(config: HealthConfig | None = None, **options) -> AnyHealth:
        if kind == "memory":
            return MemoryHealth(config, clock=clock, **options)
        health = open_health(server[0], prefix=f"test-{uuid.uuid4().hex}", config=config)
        health._wire.speak(ClockedFunctions() if kind == "valkey" else ClockedScripts())
        health._max_entries = options.get("max_entries", health._max_entries)
        made.append(health)
        return health

    yield make
    for health in made:
        health.close()


@pytest.fixture
def health(make) -> AnyHealth:
    return make()


def entered(health: AnyHealth, target: str = X, *, is_alone: bool = False) -> Pass:
    found = health.enter(target, probe_s=60, is_alone=is_alone)
    assert isinstance(found, Pass)
    return found


def skipped(health: AnyHealth, target: str = X) -> Benched:
    found = health.enter(target, probe_s=60)
    assert isinstance(found, Benched)
    return found


def bench(health: AnyHealth) -> float:
    """Fail often enough; gives how long the target is benched."""
    leave = entered(health)
    benched = health.report(leave, "count") or health.report(leave, "count")
    return benched.left_s


def test_a_target_that_nobody_complained_of_is_asked(health):
    leave = entered(health)

    assert leave == Pass(target=X, token=leave.token, entered_at=1000.0)
    assert leave.token != entered(health).token


def test_one_failure_is_none(health):
    assert health.report(entered(health), "count") is None

    assert entered(health).probes == ()


def test_two_failures_in_a_row_bench_a_target_and_not_its_neighbour(health):
    health.report(entered(health), "count")

    assert health.report(entered(health), "count") == Benched(left_s=5)
    assert skipped(health) == Benched(left_s=5)
    assert entered(health, Y)


def test_two_failures_of_one_call_are_two(health):
    leave = entered(health)

    assert health.report(leave, "count") is None
    assert health.report(leave, "count") == Benched(left_s=5)


def test_a_success_between_two_failures_forgets_the_first(health):
    health.report(entered(health), "count")

    assert not health.recover(entered(health))
    assert health.report(entered(health), "count") is None


def test_each_bench_is_twice_as_long_up_to_five_minutes(health, clock):
    found = []
    for _ in range(9):
        found.append(bench(health))
        clock.now += found[-1]

    assert found == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_a_success_makes_the_next_bench_short_again(health, clock):
    for _ in range(3):
        clock.now += bench(health)

    assert health.recover(entered(health))
    assert bench(health) == 5


def test_after_a_bench_one_call_tries_and_the_others_go_on_passing_by(health, clock):
    clock.now += bench(health)

    probe = entered(health)

    assert probe.probes == (X,)
    assert skipped(health) == Benched(left_s=60, is_probed=True)
    assert health.recover(probe)
    assert entered(health).probes == ()


def test_a_probe_that_fails_benches_at_once(health, clock):
    clock.now += bench(health)

    assert health.report(entered(health), "count") == Benched(left_s=10)


@pytest.mark.parametrize("way", ["says nothing", "takes too long"])
def test_a_probe_that_finds_nothing_out_is_followed_by_another(health, clock, way):
    clock.now += bench(health)
    probe = entered(health)

    if way == "says nothing":
        assert health.report(probe, "none") is None
    else:
        clock.now += 60

    assert entered(health).probes == (X,)


def test_a_probe_that_was_given_up_does_not_end_the_next_one(health, clock):
    clock.now += bench(health)
    slow = entered(health)
    clock.now += 60
    entered(health)

    health.report(slow, "none")

    assert skipped(health).is_probed


def test_who_has_nobody_else_to_ask_does_not_wait_for_anothers_probe(health, clock):
    clock.now += bench(health)
    entered(health)

    assert entered(health, is_alone=True).probes == ()


def test_only_who_has_nobody_else_is_let_through_before_the_time_is_over(health, clock):
    bench(health)
    clock.now += 4.5

    assert health.enter(X, probe_s=60) == Benched(left_s=0.5)
    assert entered(health, is_alone=True).probes == ()


@pytest.mark.parametrize(
    ("asked_s", "left_s"),
    [
        (None, 5),
        (3, 5),
        (30, 30),
        (10**6, MAX_RETRY_AFTER_S),
        (float("nan"), 5),
        (float("inf"), 5),
        (-1, 5),
    ],
)
def test_a_limited_target_is_benched_at_once_for_as_long_as_it_asked(health, asked_s, left_s):
    benched = health.report(entered(health), "bench", retry_after_s=asked_s)

    assert benched == Benched(left_s=left_s)


def test_nothing_makes_a_bench_shorter(health):
    late, later = entered(health), entered(health)
    health.report(entered(health), "bench", retry_after_s=100)

    assert health.report(late, "bench", retry_after_s=7) == Benched(left_s=100)
    assert health.report(late, "count") == Benched(left_s=100)
    assert not health.recover(later)
    assert skipped(health) == Benched(left_s=100)


def test_a_limit_that_an_older_call_hears_of_later_still_counts(health):
    late = entered(health)
    health.report(entered(health), "bench", retry_after_s=10)

    assert health.report(late, "bench", retry_after_s=20) == Benched(left_s=20)


def test_a_failure_makes_no_shorter_what_an_older_call_was_told(health, clock):
    late = entered(health)
    clock.now += bench(health)
    probe = entered(health)
    health.report(late, "bench", retry_after_s=100)

    assert health.report(probe, "count") == Benched(left_s=100)


def test_one_incident_of_many_calls_is_one_bench(health, clock):
    calls = [entered(health) for _ in range(50)]

    for leave in calls:
        health.report(leave, "count")

    assert skipped(health) == Benched(left_s=5)
    clock.now += 5
    assert health.report(entered(health), "count") == Benched(left_s=10)


def test_a_used_up_quota_benches_all_of_the_provider_for_hours(health, clock):
    assert health.report(entered(health), "bench_provider") == Benched(left_s=5 * 3600)

    assert skipped(health, Y) == Benched(left_s=5 * 3600)
    assert entered(health, "m2/x")
    clock.now += 5 * 3600
    probe = entered(health, Y)
    assert probe.probes == ("m1",)
    assert health.report(probe, "bench_provider") == Benched(left_s=10 * 3600)


def test_a_server_that_cannot_be_reached_is_so_for_all_its_models(health):
    health.report(entered(health, X), "count_provider")

    assert health.report(entered(health, Y), "count_provider") == Benched(left_s=5)
    assert skipped(health, "m1/z") == Benched(left_s=5)


def test_of_too_many_those_are_forgotten_first_that_would_be_anyway(make):
    health = make(HealthConfig(failure_threshold=1), max_entries=3)

    for number in range(10):
        health.report(entered(health, f"m/{number}"), "count")

    assert len(health.conditions()) == 3
    assert entered(health, "m/6")
    assert skipped(health, "m/7")


def test_calls_that_go_on_during_a_bench_do_not_make_it_longer(health, clock):
    bench(health)

    for _ in range(20):
        assert health.report(entered(health, is_alone=True), "count") == Benched(left_s=5)
    clock.now += 5

    assert health.report(entered(health), "count") == Benched(left_s=10)


def test_a_success_during_a_bench_ends_it(health, clock):
    bench(health)
    clock.now += 1

    assert health.recover(entered(health, is_alone=True))
    assert entered(health).probes == ()


def test_a_bench_from_the_future_begins_now(health, clock):
    bench(health)
    clock.now -= 500

    assert skipped(health) == Benched(left_s=5)
    clock.now += 5
    assert entered(health).probes == (X,)


def test_a_probe_from_the_future_is_given_up_no_later_for_that(health, clock):
    clock.now += bench(health)
    entered(health)
    clock.now -= 500

    assert skipped(health) == Benched(left_s=5)
    clock.now += 5
    assert skipped(health) == Benched(left_s=60, is_probed=True)


def test_a_new_failure_is_remembered_among_too_many_that_fade_later(make):
    health = make(max_entries=2)
    for target in ("m2/x", "m3/x"):
        health.report(entered(health, target), "bench")

    health.report(entered(health), "count")

    assert [known.name for known in health.conditions()] == ["m3/x", X]


def test_who_reads_is_told_what_has_failed_and_how_it_is(health, clock):
    health.report(entered(health, "m2/x"), "count")
    bench(health)

    benched, failing = health.conditions()

    assert benched == Condition(name=X, failures=0, cooldown_s=5, left_s=5, is_tried=False)
    assert (failing.name, failing.failures, failing.state) == ("m2/x", 1, "failing")
    assert benched.state == "benched"
    clock.now += 5
    assert health.conditions()[0].state == "due"
    entered(health)
    assert health.conditions()[0].state == "tried"


def test_a_bench_can_be_ended_by_hand(health):
    bench(health)

    assert health.clear(X)

    assert entered(health).probes == ()
    assert not health.clear(X)


def test_what_is_long_over_is_forgotten(health, clock):
    bench(health)
    clock.now += 5 + 24 * 3600

    assert health.conditions() == []
    assert entered(health).probes == ()


def test_of_many_threads_one_is_the_probe(health, clock):
    clock.now += bench(health)
    together = threading.Barrier(16)

    def enter(_: int) -> Pass | Benched:
        together.wait(10)
        return health.enter(X, probe_s=60)

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(enter, range(16)))

    assert sum(isinstance(one, Pass) for one in found) == 1


def test_threads_lose_no_failure(make):
    health = make(HealthConfig(failure_threshold=8 * 50 + 1))
    leave = entered(health)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: [health.report(leave, "count") for _ in range(50)], range(8)))

    assert health.report(leave, "count") == Benched(left_s=5)


def test_a_child_forked_while_another_thread_is_inside_is_not_stuck():
    health = MemoryHealth()
    with health._lock():
        if (child := os.fork()) == 0:
            os._exit(0 if isinstance(health.enter(X, probe_s=1), Pass) else 1)

    assert os.waitpid(child, 0)[1] == 0


@dataclass
class World:
    """Calls that go on at once; ``leaves`` are those that have not told anything yet."""

    clock: Clock = field(default_factory=Clock)
    leaves: list[Pass] = field(default_factory=list)


STEPS = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([0.0, 1.0, 4.0, 5.0, 60.0, 400.0])),
    st.tuples(st.just("enter"), st.booleans()),
    st.tuples(st.just("count"), st.integers(0, 9)),
    st.tuples(st.just("bench"), st.integers(0, 9)),
    st.tuples(st.just("none"), st.integers(0, 9)),
    st.tuples(st.just("recover"), st.integers(0, 9)),
)


@given(st.lists(STEPS, max_size=60))
def test_whatever_happens_a_bench_ends_neither_early_nor_never(steps):
    world = World()
    health = MemoryHealth(clock=world.clock)
    until, probes = 0.0, {}

    for verb, value in steps:
        now = world.clock.now
        if verb == "wait":
            world.clock.now += value
        elif verb == "enter":
            found = health.enter(X, probe_s=60, is_alone=value)
            if isinstance(found, Benched):
                assert found.is_probed == (now >= until)
                continue
            assert now >= until or value
            world.leaves.append(found)
            if found.probes:
                assert not [end for end in probes.values() if end > now]
                probes[id(found)] = now + 60
        elif world.leaves:
            leave = world.leaves.pop(value % len(world.leaves))
            probes.pop(id(leave), None)
            if verb == "recover":
                health.recover(leave)
                continue
            benched = health.report(leave, verb, retry_after_s=50 if value % 2 else None)
            left_s = benched.left_s if benched else 0
            assert left_s <= 300
            assert now + left_s >= until or now >= until
            until = max(until, now + left_s)
