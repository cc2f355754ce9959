"""The master dies or steps down, a replica takes its place: an outage, and nothing more."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from threading import Event

import pytest
import redis as redis_py

from celery_lanes.errors import StoreUnavailable
from celery_lanes.store.attempts import Release, Renewal
from celery_lanes.store.connect import open_store
from tests import services
from tests.clusters import Node, cluster_of, slot_of
from tests.replicas import Pair, pair_of
from tests.store.driving import Driver, RealClock
from tests.waiting import pass_time, until

PUBLISHERS = 3
SOME = 40  # calls, before and after


@pytest.fixture(params=["valkey", "redis"])
def program(request) -> str | None:
    return services.redis_program() if request.param == "redis" else None


ONE_IS_ENOUGH = pytest.mark.parametrize(
    "program", ["valkey"], indirect=True
)  # it is redis-py's part


@pytest.fixture
def pair(program):
    with pair_of(program=program) as pair:
        yield pair


@pytest.fixture
def lane(pair):
    lane = Driver(open_store(pair.url(2), prefix="shop", durability="replicas:1"), RealClock())
    yield lane
    lane.store.disconnect()


def die(pair: Pair) -> None:
    pair.first.kill()


def step_down(pair: Pair) -> None:
    pair.fail_over()


def is_answered(verb) -> bool:
    try:
        verb()
    except StoreUnavailable:
        return False
    return True


@dataclass
class Load:
    """Publishers who repeat what has failed, one who does not, and a worker."""

    url: str
    is_over: Event = field(default_factory=Event)
    admitted: set[str] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)
    granted: set[str] = field(default_factory=set)
    refused: int = 0

    def open_lane(self) -> Driver:
        store = open_store(self.url, prefix="shop", durability="replicas:1")
        return Driver(store, RealClock())

    def ask(self, verb) -> bool:
        if is_answered(verb):
            return True
        self.refused += 1
        pass_time(0.03, because="the store is away")
        return False

    def publish(self, *, insists: bool) -> None:
        lane = self.open_lane()
        while not self.is_over.is_set():
            call = lane.call(id=uuid.uuid4().hex)
            is_in = self.ask(partial(lane.admit, call))
            while insists and not is_in and not self.is_over.is_set():
                is_in = self.ask(partial(lane.admit, call))
            (self.admitted if is_in else self.unsure).add(call.id)

    def work(self) -> None:
        lane = self.open_lane()
        request, releases = 0, []
        while not self.is_over.is_set():
            request += 1
            turns = []
            verb = partial(lane.turn, 1, *releases, worker="busy", request=request)
            while not self.is_over.is_set() and not turns:
                self.ask(lambda verb=verb, turns=turns: turns.append(verb()))
            grants = turns[0].grants if turns else ()
            self.granted |= {grant.call for grant in grants}
            releases = [Release(grant.call, grant.token) for grant in grants]

    def grows(self) -> bool:
        """Wait for some more admitted calls."""
        enough = len(self.admitted) + SOME
        until(lambda: len(self.admitted) > enough or self.is_over.is_set())
        return not self.is_over.is_set()


@pytest.mark.crash
@pytest.mark.parametrize("leave", [die, step_down])
def test_no_admitted_call_is_lost_and_none_is_in_twice(leave, pair, lane):
    lane.configure(5)
    load = Load(pair.url(2))

    with ThreadPoolExecutor(PUBLISHERS + 2) as threads:
        ends = [threads.submit(load.publish, insists=True) for _ in range(PUBLISHERS)]
        ends += [threads.submit(load.publish, insists=False), threads.submit(load.work)]
        for end in ends:
            end.add_done_callback(lambda _: load.is_over.set())
        try:
            is_under_load = load.grows()
            leave(pair)
            until(lambda: pair.master_port == pair.second.port)
            pair.return_first()  # an acknowledgement is asked for: it needs a second server
            has_recovered = load.grows()
        finally:
            load.is_over.set()
        for end in ends:
            end.result()

    assert is_under_load
    assert has_recovered
    assert load.refused > 0
    left = [grant.call for grant in drain(lane)]
    assert len(left) == len(set(left))
    assert load.admitted <= load.granted | set(left) <= load.admitted | load.unsure


def drain(lane: Driver) -> list:
    """Take all that waits."""
    grants = []
    widen = partial(lane.store.set_max_concurrent, lane.lane, 10_000)
    until(lambda: is_answered(widen))  # the first one may still meet with the old master
    while turn := lane.turn(500, worker="last").grants:
        grants += turn
    return grants


@pytest.mark.crash
def test_lease_outlives_the_gap_as_its_clock_stands_still(pair, lane):
    lease_ttl_ms = 600
    lane.configure(1, lease_ttl_ms=lease_ttl_ms)
    lane.park()
    grant = lane.take()
    lane.park()  # durable: and so is the grant before it
    reaped = []

    pair.first.kill()
    died_at = time.monotonic()
    until(lambda: is_answered(lambda: reaped.append(lane.store.reap(lane.lane))))
    gap_ms = (time.monotonic() - died_at) * 1000

    assert gap_ms > lease_ttl_ms
    assert reaped[0].put_back == 0
    assert lease_ttl_ms < reaped[0].extended_ms < gap_ms + lease_ttl_ms
    held = [(grant.call, grant.token)]
    assert lane.store.renew(lane.lane, worker="w1", held=held) == Renewal()
    lane.release(grant)
    assert lane.take().call == "c2"


@pytest.mark.crash
@ONE_IS_ENOUGH
def test_ear_says_that_the_master_has_gone_and_listens_to_the_next(pair, lane):
    lane.configure()
    ear = lane.store.listen("w1")

    pair.first.kill()

    until(lambda: not is_answered(ear.drain))
    ear.close()
    ears = []
    until(lambda: is_answered(lambda: ears.append(lane.store.listen("w1"))))
    until(lambda: is_answered(lane.turn))
    hasty = Driver(open_store(pair.url(2), prefix="shop"), RealClock())  # no replica is there now
    until(lambda: is_answered(lambda: hasty.park(id="c1")))
    heard = set()
    until(lambda: heard.update(ears[0].drain()) or heard)
    assert heard == {lane.lane}
    ears[0].close()


@pytest.mark.crash
def test_client_that_still_talks_to_the_old_master_is_told_that_the_store_is_away(pair, lane):
    lane.configure()
    lane.park()

    with redis_py.Redis(port=pair.first.port) as first:
        first.replicaof("127.0.0.1", pair.second.port)  # and the sentinel knows nothing of it

    for verb in [lane.turn, lane.park, lambda: lane.store.reap(lane.lane)]:
        with pytest.raises(StoreUnavailable):
            verb()


@pytest.mark.crash
@ONE_IS_ENOUGH
def test_cluster_promotes_a_replica_and_the_ear_does_not_wait_for_it(program):
    """A worker listens before it asks anything else: with its ear gone, no lane would be served."""
    at_once = ("--repl-diskless-sync-delay", "0")
    with cluster_of(3, *at_once, program=program) as cluster, Node(program=program) as replica:
        store = open_store(cluster.url(), prefix="shop", durability="replicas:1")
        lane = Driver(store, RealClock())
        lane.configure()
        master = cluster.owner(slot_of(f"{{shop:{lane.lane}}}"))
        names = (f"w{number}" for number in range(100))
        worker = next(
            name for name in names if cluster.owner(slot_of(f"shop:wake:{name}")) is master
        )
        cluster.joined_as_replica(replica, master)
        until(lambda: is_answered(lambda: lane.park(id="c1")))
        grant = lane.take()
        lane.park(id="c2")  # durable: and so is the grant before it

        master.kill()

        ear = store.listen(worker)
        until(lambda: is_answered(lambda: lane.counts))
        assert lane.counts == (1, 1, 0, 0)
        lane.release(grant)
        assert lane.take().call == "c2"
        ear.close()
        store.disconnect()
