"""One test for each row of the table in ``docs/celery.md``: a Celery feature, in a lane."""

from __future__ import annotations

import signal
from datetime import datetime, timedelta, timezone

import psutil
import pytest
from celery.exceptions import (
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from redis import Redis

from celery_lanes import CallInfo, call_context
from celery_lanes.cli.dead import retry
from tests.integration.conftest import running, until, waiting


def test_expires_a_call_that_waited_too_long_is_revoked_as_expired(make_shop):
    shop = make_shop(rest="[lanes.ollama]\nmax_concurrent = 1")
    shop.worker()
    first = shop.tasks.sleep.delay("ollama/x", 1.5)
    until(lambda: running(shop) == 1)

    late = shop.tasks.echo.apply_async(("ollama/x", 1), expires=0.5)

    assert first.get(timeout=10) == "slept"
    with pytest.raises(TaskRevokedError, match="expired"):
        late.get(timeout=10)


def test_revoke_a_waiting_call_never_runs(make_shop):
    shop = make_shop(rest="[lanes.ollama]\nmax_concurrent = 1")
    shop.worker()
    first = shop.tasks.sleep.delay("ollama/x", 1.0)
    until(lambda: running(shop) == 1)
    second = shop.tasks.echo.delay("ollama/x", 1)

    second.revoke()

    assert first.get(timeout=10) == "slept"
    with pytest.raises(TaskRevokedError, match=r"revoked|cancelled"):  # by who was faster
        second.get(timeout=10)
    until(lambda: running(shop) == 0)


def test_revoke_terminate_stops_a_running_call_and_frees_its_slot(shop):
    worker = shop.worker()
    with call_context(caller="alice"):
        result = shop.tasks.sleep.delay("ollama/x", 60)
    worker.wait_for_log("begins to sleep")

    result.revoke(terminate=True)

    with pytest.raises(TaskRevokedError) as caught:
        result.get(timeout=10)
    assert CallInfo.from_error(caught.value).caller == "alice"
    until(lambda: running(shop) == 0)
    assert shop.tasks.echo.delay("ollama/x", 2).get(timeout=10) == 2


def test_time_limits_are_the_lanes_unless_the_message_has_its_own(make_shop):
    shop = make_shop(defaults='exec_timeout = "20s"\nhard_timeout = "30s"')
    shop.worker()

    seen = shop.tasks.whose.delay("ollama/x").get(timeout=10)
    own = shop.tasks.whose.apply_async(("ollama/x",), soft_time_limit=7).get(timeout=10)

    assert seen["timelimit"] == [30.0, 20.0]
    assert own["timelimit"] == [None, 7]


def test_soft_limit_raises_in_the_body_from_the_moment_of_execution(make_shop):
    shop = make_shop(defaults='exec_timeout = "1s"', rest="[lanes.ollama]\nmax_concurrent = 1")
    shop.worker()

    first = shop.tasks.sleep.delay("ollama/x", 0.8)
    second = shop.tasks.sleep.delay("ollama/x", 0.8)
    third = shop.tasks.sleep.apply_async(("ollama/x", 30), caller="carol")

    assert [first.get(timeout=10), second.get(timeout=10)] == ["slept", "slept"]
    with pytest.raises(SoftTimeLimitExceeded) as caught:
        third.get(timeout=10)
    assert CallInfo.from_error(caught.value).caller == "carol"


def test_hard_limit_kills_the_body_and_says_whose_call_it_was(shop):
    shop.worker()
    result = shop.tasks.sleep.apply_async(("ollama/x", 30), time_limit=1, caller="dave")

    with pytest.raises(TimeLimitExceeded) as caught:
        result.get(timeout=15)

    assert CallInfo.from_error(caught.value).caller == "dave"
    until(lambda: running(shop) == 0)


def test_a_lost_process_fails_an_early_acknowledged_call(shop):
    shop.worker()
    result = shop.tasks.die.apply_async(("ollama/x",), caller="erin")

    with pytest.raises(WorkerLostError) as caught:
        result.get(timeout=20)

    assert CallInfo.from_error(caught.value).caller == "erin"


def test_reject_on_worker_lost_goes_back_and_is_a_dead_letter_at_last(make_shop):
    shop = make_shop(defaults="max_leases = 2")
    shop.worker()

    result = shop.tasks.die_late.apply_async(("ollama/x",), caller="erin")

    with pytest.raises(WorkerLostError) as caught:
        result.get(timeout=40)
    assert CallInfo.from_error(caught.value).caller == "erin"
    until(lambda: shop.tasks.lanes.parts.store.snapshot("ollama").dead == 1)


def test_a_dead_letter_that_is_tried_again_ends_with_its_result(make_shop, observer):
    shop, observer.service = make_shop(defaults="max_leases = 1"), 60
    worker = shop.worker(concurrency=1)
    result = shop.tasks.ask_late.apply_async(("ollama/x", observer.url), caller="erin")
    observer.wait_until(lambda: observer.inside == 1)
    psutil.Process(worker.pid).children()[0].kill()
    with pytest.raises(WorkerLostError):
        result.get(timeout=20)
    until(lambda: shop.tasks.lanes.parts.store.snapshot("ollama").dead == 1)
    observer.service = 0

    retry(shop.tasks.lanes, "ollama", result.id)

    end = shop.tasks.app.AsyncResult  # a new one each time: the old one keeps its failure
    until(lambda: end(result.id).state == "SUCCESS")
    assert shop.tasks.lanes.parts.store.snapshot("ollama").dead == 0


def test_reject_and_ignore_settle_the_call(shop):
    shop.worker()

    shop.tasks.refuse.delay("ollama/x")
    shop.tasks.ignore.delay("ollama/x")

    assert shop.tasks.echo.delay("ollama/x", 1).get(timeout=10) == 1
    until(lambda: (running(shop), waiting(shop)) == (0, 0))


def test_max_tasks_per_child_recycles_processes_under_a_lane(shop):
    shop.worker(options=["--max-tasks-per-child=1"])

    results = [shop.tasks.echo.delay("ollama/x", n) for n in range(20)]

    assert [result.get(timeout=30) for result in results] == list(range(20))


def test_autoscale_grows_for_waiting_calls(make_shop, observer):
    shop = make_shop(rest="[lanes.ollama]\nmax_concurrent = 4")
    shop.worker(options=["--autoscale=4,1"])
    observer.service = 0.3

    results = [shop.tasks.ask.delay("ollama/x", observer.url) for _ in range(40)]
    for result in results:
        result.get(timeout=60)

    assert observer.highest == 4


def test_pool_restart_keeps_the_cap(make_shop, observer):
    shop = make_shop(rest="[lanes.ollama]\nmax_concurrent = 2", defaults='intake = "broker"')
    worker = shop.worker(concurrency=4, conf={"worker_pool_restarts": True})
    observer.service = 0.05
    assert shop.tasks.echo.delay("ollama/x", 1).get(timeout=10) == 1

    shop.tasks.app.control.pool_restart(destination=[worker.name], reply=True, timeout=5)

    def two_at_once() -> bool:
        """An old process may keep a call for some seconds before Celery takes it out again."""
        results = [shop.tasks.ask.delay("ollama/x", observer.url) for _ in range(20)]
        for result in results:
            result.get(timeout=30)
        return observer.highest >= 2

    until(two_at_once)
    assert observer.highest == 2


def test_cancel_consumer_stops_the_lane_and_add_consumer_opens_it_again(shop):
    worker = shop.worker()
    control, queue = shop.tasks.app.control, shop.queue("ollama")
    assert shop.tasks.echo.delay("ollama/x", 1).get(timeout=10) == 1

    control.cancel_consumer(queue, destination=[worker.name], reply=True, timeout=5)
    result = shop.tasks.echo.delay("ollama/x", 2)
    plain = shop.tasks.app.control.ping(destination=[worker.name], timeout=3)
    until(lambda: waiting(shop) == 1)  # one that was asked for before goes back
    assert (result.state, len(plain)) == ("PENDING", 1)

    control.add_consumer(queue, destination=[worker.name], reply=True, timeout=5)
    assert result.get(timeout=10) == 2


def test_warm_shutdown_finishes_what_runs_and_leaves_what_waits(make_shop):
    shop = make_shop(rest="[lanes.ollama]\nmax_concurrent = 2")
    worker = shop.worker()
    first = [shop.tasks.sleep.delay("ollama/x", 1.0) for _ in range(2)]
    worker.wait_for_log("begins to sleep", times=2)
    last = shop.tasks.echo.delay("ollama/x", 3)

    worker.signal(signal.SIGTERM)
    worker.wait()

    assert [result.get(timeout=5) for result in first] == ["slept", "slept"]
    assert (running(shop), waiting(shop), last.state) == (0, 1, "PENDING")
    shop.worker()
    assert last.get(timeout=10) == 3


def test_cold_shutdown_gives_late_acknowledged_calls_back_at_once(make_shop):
    shop = make_shop(lease_ttl="60s")
    worker = shop.worker()
    result = shop.tasks.sleep_late.delay("ollama/x", 5)
    worker.wait_for_log("begins to sleep")

    worker.signal(signal.SIGQUIT)
    worker.wait()

    assert (running(shop), waiting(shop)) == (0, 1)
    shop.worker()
    assert result.get(timeout=15) == "slept"


def test_a_killed_worker_loses_nothing(make_shop, observer):
    shop = make_shop(lease_ttl="3s", rest="[lanes.ollama]\nmax_concurrent = 4")
    observer.service = 0.3
    victim = shop.worker(concurrency=4)
    results = [shop.tasks.ask_late.delay("ollama/x", observer.url, str(n)) for n in range(104)]
    until(lambda: running(shop) == 4)
    shop.worker(concurrency=4)

    victim.kill()

    for result in results:
        result.get(timeout=60)
    assert observer.highest <= 4


def test_a_killed_worker_closes_early_acknowledged_calls_as_lost(make_shop):
    shop = make_shop(lease_ttl="3s")
    victim = shop.worker()
    result = shop.tasks.sleep.apply_async(("ollama/x", 60), caller="frank")
    until(lambda: running(shop) == 1)

    victim.kill()
    shop.worker()

    with pytest.raises(WorkerLostError) as caught:
        result.get(timeout=20)
    assert CallInfo.from_error(caught.value).caller == "frank"


def test_an_eta_far_away_stays_in_the_store(shop):
    shop.worker()
    eta = datetime.now(timezone.utc) + timedelta(hours=1)

    shop.tasks.echo.apply_async(("ollama/x", 1), eta=eta)

    assert shop.tasks.lanes.parts.store.snapshot("ollama").delayed == 1
    assert shop.tasks.app.control.inspect(timeout=2).scheduled() in ({}, None) or not any(
        shop.tasks.app.control.inspect(timeout=2).scheduled().values()
    )


@pytest.mark.parametrize("intake", ["store", "broker"])
def test_serializers_and_compression_pass_through(make_shop, intake):
    shop = make_shop(defaults=f'intake = "{intake}"')
    accepted = ["json", "pickle", "msgpack", "yaml"]
    shop.worker(pool="threads", conf={"accept_content": accepted}, env={"C_FORCE_ROOT": "1"})
    kinds = [(serializer, compression) for serializer in accepted for compression in (None, "zlib")]

    results = {
        (serializer, compression): shop.tasks.echo.apply_async(
            ("ollama/x", ["ä", 1.5]), serializer=serializer, compression=compression
        )
        for serializer, compression in kinds
    }

    got = {kind: result.get(timeout=15) for kind, result in results.items()}
    assert got == {key: ["ä", 1.5] for key in kinds}


@pytest.mark.parametrize("intake", ["store", "broker"])
def test_protocol_1_messages_are_understood(make_shop, intake):
    shop = make_shop(defaults=f'intake = "{intake}"')
    shop.worker()
    shop.tasks.app.conf.task_protocol = 1

    assert shop.tasks.echo.apply_async(("ollama/x", 1), countdown=0.2).get(timeout=15) == 1


def test_a_broker_reconnect_neither_loses_nor_doubles_a_running_call(make_shop, valkey, observer):
    shop = make_shop()
    worker = shop.worker(conf={"worker_cancel_long_running_tasks_on_connection_loss": True})
    observer.service = 2.0
    result = shop.tasks.ask_late.delay("ollama/x", observer.url, "hi")
    until(lambda: observer.highest == 1)

    Redis.from_url(valkey.url(0)).client_kill_filter(_type="normal", skipme=True)
    worker.wait_for_log("Connection to broker lost")

    assert result.get(timeout=20)
    assert [record.status for record in observer.log] == [200]  # nor was one cut off and repeated
    assert "Terminating it" not in worker.log()  # Celery does so, and says so, with its own
    assert "reducing the prefetch count" not in worker.log()


def test_a_rate_limit_on_a_lane_task_is_refused_at_start(shop):
    with pytest.raises(RuntimeError, match="rate_limit"):
        shop.worker(conf={"task_annotations": {"*": {"rate_limit": "10/m"}}})


def test_a_task_whose_priority_is_none_is_refused_at_start(shop):
    with pytest.raises(RuntimeError, match="expected lane_priority of task"):
        shop.worker(conf={"task_annotations": {"*": {"lane_priority": "high"}}})


def test_a_call_that_its_process_has_not_accepted_yet_survives_a_broker_reconnect(
    shop, valkey, observer
):
    worker = shop.worker(concurrency=1)
    assert shop.tasks.echo.delay("ollama/x", 1).get(timeout=10) == 1
    until(lambda: running(shop) == 0)  # so the process is up, and idle
    (process,) = psutil.Process(worker.pid).children()
    process.suspend()  # it accepts nothing: the job stands in its pipe
    result = shop.tasks.ask_late.delay("ollama/x", observer.url, "hi")
    worker.wait_for_log("received", times=2)

    Redis.from_url(valkey.url(0)).client_kill_filter(_type="normal", skipme=True)
    worker.wait_for_log("Connected to", times=2)
    process.resume()

    assert result.get(timeout=20)
    until(lambda: running(shop) == 0)
    assert observer.served == 1


def test_acks_on_failure_false_drops_a_failed_call_as_in_plain_celery(shop):
    shop.worker()

    result = shop.tasks.fail_dropped.delay("ollama/x")

    with pytest.raises(ValueError, match="dropped"):
        result.get(timeout=10)
    until(lambda: (running(shop), waiting(shop)) == (0, 0))


def test_reject_with_requeue_goes_back_and_runs_again(shop):
    shop.worker()

    assert shop.tasks.refuse_once.delay("ollama/x").get(timeout=10) == [2, True]


def test_lanes_that_are_off_let_everything_pass_with_attribution(make_shop):
    shop = make_shop()
    shop.config.write_text("enabled = false\n")
    shop.worker("none", queues=["plain"])

    seen = shop.tasks.whose.apply_async(("ollama/x",), caller="alice").get(timeout=10)

    assert (seen["caller"], seen["lane"]) == ("alice", "")
