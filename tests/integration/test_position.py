"""Where a call stands, asked for while a real worker serves the lane."""

from __future__ import annotations

import subprocess
import sys

import pytest

from celery_lanes.errors import ConfigError, LaneBusy, NotQueued
from celery_lanes.store.standing import Hold
from tests.integration.conftest import ROOT, until

ONE_SLOT = "[lanes.ollama]\nmax_concurrent = 1"


def test_place_reason_and_command_agree_while_a_call_runs(make_shop):
    shop = make_shop(rest=ONE_SLOT)
    shop.worker()
    lanes, sleep = shop.tasks.lanes, shop.tasks.sleep
    sleep.apply_async(("ollama/x", 0.2), caller="ann").get(timeout=20)
    running = sleep.apply_async(("ollama/x", 8), caller="ann", run_id="run-7")
    until(lambda: lanes.position(running).reason is Hold.RUNNING)
    for _ in range(3):
        sleep.apply_async(("ollama/x", 0.1), caller="ann")
    mine = sleep.apply_async(("ollama/x", 0.1), caller="bob")
    last = sleep.apply_async(("ollama/x", 0.1), caller="ann")

    position = lanes.position(mine)
    (busy,) = lanes.lane("ollama").running()

    assert (position.lane, position.place, position.reason) == ("ollama", 2, Hold.SHARE)
    assert (position.own_ahead, position.others_ahead) == (0, 1)
    assert lanes.explain(last.id).startswith("ollama: the only slot is busy, and other callers")
    assert lanes.position(last).place == 5
    assert lanes.position(last).eta_s is not None
    told = _celery(shop, "where", mine.id)
    assert "place   2" in told
    assert "ahead   0 own, 1 of other callers" in told
    assert (busy.task_id, busy.task, busy.model) == (running.id, sleep.name, "ollama/x")
    assert (busy.caller, busy.run_id) == ("ann", "run-7")
    assert busy.worker in shop.tasks.app.control.ping(timeout=1, limit=1)[0]


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_only_calls_that_ended_well_tell_how_long_they_take(make_shop, pool):
    shop = make_shop(rest=ONE_SLOT)
    shop.worker(pool=pool)
    tasks = shop.tasks
    for _ in range(2):
        tasks.fail.delay("ollama/x").get(timeout=20, propagate=False)
    tasks.flaky.delay("ollama/x").get(timeout=20)
    tasks.sleep.delay("ollama/x", 0.3).get(timeout=20)
    until(lambda: tasks.lanes.parts.store.snapshot("ollama").running == 0)
    tasks.lanes.parts.store.set_paused("ollama", paused=True)
    waiting = tasks.echo.delay("ollama/x")

    standing = tasks.lanes.parts.store.position("ollama", waiting.id)

    assert len(standing.served_ms) == 2  # two failed, and two asked for a retry
    assert 300 <= max(standing.served_ms) < 1500
    assert tasks.lanes.explain(waiting) == "ollama: the lane is paused; it is next"


