"""What a server keeps of a lane, and what it does at once, stays bounded."""

from __future__ import annotations

import pytest

from celery_lanes.store.attempts import Outcome, Release, Renewal
from celery_lanes.store.base import MAX_BATCH
from celery_lanes.store.rules import Scope
from tests.store.driving import Driver

SERVERS = pytest.mark.parametrize("kind", ["valkey", "redis"])
DAY_MS = 86_400_000


class Keeper:
    """Looks at a lane's keys past the verbs."""

    def __init__(self, lane: Driver) -> None:
        self._lane = lane
        self.client = lane.store._wire.client

    def key(self, kind: str) -> str:
        (key,) = self._lane.store._keys.of_lane(self._lane.lane, (kind,))
        return key

    def size(self, kind: str) -> int:
        return self.client.zcard(self.key(kind))

    def make_older(self, kind: str, by_ms: int) -> None:
        for member in self.client.zrange(self.key(kind), 0, -1):
            self.client.zincrby(self.key(kind), -by_ms, member)

    def scripts_run(self) -> int:
        """Count verbs; FCALL fails where the server does not know them yet."""
        stats = self.client.info("commandstats")
        ran = [stats.get(f"cmdstat_{name}") for name in ("fcall", "evalsha")]
        return sum(of["calls"] - of["failed_calls"] for of in ran if of)


@pytest.fixture
def keeper(lane) -> Keeper:
    return Keeper(lane)


@SERVERS
def test_no_script_is_given_more_than_a_batch(lane, keeper):
    many = 2 * MAX_BATCH + 100
    lane.configure(many)
    calls = [lane.call() for _ in range(many)]

    begin = keeper.scripts_run()
    lane.admit(*calls)
    assert keeper.scripts_run() - begin == 3

    grants = [grant for _ in range(3) for grant in lane.turn(many).grants]
    assert len(grants) == many

    begin = keeper.scripts_run()
    held = [(grant.call, grant.token) for grant in grants]
    assert lane.store.renew(lane.lane, worker="w1", held=held) == Renewal()
    assert keeper.scripts_run() - begin == 3

    begin = keeper.scripts_run()
    lane.turn(0, *(Release(grant.call, grant.token) for grant in grants))
    assert keeper.scripts_run() - begin == 3
    assert lane.counts == (0, 0, 0, 0)


@SERVERS
def test_settled_calls_are_forgotten_by_the_turns_themselves(lane, keeper):
    lane.configure(dedupe_ttl_ms=0)
    lane.park(times=50)

    lane.order(50)

    assert keeper.size("settled") < 20


@SERVERS
def test_tickets_that_have_ended_are_forgotten_where_there_is_no_worker(lane, keeper):
    lane.configure(dedupe_ttl_ms=0)
    releases = ()
    for number in range(30):
        lane.admit(lane.call(id=f"t{number}", holder="h1"))
        ((call, token),) = lane.store.claim(lane.lane, holder="h1", releases=releases).granted
        lane.store.claim(lane.lane, holder="h1", known=[(call, token)])
        releases = [Release(call, token)]

    assert keeper.size("settled") < 5


@SERVERS
def test_settled_calls_of_a_lane_that_rests_are_forgotten_by_the_reaping(lane, keeper):
    lane.configure(dedupe_ttl_ms=0)
    lane.park(times=5)
    lane.order(5)
    lane.clock.sleep_ms(2)

    lane.store.reap(lane.lane)

    assert keeper.size("settled") == 0


@SERVERS
def test_callers_that_came_once_are_forgotten_while_another_keeps_the_lane_busy(lane, keeper):
    lane.configure()
    lane.park("always", times=200)

    for number in range(50):
        lane.park(f"once-{number}")
        lane.order(2)

    assert keeper.size("tags") < 20


@SERVERS
@pytest.mark.parametrize("scope", Scope)
def test_callers_whose_calls_are_cancelled_are_forgotten_while_a_lane_is_busy(lane, keeper, scope):
    lane.scope = scope
    lane.configure()
    lane.park("always", times=200, priority=5)

    for number in range(50):
        (call,) = lane.park(f"impatient-{number}")
        lane.store.cancel(lane.lane, call.task_id)
        lane.order(1)

    assert keeper.size("tags") < 20


@SERVERS
def test_a_worker_that_has_been_silent_for_10_minutes_is_forgotten(lane, keeper):
    lane.configure()
    lane.turn(1, worker="gone")  # it waits for a call
    keeper.make_older("workers", 600_001)
    lane.turn(1, worker="here")

    lane.store.reap(lane.lane)

    assert keeper.client.zrange(keeper.key("workers"), 0, -1) == [b"here"]
    assert keeper.client.zrange(keeper.key("idle"), 0, -1) == [b"here"]
    assert keeper.client.hexists(keeper.key("meta"), "reply:here")
    assert not keeper.client.hexists(keeper.key("meta"), "reply:gone")


@SERVERS
def test_no_news_are_kept_for_a_holder_that_has_been_forgotten(lane, keeper):
    lane.configure()
    lane.store.set_paused(lane.lane, paused=True)
    lane.admit(lane.call(id="early", holder="gone"), lane.call(id="late", holder="gone"))
    lane.store.cancel(lane.lane, "task-early")
    assert keeper.client.hexists(keeper.key("meta"), "news:gone")
    keeper.make_older("holders", 600_001)
    lane.store.reap(lane.lane)

    lane.store.cancel(lane.lane, "task-late")

    assert lane.counts == (0, 0, 0, 0)
    assert not keeper.client.hexists(keeper.key("meta"), "news:gone")


@SERVERS
def test_dead_letters_of_one_millisecond_are_on_one_page_and_buried_one_by_one(lane, keeper):
    lane.configure(max_leases=1)
    letters = keeper.key("dead")
    for _ in range(4):
        lane.park()
        lane.release(lane.take(), Outcome.LOST)
        closing = lane.closing()
        lane.store.close(lane.lane, call=closing.call, token=closing.token)
        lane.clock.sleep_ms(2)
    _, *others = keeper.client.zrange(letters, 0, -1)
    at_once_ms = lane.clock()
    keeper.client.zadd(letters, dict.fromkeys(others, at_once_ms))

    first = lane.store.dead_letters(lane.lane, 1)
    (last,) = lane.store.dead_letters(lane.lane, 1, at_once_ms)

    assert {letter.call.id for letter in first} == {"c2", "c3", "c4"}
    assert last.call.id == "c1"
    assert lane.store.bury(lane.lane, "c3", at_once_ms)
    assert {letter.call.id for letter in lane.store.dead_letters(lane.lane, 1)} == {"c2", "c4"}


@SERVERS
def test_of_the_dead_letters_the_last_1000_of_a_week_are_kept(lane, keeper):
    now_ms, letters = lane.clock(), keeper.key("dead")
    lane.configure()
    keeper.client.zadd(letters, {f"old-{n}": now_ms - 8 * DAY_MS for n in range(10)})
    lane.store.reap(lane.lane)
    assert lane.store.snapshot(lane.lane).dead == 0

    keeper.client.zadd(letters, {f"new-{n}": now_ms + n for n in range(1_010)})
    lane.store.reap(lane.lane)

    assert lane.store.snapshot(lane.lane).dead == 1_000
    assert keeper.client.zrange(letters, 0, 0) == [b"new-10"]
