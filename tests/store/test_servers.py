"""What only a server can do: run out of memory, go away, ask for a password."""

from __future__ import annotations

import os
import re
import socket
import time
import uuid
from pathlib import Path

import pytest
import redis as redis_py

from celery_lanes.errors import ConfigError, LaneNotConfigured, StoreError, StoreUnavailable
from celery_lanes.store.attempts import Outcome, Release, Renewal
from celery_lanes.store.calls import Parked
from celery_lanes.store.connect import open_store
from celery_lanes.store.memory.store import MemoryStore
from celery_lanes.store.redis import lua
from celery_lanes.store.rules import Policy
from celery_lanes.testing.embedded import EmbeddedValkey, find_program
from tests import services
from tests.store.driving import Driver, RealClock

SERVERS = pytest.mark.parametrize("kind", ["valkey", "redis"])
SECRET = "hunter2-swordfish"


@pytest.fixture(params=["valkey", "redis"])
def program(request) -> str | None:
    return services.redis_program() if request.param == "redis" else None


@pytest.fixture
def own_server(program):
    with EmbeddedValkey(program=program) as server:
        yield server


def replica_of(server: EmbeddedValkey) -> tuple[str, ...]:
    return "--replicaof", "127.0.0.1", str(server.port)


def driver(server: EmbeddedValkey, **options) -> Driver:
    store = open_store(server.url(), prefix=f"t{uuid.uuid4().hex}", **options)
    return Driver(store, RealClock())


# -- a full server


def test_full_server_refuses_calls_but_renews_releases_and_reaps(program):
    with EmbeddedValkey(program=program) as server:
        lane = driver(server)
        lane.configure(3, max_leases=1)
        lane.park(times=6)
        first, second, third = lane.turn(3).grants
        client = redis_py.Redis(port=server.port)
        client.config_set("maxmemory", 1)

        with pytest.raises(StoreUnavailable, match="full"):
            lane.park()

        renewal = lane.store.renew(lane.lane, worker="w1", held=[(first.call, first.token)])
        assert renewal == Renewal()
        assert lane.store.settle(lane.lane, call=first.call, token=first.token, cost=3)
        assert len(lane.turn(1, Release(first.call, first.token), worker="w2").grants) == 1
        lane.release(second, Outcome.BACK)
        lane.release(third, Outcome.LOST)
        closing = lane.closing()
        assert lane.store.close(lane.lane, call=closing.call, token=closing.token)
        lane.store.reap(lane.lane)
        lane.configure(2)
        lane.store.set_paused(lane.lane, paused=True)
        lane.store.set_max_concurrent(lane.lane, 1)
        assert lane.store.position(lane.lane, "task-c6").paused
        assert lane.store.cancel(lane.lane, "task-c6") == 1
        assert lane.counts == (1, 2, 0, 1)


# -- a server that is away


def test_unreachable_server_is_store_unavailable_and_comes_back(own_server):
    lane = driver(own_server)
    lane.configure()
    own_server.kill()

    started = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        lane.park()
    assert time.monotonic() - started < 3
    assert isinstance(caught.value.__cause__, redis_py.ConnectionError)

    own_server.restart()
    lane.park()
    assert lane.counts == (0, 1, 0, 0)


def test_store_can_be_opened_while_its_server_is_away():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        store = open_store(f"redis://127.0.0.1:{probe.getsockname()[1]}")

    with pytest.raises(StoreUnavailable):
        store.snapshot("a")
    with pytest.raises(StoreUnavailable):
        store.listen("w")


def test_silent_server_is_given_up_after_a_second():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        store = open_store(f"redis://127.0.0.1:{silent.getsockname()[1]}")

        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.snapshot("a")
        assert 0.5 < time.monotonic() - started < 5


def test_scripts_are_sent_again_when_the_server_has_forgotten_them(own_server):
    lane = driver(own_server)
    lane.park()
    redis_py.Redis(port=own_server.port).script_flush()

    lane.park()

    assert lane.counts == (0, 2, 0, 0)


