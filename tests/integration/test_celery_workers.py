"""Rows of the table in ``docs/celery.md`` about workers: pools, limits, shutdowns, monitoring."""

from __future__ import annotations

import signal
from datetime import datetime, timedelta, timezone
from importlib.metadata import version

import psutil
import pytest
from celery import chord
from celery.exceptions import (
    ChordError,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from packaging.version import Version

from celery_lanes import CallInfo
from celery_lanes.store.attempts import Reaped
from tests.integration.conftest import listening, running, until, waiting

CELERY = Version(version("celery"))


def test_max_memory_per_child_recycles_processes_under_a_lane(shop):
    shop.worker(options=["--max-memory-per-child=1"])  # KiB: less than any process has

    results = [shop.tasks.process.delay("ollama/x") for _ in range(12)]

    processes = [result.get(timeout=60) for result in results]
    assert len(set(processes)) == 12


def test_eventlet_is_refused_in_one_line(shop):
    with pytest.raises(RuntimeError) as refused:
        shop.worker(pool="eventlet")

    log = str(refused.value)
    assert "celery_lanes: expected the pool to be prefork, threads, gevent or solo, got" in log
    assert "Traceback" not in log


def test_waiting_calls_take_no_place_in_the_prefetch_window(make_shop):
    shop = make_shop(rest="[lanes.ollama]\nmax_concurrent = 1", defaults='intake = "broker"')
    conf = {"worker_prefetch_multiplier": 1, "worker_disable_prefetch": True}
    worker = shop.worker(queues=["plain"], concurrency=2, conf=conf)
    for _ in range(30):
        shop.tasks.sleep.delay("ollama/x", 30)
    until(lambda: (running(shop), waiting(shop)) == (1, 29))

    assert shop.tasks.plain.delay().get(timeout=10) == "plain"
    assert (running(shop), waiting(shop)) == (1, 29)
    worker.kill()  # it would wait for the call that runs


def test_a_lane_call_is_not_granted_into_a_process_that_a_plain_task_has(shop):
    worker = shop.worker(concurrency=1, queues=["plain"])
    plain = shop.tasks.sleep.apply_async(("x", 1), queue="plain")
    worker.wait_for_log("begins to sleep")
    call, seen = shop.tasks.echo.delay("ollama/x", 1), []

    until(lambda: seen.append(running(shop)) or plain.ready())

    assert not any(seen[:-1])  # at the last look the task may have just ended
    assert call.get(timeout=10) == 1


def test_a_body_that_runs_out_of_memory_gives_its_slot_back(make_shop):
    shop = make_shop(lease_ttl="60s")
    worker = shop.worker(concurrency=1)

    call = shop.tasks.exhaust.apply_async(("ollama/x",), caller="alice")

    with pytest.raises(MemoryError) as caught:
        call.get(timeout=10)
    assert CallInfo.from_error(caught.value).caller == "alice"
    worker.wait()  # that is what Celery does: the worker ends
    assert (running(shop), waiting(shop)) == (0, 0)


def test_the_limit_on_etas_in_a_workers_memory_does_not_concern_the_lane(shop):
    shop.worker(conf={"worker_eta_task_limit": 1})
    eta = datetime.now(timezone.utc) + timedelta(seconds=1)

    results = [shop.tasks.echo.apply_async(("ollama/x", n), eta=eta) for n in range(5)]

    assert [result.get(timeout=10) for result in results] == list(range(5))


def test_a_rate_limit_at_run_time_does_not_hold_up_the_lane(shop):
    worker = shop.worker()
    control, name = shop.tasks.app.control, shop.tasks.echo.name
    (reply,) = control.rate_limit(name, "1/h", destination=[worker.name], reply=True, timeout=5)
    assert "ok" in reply[worker.name]

    results = [shop.tasks.echo.delay("ollama/x", n) for n in range(5)]

    assert [result.get(timeout=10) for result in results] == list(range(5))


def test_a_tasks_own_time_limit_goes_before_the_lanes(shop):
    shop.worker(conf={"task_annotations": {shop.tasks.sleep.name: {"time_limit": 1}}})

    with pytest.raises(TimeLimitExceeded):
        shop.tasks.sleep.delay("ollama/x", 60).get(timeout=15)


def test_gevent_stops_a_body_at_its_hard_time_limit(shop):
    worker = shop.worker(pool="gevent")
    result = shop.tasks.sleep.apply_async(("ollama/x", 60), time_limit=1, caller="dave")

    with pytest.raises(TimeLimitExceeded) as caught:
        result.get(timeout=15)

    assert CallInfo.from_error(caught.value).caller == "dave"
    until(lambda: running(shop) == 0)
    worker.kill()  # quicker than its warm stop


def test_gevent_stops_a_body_that_is_revoked(shop):
    worker = shop.worker(pool="gevent")
    result = shop.tasks.sleep.apply_async(("ollama/x", 60), caller="alice")
    worker.wait_for_log("begins to sleep")

    result.revoke(terminate=True)

    with pytest.raises(TaskRevokedError) as caught:
        result.get(timeout=10)
    assert CallInfo.from_error(caught.value).caller == "alice"
    until(lambda: running(shop) == 0)
    worker.kill()  # quicker than its warm stop


def test_gevent_keeps_the_lease_of_a_body_that_never_yields(make_shop):
    shop = make_shop(lease_ttl="3s")
    worker = shop.worker(pool="gevent")
    store = shop.tasks.lanes.parts.store
    call = shop.tasks.spin.delay("ollama/x", 3.5)
    worker.wait_for_log("begins to spin")

    until(lambda: store.reap("ollama") != Reaped() or call.ready())

    assert call.ready()
    worker.kill()  # quicker than its warm stop


def test_a_lost_process_runs_again_if_celery_is_told_so_for_all_tasks(shop):
    shop.worker(conf={"task_acks_late": True, "task_reject_on_worker_lost": True})

    assert shop.tasks.die_once.delay("ollama/x").get(timeout=20) == 2


@pytest.mark.skipif(Version("5.7.0") > CELERY, reason="new in Celery 5.7")
def test_retry_on_worker_lost_publishes_a_new_call_of_the_same_caller(shop):
    conf = {"task_annotations": {"*": {"default_retry_delay": 0}}, "task_acks_late": True}
    shop.worker(conf={**conf, "task_retry_on_worker_lost": True})

    result = shop.tasks.die_once.apply_async(("ollama/x",), caller="alice")

    assert result.get(timeout=20) == 1 + 1  # the first attempt of the first retry
    until(lambda: (running(shop), waiting(shop)) == (0, 0))


@pytest.mark.skipif(CELERY.release < (5, 6), reason="Celery 5.5 drops a timed-out call, too")
def test_a_time_out_runs_again_if_it_is_not_to_be_acknowledged(shop):
    shop.worker()

    result = shop.tasks.too_slow_once.delay("ollama/x")

    end = shop.tasks.app.AsyncResult  # a new one each time: meanwhile FAILURE stands there
    until(lambda: end(result.id).state == "SUCCESS", timeout_s=20)
    assert end(result.id).get() == 2


def test_a_chord_with_a_failed_and_with_a_lost_part_fails_as_in_plain_celery(shop):
    shop.worker()
    tasks = shop.tasks

    failed = chord([tasks.echo.s("ollama/x", 1), tasks.fail.s("ollama/x")], tasks.total.s())()
    lost = chord([tasks.echo.s("ollama/x", 1), tasks.die.s("ollama/x")], tasks.total.s())()

    until(lambda: failed.ready() and lost.ready(), timeout_s=30)
    assert isinstance(failed.result, ChordError)
    assert "boom" in str(failed.result)
    assert isinstance(lost.result, ChordError)
    assert "WorkerLostError" in str(lost.result)


def test_cold_shutdown_ends_early_acknowledged_calls_as_lost(make_shop):
    shop = make_shop(lease_ttl="60s")
    worker = shop.worker()
    result = shop.tasks.sleep.apply_async(("ollama/x", 60), caller="alice")
    worker.wait_for_log("begins to sleep")

    worker.signal(signal.SIGQUIT)
    worker.wait()
    shop.worker()

    with pytest.raises(WorkerLostError) as caught:
        result.get(timeout=15)
    assert CallInfo.from_error(caught.value).caller == "alice"


@pytest.mark.parametrize("kind", ["early", "late"])
def test_cold_shutdown_stops_a_call_whose_beginning_it_has_not_heard(unheard, observer, kind):
    observer.service = 30
    shop, worker, process, result = unheard(
        lambda tasks: tasks.ask if kind == "early" else tasks.ask_late, observer.url
    )
    process.resume()
    observer.wait_until(lambda: observer.inside == 1)

    worker.signal(signal.SIGQUIT)
    worker.signal(signal.SIGCONT)
    observer.wait_until(lambda: observer.inside == 0, timeout_s=5)
    worker.wait()
    observer.service = 0
    shop.worker()

    if kind == "late":
        assert result.get(timeout=15) == ""  # it ran again
    else:
        with pytest.raises(WorkerLostError):
            result.get(timeout=15)
    assert [record.status for record in observer.log] == [None, 200][: 1 + (kind == "late")]


def test_cold_shutdown_gives_a_call_back_that_its_process_has_not_read(unheard):
    shop, worker, process, result = unheard(lambda tasks: tasks.sleep_late, 0)

    worker.signal(signal.SIGQUIT)
    worker.signal(signal.SIGCONT)
    worker.wait_for_log("Hitting Ctrl+C again")
    process.resume()
    worker.wait()
    shop.worker()

    assert result.get(timeout=15) == "slept"


def test_cold_shutdown_leaves_a_call_be_that_has_ended_unheard(unheard):
    shop, worker, process, _ = unheard(lambda tasks: tasks.mark, "ran")
    process.resume()
    until(lambda: shop.tasks.marked() == ["ran"])

    worker.signal(signal.SIGQUIT)
    worker.signal(signal.SIGCONT)
    worker.wait()

    left = shop.tasks.lanes.parts.store.snapshot("ollama")
    assert (left.running, left.waiting, left.closing) == (0, 0, 0)


@pytest.fixture
def unheard(make_shop):
    """Make a paused worker whose paused process has been sent a call and has not read it."""

    def make(task_of, *args):
        shop = make_shop(lease_ttl="60s")
        worker = shop.worker(concurrency=1)
        assert shop.tasks.echo.delay("ollama/x", 1).get(timeout=10) == 1
        until(lambda: running(shop) == 0)  # so the process is up, and idle
        (process,) = psutil.Process(worker.pid).children()
        process.suspend()
        result = task_of(shop.tasks).delay("ollama/x", *args)
        worker.wait_for_log("received", times=2)
        worker.signal(signal.SIGSTOP)
        return shop, worker, process, result

    return make


def test_soft_shutdown_waits_for_what_ends_in_time_and_gives_the_rest_back(make_shop):
    shop = make_shop(lease_ttl="60s")
    worker = shop.worker(conf={"worker_soft_shutdown_timeout": 3})
    short = shop.tasks.sleep_late.delay("ollama/x", 1)
    long = shop.tasks.sleep_late.delay("ollama/x", 8)
    worker.wait_for_log("begins to sleep", times=2)

    worker.signal(signal.SIGQUIT)
    assert short.get(timeout=10) == "slept"
    worker.wait()

    assert (running(shop), waiting(shop)) == (0, 1)
    other = shop.worker()
    assert long.get(timeout=20) == "slept"
    assert other.log().count("begins to sleep") == 1
    assert worker.log().count("begins to sleep") == 2


def test_a_worker_in_soft_shutdown_takes_no_calls_that_others_could_run(make_shop):
    shop = make_shop(rest="[lanes.ollama]\nmax_concurrent = 4")
    worker = shop.worker(concurrency=4, conf={"worker_soft_shutdown_timeout": 60})
    shop.tasks.sleep_late.delay("ollama/x", 60)
    worker.wait_for_log("begins to sleep")
    shop.worker(concurrency=4)

    worker.signal(signal.SIGQUIT)
    worker.wait_for_log("Soft Shutdown")
    results = [shop.tasks.echo.delay("ollama/x", n) for n in range(40)]

    assert [result.get(timeout=10) for result in results] == list(range(40))
    worker.kill()


def test_events_and_inspect_show_a_lane_call_as_any_other(shop):
    worker = shop.worker(options=["-E"])
    tasks, kinds = shop.tasks, ("task-received", "task-started", "task-succeeded")
    seen = []

    with listening(tasks.app, "*", seen):
        until(lambda: seen)  # a heartbeat: the subscription has begun
        call = tasks.sleep.delay("ollama/x", 2)
        until(lambda: running(shop) == 1)
        (active,) = tasks.app.control.inspect([worker.name], timeout=5).active()[worker.name]
        call.get(timeout=10)
        until(lambda: [e["type"] for e in seen if e.get("uuid") == call.id] == list(kinds))

    assert active["id"] == call.id


def test_a_tasks_handlers_and_its_own_request_class_are_called(shop):
    shop.worker()

    shop.tasks.handled.delay("ollama/x").get(timeout=15)

    until(lambda: len(shop.tasks.marked()) == 3)
    assert sorted(shop.tasks.marked()) == ["after", "before", "request"]