@pytest.mark.alone
def test_eta_is_within_a_quarter_of_what_calls_really_wait(make_shop):
    shop = make_shop(rest="[lanes.ollama]\nmax_concurrent = 2")
    shop.worker(concurrency=2)
    lanes, sleep = shop.tasks.lanes, shop.tasks.waited
    warm = [sleep.apply_async(("ollama/x", 0.2), caller="ann") for _ in range(12)]
    for result in warm:
        result.get(timeout=20)
    heavy = [sleep.apply_async(("ollama/x", 0.2), caller="ann") for _ in range(30)]
    light = [sleep.apply_async(("ollama/x", 0.2), caller="bob") for _ in range(5)]
    asked = [*heavy[10:], *light]

    etas = [lanes.position(result).eta_s for result in asked]
    waits = [result.get(timeout=30) for result in asked]
    errors = sorted(
        abs(sum(eta) / 2 - wait) / wait for eta, wait in zip(etas, waits, strict=True) if eta
    )
    assert len(errors) > 20
    assert errors[len(errors) // 2] < 0.25


def test_a_light_caller_gets_in_where_a_heavy_one_is_refused(make_shop):
    shop = make_shop(rest=ONE_SLOT)
    shop.worker()
    sleep = shop.tasks.sleep
    sleep.apply_async(("ollama/x", 0.3), caller="heavy").get(timeout=20)
    for _ in range(20):
        sleep.apply_async(("ollama/x", 0.3), caller="heavy")

    with pytest.raises(LaneBusy) as refused:
        sleep.apply_async(("ollama/x", 0.3), caller="heavy", max_wait=2)
    light = sleep.apply_async(("ollama/x", 0.3), caller="light", max_wait=2)

    assert refused.value.eta_s > 3
    assert light.get(timeout=20) == "slept"


def test_a_submitted_call_knows_where_it_stands_and_a_refused_one_when_to_come_back(make_shop):
    shop = make_shop(rest=ONE_SLOT)
    shop.worker()
    lanes, sleep = shop.tasks.lanes, shop.tasks.sleep
    first = lanes.submit(sleep.s("ollama/x", 0.3))
    assert first.result.get(timeout=20) == "slept"
    until(lambda: lanes.parts.store.snapshot("ollama").running == 0)
    at_once = lanes.submit(sleep.s("ollama/x", 8).set(caller="heavy"))
    until(lambda: lanes.position(at_once.result).reason is Hold.RUNNING)
    lanes.submit(sleep.s("ollama/x", 0.3).set(caller="heavy"))

    light = lanes.submit(sleep.s("ollama/x", 0.3).set(caller="light"), max_wait=60)
    with pytest.raises(LaneBusy) as refused:
        lanes.submit(sleep.s("ollama/x", 0.3).set(caller="light"), max_wait=0)

    assert (at_once.position.place, at_once.position.reason) == (1, Hold.NOTHING)
    assert at_once.eta_s == (0, 0)
    assert (light.position.own_ahead, light.position.others_ahead) == (0, 1)
    assert light.position.reason is Hold.SHARE
    assert light.eta_s[1] >= 0.3
    assert refused.value.position == 3
    assert refused.value.eta_s == refused.value.retry_after_s >= 0.6
    assert light.result.get(timeout=30) == "slept"


def test_a_call_that_the_broker_brings_is_told_no_place(make_shop):
    shop = make_shop(defaults='intake = "broker"', rest=ONE_SLOT)
    shop.worker()

    submission = shop.tasks.lanes.submit(shop.tasks.echo.s("ollama/x", 7))

    assert (submission.position, submission.eta_s) == (None, None)
    assert submission.result.get(timeout=20) == 7


def test_nobody_listens_for_the_result_of_a_refused_call(make_shop):
    shop = make_shop(rest=ONE_SLOT)
    shop.worker()
    sleep, backend = shop.tasks.sleep, shop.tasks.app.backend
    sleep.apply_async(("ollama/x", 0.3)).get(timeout=20)
    running = sleep.apply_async(("ollama/x", 2))
    until(lambda: shop.tasks.lanes.position(running).reason is Hold.RUNNING)

    with pytest.raises(LaneBusy):
        sleep.apply_async(("ollama/x", 0.1), max_wait=0, task_id="refused")

    listened_for = backend.result_consumer.subscribed_to
    assert any(running.id in str(key) for key in listened_for)
    assert not any("refused" in str(key) for key in listened_for)


def test_what_has_ended_is_in_no_lane(make_shop):
    shop = make_shop()
    shop.worker()
    result = shop.tasks.echo.delay("ollama/x")
    result.get(timeout=20)
    until(lambda: shop.tasks.lanes.parts.store.snapshot("ollama").running == 0)

    with pytest.raises(NotQueued, match=rf"^{result.id} is in no lane"):
        shop.tasks.lanes.position(result)
    with pytest.raises(ConfigError, match="did you mean ollama"):
        shop.tasks.lanes.position(result, lane="olama")


def _celery(shop, *words):
    command = (sys.executable, "-m", "celery", "-A", "tests.integration.shop", "lanes", *words)
    ran = subprocess.run(
        command, cwd=ROOT, env=shop.full_env, capture_output=True, text=True, check=True, timeout=60
    )
    return ran.stdout
