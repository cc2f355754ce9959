"""A Redis Cluster of three masters: lanes on each, and a lane that moves while it is worked on."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from celery_lanes.errors import StoreUnavailable
from celery_lanes.store.attempts import Reason, Renewal
from celery_lanes.store.calls import Parked
from celery_lanes.store.connect import open_store, open_transcripts
from celery_lanes.store.transcripts import Draft, Entry, Heard, Mark
from tests import services
from tests.clusters import Cluster, Node, cluster_of, slot_of
from tests.store.driving import Driver, RealClock
from tests.store.racing import Race, publish, work
from tests.waiting import until

NAMES = ["a", "b", "c", "d", "ü", "chat"]
WORKERS = 3
MOVES = 4


@pytest.fixture(scope="module", params=["valkey", "redis"])
def program(request) -> str | None:
    return services.redis_program() if request.param == "redis" else None


@pytest.fixture(scope="module")
def cluster(program):
    on_disk = ("--appendonly", "yes", "--appendfsync", "always")
    with cluster_of(3, *on_disk, program=program) as cluster:
        yield cluster


@pytest.fixture
def prefix() -> str:
    return f"t{uuid.uuid4().hex}"


@pytest.fixture
def lane(cluster, prefix):
    lane = Driver(open_store(cluster.url(), prefix=prefix), RealClock())
    lane.configure()
    yield lane
    lane.store.disconnect()


def slot_of_lane(prefix: str, lane: str) -> int:
    return slot_of(f"{{{prefix}:{lane}}}")


def worker_that_listens_at(cluster: Cluster, node: Node, store) -> str:
    """Name a worker whose ear would be at this node."""
    workers = (f"w{number}" for number in range(1000))
    return next(w for w in workers if cluster.owner(slot_of(store._keys.channel + w)) is node)


def other_than(cluster: Cluster, node: Node) -> Node:
    return next(other for other in cluster.nodes if other is not node)


def test_lanes_are_spread_over_the_nodes_and_every_verb_works_on_each(cluster, prefix):
    store = open_store(cluster.url(), prefix=prefix)
    for name in NAMES:
        lane = Driver(store, RealClock(), name)
        lane.configure(2)
        ear = store.listen("w1")
        assert lane.turn().grants == ()
        lane.park(task_id="t", times=2)
        lane.until(lambda ear=ear, name=name: ear.drain() == {name})
        grant = lane.take()
        assert store.settle(name, call=grant.call, token=grant.token, cost=2)
        assert store.renew(name, worker="w1", held=[(grant.call, grant.token)]) == Renewal()
        assert store.cancel(name, "t") == 1
        closing = lane.closing()
        assert closing.reason is Reason.CANCELLED
        assert store.close(name, call=closing.call, token=closing.token)
        lane.release(grant)
        store.reap(name)
        store.set_max_concurrent(name, 3)
        store.set_paused(name, paused=True)
        assert store.snapshot(name).max_concurrent == 3
        ear.close()

    assert len({cluster.owner(slot_of_lane(prefix, name)) for name in NAMES}) == 3
    assert store.lanes() == sorted(NAMES)
    assert isinstance(store.warnings(), list)
    store.disconnect()
    assert store.lanes() == sorted(NAMES)


def test_worker_is_woken_by_every_node(cluster, prefix):
    """It listens at one of them; what the others publish comes over the cluster's bus."""
    store = open_store(cluster.url(), prefix=prefix)
    ear = store.listen("w1")
    lanes = [Driver(store, RealClock(), name) for name in NAMES]
    for lane in lanes:
        lane.configure()
        assert lane.turn().grants == ()
    heard: set[str] = set()

    for lane in lanes:
        lane.park()

    until(lambda: heard.update(ear.drain()) or heard == set(NAMES))
    ear.close()


