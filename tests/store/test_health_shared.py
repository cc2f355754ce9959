"""What only a shared health can promise: between processes, and when its server is away."""

from __future__ import annotations

import logging
import multiprocessing
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis

from celery_lanes.store import absence
from celery_lanes.store.connect import open_health
from celery_lanes.store.health import HealthConfig, Pass
from celery_lanes.store.redis.health import RedisHealth
from celery_lanes.testing.embedded import EmbeddedValkey
from tests.clusters import cluster_of

X = "m1/x"
SHORT = HealthConfig(failure_threshold=1, base_cooldown_s=0.05)


@pytest.fixture(params=["valkey", "redis"])
def url(request) -> str:
    return request.getfixturevalue(request.param).url()


@pytest.fixture
def prefix() -> str:
    return f"t{uuid.uuid4().hex}"


def fail(health: RedisHealth, target: str = X, *, times: int = 1) -> None:
    for _ in range(times):
        health.report(health.enter(target, probe_s=60, is_alone=True), "count")


def report_elsewhere(url: str, prefix: str) -> None:
    fail(open_health(url, prefix=prefix), times=2)


def probe(url: str, prefix: str, start, found) -> None:
    """Ask from several threads at once; tell how many were let through."""
    health = open_health(url, prefix=prefix, config=SHORT)
    start.wait(30)
    with ThreadPoolExecutor(4) as threads:
        entered = list(threads.map(lambda _: health.enter(X, probe_s=60), range(20)))
    found.put(sum(isinstance(one, Pass) for one in entered))


def test_a_bench_holds_for_another_process_once_the_report_has_returned(url, prefix):
    here = open_health(url, prefix=prefix)
    assert isinstance(here.enter(X, probe_s=60), Pass)

    other = multiprocessing.get_context("spawn").Process(
        target=report_elsewhere, args=(url, prefix)
    )
    other.start()
    other.join(60)

    assert other.exitcode == 0
    assert not isinstance(here.enter(X, probe_s=60), Pass)


def test_of_all_processes_one_call_is_the_probe(url, prefix):
    health = open_health(url, prefix=prefix, config=SHORT)
    fail(health)
    while health.conditions()[0].state == "benched":
        pass
    fork = multiprocessing.get_context("fork")
    start, found = fork.Barrier(3), fork.Queue()
    racers = [fork.Process(target=probe, args=(url, prefix, start, found)) for _ in range(3)]

    for racer in racers:
        racer.start()
    passed = [found.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join(60)

    assert sum(passed) == 1


def test_a_child_uses_connections_of_its_own(url, prefix):
    health = open_health(url, prefix=prefix)
    fail(health)
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=fail, args=(health, f"m1/{n}")) for n in range(4)]

    for child in children:
        child.start()
    for child in children:
        child.join(60)

    assert {known.name for known in health.conditions()} == {X, *(f"m1/{n}" for n in range(4))}


def test_without_its_store_everything_is_healthy_and_the_log_says_so_once(prefix, caplog):
    asked = []
    with EmbeddedValkey() as server:
        health = open_health(server.url(), prefix=prefix, config=SHORT)
        fail(health)
    run = health._wire.run
    health._wire.run = lambda *words: asked.append(words) or run(*words)

    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            leave = health.enter(X, probe_s=60)
            assert leave == Pass(target=X, token=leave.token)
            assert health.report(leave, "bench") is None
            assert not health.recover(leave)

    assert len(caplog.records) == 1
    assert "all count as healthy" in caplog.text
    assert len(asked) < 150


def test_it_is_known_again_when_its_store_is_back(url, prefix, caplog, monkeypatch):
    monkeypatch.setattr(absence, "ASK_AGAIN_S", 0.0)
    health = open_health(url, prefix=prefix, config=SHORT)
    away, run = [1, 2, 3], health._wire.run
    gone = open_health("redis://127.0.0.1:1", prefix=prefix)._wire.run
    health._wire.run = lambda *words: gone(*words) if away and away.pop() else run(*words)

    with caplog.at_level(logging.WARNING):
        fail(health, times=3)

    _, back = (record.message for record in caplog.records)
    assert back == "celery_lanes: the health of LLM targets is known again"
    assert health.conditions()[0].state in {"benched", "due"}


def test_a_user_who_may_not_run_scripts_has_healthy_targets(prefix, caplog):
    with EmbeddedValkey() as server:
        Redis.from_url(server.url()).execute_command(
            "ACL SETUSER shop on >secret ~* &* +@all -@scripting"
        )
        health = open_health(server.url().replace("redis://", "redis://shop:secret@"))

        assert isinstance(health.enter(X, probe_s=60), Pass)

    assert "no permissions" in caplog.text


def test_a_full_server_benches_all_the_same(prefix):
    with EmbeddedValkey() as server:
        fail(open_health(server.url(), prefix=prefix))
        Redis.from_url(server.url()).config_set("maxmemory", 1)

        health = open_health(server.url(), prefix=prefix)
        fail(health)

        assert [known.state for known in health.conditions()] == ["benched"]


def test_what_is_benched_takes_its_keys_away_with_it(url, prefix):
    health, client = open_health(url, prefix=prefix), Redis.from_url(url)

    fail(health, times=2)

    keys = client.keys(f"*{prefix}*")
    assert len(keys) == 2
    assert all(0 < client.pttl(key) <= (24 * 3600 + 5) * 1000 for key in keys)
    health.recover(health.enter(X, probe_s=60, is_alone=True))
    assert client.keys(f"*{prefix}*") == []


def test_a_cluster_keeps_it_in_one_place(prefix):
    with cluster_of(3) as cluster:
        health = open_health(cluster.url(), prefix=prefix)

        fail(health, "m1/x", times=2)
        fail(health, "m2/y")

        states = {known.name: known.state for known in health.conditions()}
        assert states == {"m1/x": "benched", "m2/y": "failing"}
        assert health.clear("m1/x")
        assert health.recover(health.enter("m2/y", probe_s=60)) is False
        assert health.conditions() == []
        health.close()