def test_ear_says_that_its_connection_is_lost_and_can_be_opened_again(own_server):
    lane = driver(own_server)
    ear = lane.store.listen("w1")
    own_server.kill()

    with pytest.raises(StoreUnavailable):
        lane.until(lambda: ear.drain() and False)
    ear.close()

    own_server.restart()
    ear = lane.store.listen("w1")
    lane.configure()
    lane.turn()
    lane.park()
    lane.until(lambda: ear.drain() == {lane.lane})
    ear.close()


@SERVERS
def test_disconnected_store_connects_again(lane):
    lane.park()
    lane.store.disconnect()

    assert lane.counts == (0, 1, 0, 0)


@SERVERS
def test_store_and_ear_work_in_a_forked_child(lane):
    lane.configure()
    lane.park()
    ear = lane.store.listen("w1")

    child = os.fork()
    if child == 0:
        try:
            grant = lane.take("w1")
            lane.turn(1, worker="w1")
            lane.release(grant, Outcome.BACK)
            is_fine = ear.drain() == set() and lane.counts == (0, 1, 0, 0)
            os._exit(0 if is_fine else 1)
        finally:
            os._exit(2)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert lane.take("w2").attempt == 2
    ear.close()


def test_read_only_replica_is_store_unavailable(own_server, program):
    with EmbeddedValkey(*replica_of(own_server), program=program) as replica:
        lane = driver(replica)

        def is_refused() -> bool:
            with pytest.raises(StoreUnavailable):
                lane.park()
            return True

        lane.until(is_refused)


def test_master_that_has_lost_its_replicas_is_store_unavailable(own_server):
    """So a master that was replaced, and does not know it yet, grants nothing."""
    lane = driver(own_server)
    lane.configure()
    client = redis_py.Redis(port=own_server.port)
    if client.info()["redis_version"] < "7":
        pytest.skip("before Redis 7, scripts may write all the same")
    client.config_set("min-replicas-to-write", 1)

    for verb in [lane.turn, lane.park, lambda: lane.store.reap(lane.lane)]:
        with pytest.raises(StoreUnavailable):
            verb()


def test_every_script_reads_the_clock_once():
    """Within a script of Redis 7.0 the time goes on."""
    verbs = [file.stem for file in Path(lua.__file__).parent.glob("[!_]*.lua")]

    assert {verb: lua.load(verb).source.count("'TIME'") for verb in verbs} == dict.fromkeys(
        verbs, 1
    )


def test_odd_numbers_are_refused_by_the_script_too(valkey):
    lane = driver(valkey)
    fields = ["c2", "t", "x", "ann", "ann", 0, "nan", 0, 1, 0, "", "", b""]
    good = ["c1", "t", "x", "ann", "ann", 0, "1", 0, 1, 0, "", "", b""]

    with pytest.raises(StoreError, match="odd priority, cost or time in call c2"):
        lane.store._wire.admit(lane.lane, ["caller", "", 0, *good, *fields])

    assert lane.counts == (0, 0, 0, 0)


# -- durability


def test_admit_waits_for_the_append_only_file():
    services.need((7, 2), find_program())
    with EmbeddedValkey("--appendonly", "yes", "--appendfsync", "everysec") as server:
        lane = driver(server, durability="aof")

        assert lane.admit(lane.call()) == [Parked(0)]
        assert lane.admit(lane.call()) == [Parked(1)]


def test_nothing_is_admitted_where_the_append_only_file_cannot_be_waited_for(own_server):
    lane = driver(own_server, durability="aof")

    with pytest.raises(ConfigError, match=r"appendonly|WAITAOF"):  # Redis 7.0 does not know it
        lane.park()

    assert lane.counts == (0, 0, 0, 0)
    with pytest.raises(ConfigError, match='durability = "aof" to be served'):
        lane.store.prove_durability()