def test_lane_on_the_move_is_an_outage_and_then_all_there(cluster, lane, prefix):
    first, second = lane.park(times=2)
    grant = lane.take()
    slot = slot_of_lane(prefix, lane.lane)
    verbs = [
        lane.turn,
        lambda: lane.admit(first),
        lambda: lane.store.renew(lane.lane, worker="w1", held=[(grant.call, grant.token)]),
        lambda: lane.store.reap(lane.lane),
        lambda: lane.counts,
    ]
    answers = []

    def half_way() -> None:
        for verb in verbs:
            with pytest.raises(StoreUnavailable, match="moving the lane"):
                verb()
        answers.append(1)

    cluster.move(slot, other_than(cluster, cluster.owner(slot)), half_way=half_way)

    assert len(answers) > 3
    assert lane.counts == (1, 1, 0, 0)
    lane.release(grant)
    assert lane.take().call == second.id


def test_cap_holds_and_nothing_is_lost_or_doubled_while_a_lane_moves(cluster, prefix, valkey):
    race = Race(cluster.url(), valkey.url(), prefix, calls=400)
    race.configure()
    slot, counters = slot_of_lane(prefix, race.lane), race.counters

    def half_way() -> None:
        """Stay until the workers have met with this state, too."""
        met = counters.outages
        until(lambda: counters.outages > met + WORKERS or is_over.is_set())

    is_over = threading.Event()
    with ThreadPoolExecutor(WORKERS + 1) as threads:
        ends = [threads.submit(publish, race)]
        ends += [threads.submit(work, race, number) for number in range(WORKERS)]
        for end in ends:
            end.add_done_callback(lambda end: end.exception() and is_over.set())
        until(lambda: counters.done > 0)
        moves = 0
        while moves < MOVES and not is_over.is_set():
            cluster.move(slot, other_than(cluster, cluster.owner(slot)), half_way=half_way)
            moves += 1
            done = counters.done
            until(lambda done=done: counters.done > done or is_over.is_set())
        for end in ends:
            end.result()

    assert moves == MOVES
    assert counters.most_at_once == race.cap
    now = race.open_store().snapshot(race.lane)
    assert (now.running, now.waiting, now.closing) == (0, 0, 0)


def test_node_that_has_just_joined_may_take_a_lane(cluster, lane, prefix, program):
    """The clients have never heard of it when they are sent there."""
    lane.park()
    durable = Driver(open_store(cluster.url(), prefix=prefix, durability="replicas:1"), RealClock())
    verbs = [lambda: lane.counts, lane.store.lanes]
    slots = [slot_of_lane(prefix, lane.lane), slot_of(f"{prefix}:lanes")]
    homes = [cluster.owner(slot) for slot in slots]
    assert durable.counts == (0, 1, 0, 0)

    with cluster.joined_by(Node(program=program)) as newcomer:
        for slot in slots:
            cluster.move(slot, newcomer, half_way=lambda: [is_answered(verb) for verb in verbs])

        with pytest.raises(StoreUnavailable, match="expected 1 acknowledgements"):
            durable.park(id="d")  # only the replica is missing
        assert lane.counts == (0, 2, 0, 0)
        assert lane.store.lanes() == [lane.lane]
        for slot, home in zip(slots, homes, strict=True):
            cluster.move(slot, home)

    for verb in verbs:
        until(lambda verb=verb: is_answered(verb))  # the first one meets with a dead node
    assert lane.counts == (0, 2, 0, 0)
    assert lane.store.lanes() == [lane.lane]


def is_answered(verb) -> bool:
    try:
        verb()
    except StoreUnavailable:
        return False
    return True


def test_node_that_dies_and_returns_is_only_an_outage(cluster, lane, prefix):
    lane.park(times=3)
    grant = lane.take()
    ear = lane.store.listen("w1")
    node = cluster.owner(slot_of_lane(prefix, lane.lane))
    worker = worker_that_listens_at(cluster, node, lane.store)

    node.kill()
    with pytest.raises(StoreUnavailable):
        lane.counts  # noqa: B018 - asks
    with pytest.raises(StoreUnavailable):
        lane.admit(lane.call(id="late"))
    lane.store.listen(worker).close()  # at another
    node.start()

    until(cluster.is_whole)
    assert lane.counts == (1, 2, 0, 0)
    assert lane.admit(lane.call(id="late")) == [Parked(2)]
    lane.release(grant)
    assert lane.take().call == "c2"
    ear.close()


