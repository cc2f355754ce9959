"""Bad input gets a clear error that says what to do, and loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from random import Random

import pytest
from celery.exceptions import NotRegistered
from kombu import Connection, Producer
from redis import Redis

from celery_lanes.cli.check import check_app
from celery_lanes.errors import ConfigError, StoreUnavailable
from celery_lanes.testing.embedded import EmbeddedValkey
from tests.integration.conftest import ROOT, running, until, waiting
from tests.integration.mutants import payload_of, wire_form
from tests.services import redis_program

ODD_CALLERS = ["", "{}", "a:b;c", "Łukasz 🦊", "\n\t", "*", "x" * 256]


@pytest.mark.parametrize("intake", ["store", "broker"])
def test_odd_caller_names_are_callers_like_any_other(make_shop, intake):
    shop = make_shop(defaults=f'intake = "{intake}"')
    shop.worker(pool="threads")

    results = [shop.tasks.whose.apply_async(("ollama/x",), caller=name) for name in ODD_CALLERS]

    assert [result.get(timeout=10)["caller"] for result in results] == ODD_CALLERS


def test_a_caller_of_10_kb_is_refused_at_the_publish(shop):
    with pytest.raises(ValueError, match="expected a caller of up to 256 bytes, got 10240"):
        shop.tasks.whose.apply_async(("ollama/x",), caller="x" * 10240)

    assert shop.tasks.lanes.parts.store.snapshot("ollama").waiting == 0


def test_a_caller_of_10_kb_that_came_by_the_broker_is_shortened_and_runs(make_shop):
    shop = make_shop(defaults='intake = "broker"')
    shop.worker(pool="threads")

    seen = shop.tasks.whose.apply_async(("ollama/x",), caller="x" * 10240).get(timeout=10)

    assert len(seen["caller"]) == 10240  # the body sees what was sent; the queue has a short form


def test_foreign_messages_on_a_lanes_queue_are_left_to_celery_and_block_nothing(shop):
    worker = shop.worker()
    with Connection(shop.broker) as connection:
        producer = Producer(connection.channel())
        for body in ("not json at all", "[]", '{"task": 1}', '{"hello": "world"}'):
            producer.publish(
                body, routing_key=shop.queue("ollama"), content_type="application/json",
                content_encoding="utf-8",
            )  # fmt: skip

    assert shop.tasks.echo.delay("ollama/x", 1).get(timeout=10) == 1
    worker.wait_for_log("unknown message")


def test_a_message_without_our_header_runs_capped_and_attributed_to_nobody(shop):
    shop.worker()
    body = '[["ollama/x"], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
    with Connection(shop.broker) as connection:
        Producer(connection.channel()).publish(
            body, routing_key=shop.queue("ollama"), content_type="application/json",
            content_encoding="utf-8", correlation_id="foreign-1",
            headers={"id": "foreign-1", "task": "tests.integration.shop.whose", "lang": "go"},
        )  # fmt: skip

    seen = shop.tasks.app.AsyncResult("foreign-1").get(timeout=10)

    assert (seen["caller"], seen["lane"], seen["attempt"]) == ("", "ollama", 1)


def test_a_header_that_names_an_unknown_lane_changes_nothing(shop):
    shop.worker()
    headers = {"lanes": {"lane": "nowhere", "caller": 7, "nonsense": [1]}}

    seen = shop.tasks.whose.apply_async(("ollama/x",), headers=headers).get(timeout=10)

    assert (seen["lane"], seen["caller"]) == ("ollama", "")


def test_a_message_that_was_meant_for_another_queue_runs_in_the_lane_that_it_came_to(shop):
    shop.worker(queues=["plain"])
    app, broker, lane = shop.tasks.app, Redis.from_url(shop.broker), shop.queue("ollama")

    for came_to, meant_for in ((lane, "plain"), ("plain", lane)):
        message = app.amqp.as_task_v2(f"on-{came_to}", shop.tasks.whose.name, ("ollama/x",))
        payload = payload_of(message, meant_for, "json", None, Random(came_to))
        payload["headers"]["lanes"] = {"caller": "alice"}
        broker.lpush(came_to, wire_form(payload))

    seen = [app.AsyncResult(f"on-{queue}").get(timeout=10)["lane"] for queue in (lane, "plain")]
    assert seen == ["ollama", ""]


def test_a_task_that_no_worker_knows_ends_as_not_registered_after_other_workers_had_a_chance(
    make_shop,
):
    shop = make_shop(defaults="max_leases = 2")
    shop.worker()

    result = shop.tasks.app.send_task("shop.unknown", kwargs={"model": "ollama/x"})

    with pytest.raises(NotRegistered):
        result.get(timeout=20)
    assert shop.tasks.echo.delay("ollama/x", 1).get(timeout=10) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[lanes.ollama\n", "not valid TOML"),
        ("[lanes.ollama]\nmax_concurent = 3\n", "did you mean max_concurrent"),
        ("[lanes.ollama]\nmax_concurrent = 0\n", "expected lanes.ollama.max_concurrent"),
    ],
    ids=["broken", "misspelt", "zero"],
)
def test_a_worker_with_a_broken_file_says_so_in_one_line_and_does_not_start(shop, text, words):
    shop.config.write_text(text)
    command = [sys.executable, "-m", "celery", "-A", "tests.integration.shop", "worker", "-c", "1"]

    ended = subprocess.run(
        command, cwd=ROOT, env={**shop.full_env, "CELERY_LANES_STORE_URL": ""},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip

    lines = [line for line in ended.stderr.splitlines() if line.startswith("celery_lanes: ")]
    assert ended.returncode != 0
    assert len(lines) == 1, ended.stderr
    assert words in lines[0]
    assert "Traceback" not in ended.stderr


def test_a_durability_that_the_store_cannot_give_is_refused_by_worker_publish_and_check(make_shop):
    with EmbeddedValkey(program=redis_program()) as store:  # with no append-only file
        shop = make_shop()
        shop.store = store.url(0)
        tasks = shop.configure(store='durability = "aof"').tasks

        with pytest.raises(RuntimeError) as ended:
            shop.worker()
        with pytest.raises(ConfigError, match='durability = "aof" to be served'):
            tasks.echo.delay("ollama/x", 1)

        (line,) = [row for row in str(ended.value).splitlines() if row.startswith("celery_lanes:")]
        assert 'expected store.durability = "aof" to be served' in line
        assert "Traceback" not in str(ended.value)
        found = [finding.text for finding in check_app(tasks.lanes, timeout_s=0.1)]
        assert [text for text in found if 'durability = "aof" to be served' in text]
        assert waiting(shop) == 0


def test_publishing_without_a_store_fails_closed_and_says_so(make_shop):
    shop = make_shop()
    shop.store = "redis://127.0.0.1:1/0"
    tasks = shop.configure().tasks

    with pytest.raises(StoreUnavailable):
        tasks.echo.apply_async(("ollama/x", 1), retry=False)


def test_publishing_without_a_store_goes_to_the_broker_if_the_settings_say_so(make_shop, valkey):
    shop = make_shop()
    real, shop.store = shop.store, "redis://127.0.0.1:1/0"
    tasks = shop.configure(store='on_store_down = "bypass"').tasks
    result = tasks.echo.apply_async(("ollama/x", 1), retry=False)

    shop.store = real
    shop.configure()
    shop.worker()

    assert result.get(timeout=10) == 1


def test_a_store_that_goes_away_and_comes_back_loses_nothing(make_shop, make_store):
    store = make_store()
    shop = make_shop()
    shop.store = store.url(0)
    worker = shop.configure().worker(queues=["plain"])
    assert shop.tasks.echo.delay("ollama/x", 1).get(timeout=10) == 1
    waiting_calls = [shop.tasks.sleep.delay("ollama/x", 0.2) for _ in range(20)]
    until(lambda: running(shop) > 0)

    os.kill(store.pid, signal.SIGSTOP)
    worker.wait_for_log("the lane store is away")
    plain = shop.tasks.plain.delay().get(timeout=10)
    os.kill(store.pid, signal.SIGCONT)

    assert plain == "plain"
    assert [result.get(timeout=30) for result in waiting_calls] == ["slept"] * 20
    worker.wait_for_log("the lane store is back")
    assert worker.log().count("the lane store is away") == 1
    until(lambda: (running(shop), waiting(shop)) == (0, 0))


def test_a_worker_that_starts_without_a_store_begins_when_it_comes(make_shop, make_store):
    store = make_store()
    shop = make_shop()
    shop.store = store.url(0)
    os.kill(store.pid, signal.SIGSTOP)
    worker = shop.configure().worker()
    worker.wait_for_log("the lane store is away")

    os.kill(store.pid, signal.SIGCONT)

    assert shop.tasks.echo.delay("ollama/x", 1).get(timeout=15) == 1