def test_a_replica_is_no_reason_to_call_the_durability_wrong(valkey):
    services.need((7, 2), find_program())
    with EmbeddedValkey(*replica_of(valkey), "--appendonly", "yes") as replica:
        lane = driver(replica, durability="aof")

        with pytest.raises(StoreUnavailable, match="replica"):
            lane.store.prove_durability()


def test_admit_fails_without_enough_replicas_and_its_repeat_is_no_double(own_server, program):
    redis_py.Redis(port=own_server.port).config_set("repl-diskless-sync-delay", 0)
    lane = driver(own_server, durability="replicas:1")
    call = lane.call()
    with pytest.raises(StoreUnavailable, match="expected 1 acknowledgements"):
        lane.admit(call)

    with EmbeddedValkey(*replica_of(own_server), program=program) as _replica:
        client = redis_py.Redis(port=own_server.port)
        lane.until(lambda: client.set("x", 1) and client.wait(1, 500) == 1)

        lane.admit(call)

    assert lane.counts == (0, 1, 0, 0)


@pytest.mark.parametrize("durability", ["", "fsync", "replicas:", "replicas:0", "replicas:-1"])
def test_odd_durability_is_refused(durability):
    with pytest.raises(ValueError, match="durability"):
        open_store("redis://127.0.0.1", durability=durability)


# -- urls


def test_memory_store_is_one_per_url():
    url = f"memory://{uuid.uuid4().hex}"

    assert open_store(url) is open_store(url)
    assert open_store(url) is not open_store(url + "x")


@pytest.mark.parametrize(
    "url",
    [
        f"redis://user:{SECRET}@127.0.0.1:1/0",
        f"sentinel://:{SECRET}@127.0.0.1:1;sentinel://127.0.0.1:2/0?master_name=x",
        f"redis+cluster://:{SECRET}@127.0.0.1:1",
        f"redis://:{SECRET}@127.0.0.1:port",
        f"redis://:{SECRET}@127.0.0.1:1/0?socket_timeout={SECRET}",
        f"sentinel://:{SECRET}@127.0.0.1:1",
        f"mongodb://:{SECRET}@127.0.0.1",
    ],
    ids=lambda url: re.sub(r"\W+", "-", url.replace(SECRET, "")),
)
def test_secrets_of_a_url_are_in_no_message(url):
    texts = []
    try:
        store = open_store(url)
        texts.append(repr(store))
        store.snapshot("a")
    except StoreError as error:
        while error is not None:
            texts += [str(error), repr(error.args)]
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)

    assert texts
    assert SECRET not in "".join(texts)


def test_urls_of_valkey_and_of_sockets_are_understood(tmp_path):
    path = tmp_path / "socket"
    with EmbeddedValkey("--unixsocket", str(path)) as server:
        for url in [
            f"valkey://127.0.0.1:{server.port}/3",
            f"unix://{path}?db=3",
            f"redis+socket://{path}?virtual_host=3",
        ]:
            store = open_store(url)
            store.set_max_concurrent(url.partition(":")[0], 1)

        assert store.lanes() == ["redis+socket", "unix", "valkey"]


@SERVERS
def test_two_prefixes_on_one_server_are_strangers(kind, request):
    server = request.getfixturevalue(kind)
    ours, theirs = driver(server), driver(server)
    ear = theirs.store.listen("w1")
    for lane in [ours, theirs]:
        lane.configure()
        assert lane.turn().grants == ()

    ours.park(id="c1")

    assert ours.take().call == "c1"
    assert theirs.counts == (0, 0, 0, 0)
    theirs.store.set_max_concurrent("gpu", 1)
    assert ours.store.lanes() == [ours.lane]
    theirs.park(id="c1")
    theirs.until(lambda: ear.drain() == {theirs.lane})
    assert theirs.take().call == "c1"
    ear.close()


def test_a_server_that_has_lost_all_has_the_lanes_name_again_with_its_rules(own_server):
    lane = driver(own_server)
    lane.configure()
    redis_py.Redis(port=own_server.port).flushall()
    with pytest.raises(LaneNotConfigured):
        lane.turn()

    lane.configure()

    assert lane.store.lanes() == [lane.lane]