def test_cluster_that_lacks_slots_is_store_unavailable(cluster, lane, prefix):
    slot = slot_of_lane(prefix, lane.lane)
    owner = cluster.owner(slot)
    owner.tell("DELSLOTS", slot)
    try:
        with pytest.raises(StoreUnavailable):
            lane.park()
    finally:
        owner.tell("ADDSLOTS", slot)
        until(cluster.is_whole)

    assert lane.park()
    assert lane.counts == (0, 1, 0, 0)


def test_durable_admit_works_in_a_cluster(cluster, prefix):
    store = open_store(cluster.url(), prefix=prefix, durability="replicas:1")
    lane = Driver(store, RealClock(), "durable")

    with pytest.raises(StoreUnavailable, match="expected 1 acknowledgements"):
        lane.park()

    assert lane.counts == (0, 1, 0, 0)


def test_transcripts_are_spread_over_the_nodes_and_are_found_where_they_have_moved(cluster, prefix):
    transcripts = open_transcripts(cluster.url(), prefix=prefix)
    names = ["a", "b", "c", "d", "{e}", "ü"]
    follower = transcripts.follow("a")
    follower.ask(Mark(), 1000)

    transcripts.write([Draft(name, Mark(), Entry(Mark(7, 1), 1, name)) for name in names])
    heard = follower.take()
    slot = slot_of(transcripts._keys.of_reply("a")[0])
    cluster.move(slot, other_than(cluster, cluster.owner(slot)))
    more = [Draft("a", Mark(), Entry(Mark(7, 2), 1, "moved"))]
    until(lambda: transcripts.write(more) == [Heard()])
    until(lambda: heard.extend(served(lambda: asked(follower)) or ()) or len(heard) > 1)
    slots = {slot_of(transcripts._keys.of_reply(name)[0]) for name in names}
    follower.close()
    transcripts.disconnect()

    assert [transcripts.last(name).payload for name in names[1:]] == names[1:]
    assert [entry.payload for entry in heard] == ["a", "moved"]
    assert len({cluster.owner(slot) for slot in slots}) > 1


def test_a_node_that_is_away_holds_up_its_own_transcripts_only(cluster, prefix):
    transcripts = open_transcripts(cluster.url(), prefix=prefix)
    names = ["a", "b", "c", "d", "{e}", "ü"]
    homes = {name: cluster.owner(slot_of(transcripts._keys.of_reply(name)[0])) for name in names}
    drafts = [Draft(name, Mark(), Entry(Mark(7, 1), 1, name)) for name in names]
    serve_in_part(cluster, "no")

    homes["a"].kill()
    told = dict(zip(names, transcripts.write(drafts), strict=True))
    homes["a"].start()
    serve_in_part(cluster, "yes")
    until(cluster.is_whole)

    lost = {name for name, heard in told.items() if isinstance(heard, StoreUnavailable)}
    assert lost == {name for name, home in homes.items() if home is homes["a"]}
    assert {told[name] for name in names if name not in lost} == {Heard()}
    until(lambda: transcripts.write(drafts) == [Heard()] * len(names))
    transcripts.disconnect()


def serve_in_part(cluster: Cluster, full_coverage: str) -> None:
    """Have the nodes serve ("no") while another one is away."""
    for node in cluster.nodes:
        node.client.config_set("cluster-require-full-coverage", full_coverage)


def asked(follower) -> list[Entry]:
    follower.ask(Mark(7, 1), 1000)
    return follower.take()


def served(verb) -> object:
    """Give what a verb gives, or nothing while the store is away."""
    try:
        return verb()
    except StoreUnavailable:
        return None