def test_server_with_a_password_is_opened_by_the_url():
    with EmbeddedValkey() as server:
        redis_py.Redis(port=server.port).config_set("requirepass", SECRET)
        store = open_store(f"redis://:{SECRET}@127.0.0.1:{server.port}")
        assert store.lanes() == []
        wrong = open_store(f"redis://:{SECRET}x@127.0.0.1:{server.port}")
        with pytest.raises(StoreUnavailable) as caught:
            wrong.lanes()
        assert SECRET not in str(caught.value)


def test_sentinel_leads_to_the_master(own_server, tmp_path):
    settings = tmp_path / "sentinel.conf"
    settings.write_text(f"sentinel monitor lanes 127.0.0.1 {own_server.port} 1\n")
    with Sentinel(settings) as sentinel:
        url = f"sentinel://127.0.0.1:1;sentinel://127.0.0.1:{sentinel.port}/2?master_name=lanes"
        lane = Driver(open_store(url), RealClock())
        lane.configure()
        lane.park()
        ear = lane.store.listen("w1")

        assert lane.take().call == "c1"
        ear.close()


class Sentinel(EmbeddedValkey):
    """A sentinel process; it rewrites its settings file."""

    def __init__(self, settings) -> None:
        super().__init__()
        self._settings = str(settings)

    def _command(self) -> list[str]:
        place = ["--port", str(self.port), "--bind", "127.0.0.1"]
        return [self._program, self._settings, "--sentinel", *place]


# -- what a server says of itself


def test_server_that_keeps_nothing_or_evicts_is_warned_of(own_server):
    client = redis_py.Redis(port=own_server.port)
    store = open_store(own_server.url())
    assert [w for w in store.warnings() if "disk" in w]

    client.config_set("save", "60 1")
    assert store.warnings() == []

    client.config_set("maxmemory", 10**9)
    client.config_set("maxmemory-policy", "allkeys-lru")
    assert ["noeviction" in w for w in store.warnings()] == [True]


def test_server_that_does_not_tell_is_warned_of_and_does_not_fail(own_server):
    client = redis_py.Redis(port=own_server.port)
    client.execute_command("ACL", "SETUSER", "shop", "on", ">pw", "~*", "&*", "+@all", "-config")

    store = open_store(f"redis://shop:pw@127.0.0.1:{own_server.port}")

    assert ["does not tell" in warning for warning in store.warnings()] == [True]


def test_memory_store_warns_that_it_keeps_nothing():
    assert len(MemoryStore().warnings()) == 1


# -- the scripts themselves


@pytest.mark.parametrize("verb", lua.verbs())
def test_scripts_declare_few_keys_and_scan_nothing(verb):
    script = lua.load(verb)

    assert len(script.kinds) <= 16
    assert not re.search(r"'(KEYS|SCAN|HSCAN|ZSCAN|SSCAN|HGETALL)'", script.source)


def test_lane_uses_at_most_14_keys_all_under_one_hash_tag(own_server):
    lane = driver(own_server)
    lane.configure(1, max_leases=1)
    lane.park(times=3)
    lane.park(due_ms=lane.clock() + 60_000)
    lane.turn(0, Release("x", "y"), worker="w2")
    lane.take()
    lane.turn(1)

    keys = redis_py.Redis(port=own_server.port).keys("*")

    prefix = lane.store._keys.prefix.encode()
    of_lane = {key for key in keys if key.startswith(b"{%s:%s}:" % (prefix, lane.lane.encode()))}
    assert set(keys) - of_lane == {prefix + b":lanes"}
    assert len(of_lane) <= 14


def test_admit_with_a_policy_needs_no_configuration(valkey):
    lane = driver(valkey)
    lane.policy = Policy.FIFO

    assert lane.admit(lane.call()) == [Parked(0)]
