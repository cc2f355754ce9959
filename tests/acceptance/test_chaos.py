"""``celery-lanes chaos``: its plan, what it makes of its records, and a run as a user starts it."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry
from rich.console import Console

from celery_lanes.chaos.clock import Clock
from celery_lanes.chaos.evidence import Evidence
from celery_lanes.chaos.faults import Havoc, Struck
from celery_lanes.chaos.figures import Figures
from celery_lanes.chaos.load import Published, Shape, accepted_ids, planned_load, read_published
from celery_lanes.chaos.observer import RESULT_KEY, End, Run
from celery_lanes.chaos.options import ChaosOptions
from celery_lanes.chaos.overlaps import GRACE_S
from celery_lanes.chaos.plan import Fault, Kind, counts, offsets_s, planned
from celery_lanes.chaos.promises import breaches
from celery_lanes.chaos.report import lines
from celery_lanes.chaos.run import conclude
from celery_lanes.chaos.server import address, through
from celery_lanes.chaos.staff import Gone, Staff, is_kombus
from celery_lanes.chaos.stage import staged
from celery_lanes.errors import ConfigError
from celery_lanes.testing.embedded import EmbeddedValkey
from celery_lanes.testing.proxy import Proxy
from tests import services
from tests.waiting import until

ROOT = Path(__file__).parents[2]
OPTIONS = ChaosOptions(cap=2, lease_ttl_s=5.0)
HOUR_S = 3600


# -- the plan and the load -------------------------------------------------------------------------


def test_a_seed_gives_the_same_plan_and_load_again():
    one, same, other = (ChaosOptions(minutes=3, seed=seed) for seed in (7, 7, 8))

    assert planned(one) == planned(same) != planned(other)
    assert planned_load(one) == planned_load(same) != planned_load(other)


def test_the_plan_has_as_many_faults_as_asked_for_in_order():
    plan = planned(ChaosOptions(minutes=1, kills=9, store_restarts=3, broker_restarts=0))

    kinds = [fault.kind for fault in plan]
    assert (kinds.count(Kind.KILL), kinds.count(Kind.STORE_RESTART)) == (9, 3)
    assert Kind.BROKER_RESTART not in kinds
    assert [fault.at_s for fault in plan] == sorted(fault.at_s for fault in plan)


def test_a_users_own_server_is_cut_off_but_never_restarted():
    planned_counts = counts(ChaosOptions(store="redis://box/0", broker="redis://box/1"))

    assert not {Kind.STORE_RESTART, Kind.BROKER_RESTART} & planned_counts.keys()
    assert {Kind.STORE_CUT, Kind.BROKER_CUT} <= planned_counts.keys()
    with pytest.raises(ConfigError, match="your own store is only cut off"):
        ChaosOptions(store="redis://box/0", store_restarts=1)


def test_a_rabbitmq_of_the_runs_own_is_restarted():
    options = ChaosOptions(store="redis://box/0", broker="rabbitmq", broker_restarts=3)

    assert options.outside == {"store": "redis://box/0"}
    assert counts(options)[Kind.BROKER_RESTART] == 3
    assert Kind.BROKER_RESTART in counts(replace(options, broker_restarts=None))


def test_pauses_outlive_a_lease():
    pauses = {Kind.PAUSE, Kind.PAUSE_CHILD}
    plan = planned(ChaosOptions(pauses=20, lease_ttl_s=7))

    assert all(fault.for_s > 7 for fault in plan if fault.kind in pauses)


def test_a_seed_sets_the_same_clocks_wrong_again_within_their_bound():
    one, same, other = (ChaosOptions(skew_s=9, seed=seed) for seed in (7, 7, 8))

    first, again, others, neighbours = (
        list(islice(offsets_s(options, worker), 50))
        for options, worker in [(one, 0), (same, 0), (other, 0), (one, 1)]
    )
    jumps = [fault.offset_s for fault in planned(one) if fault.kind is Kind.CLOCK_JUMP]
    assert first == again
    assert first != others
    assert first != neighbours
    assert len(jumps) == 4
    assert all(0 < abs(offset_s) <= 9 for offset_s in [*first, *jumps])


def test_a_skew_of_nothing_leaves_all_clocks_true():
    options = ChaosOptions(skew_s=0)

    assert set(islice(offsets_s(options, 0), 50)) == {0}
    assert Kind.CLOCK_JUMP not in counts(options)
    with pytest.raises(ConfigError, match="expected no jumps of true clocks"):
        ChaosOptions(skew_s=0, jumps=1)


def test_the_load_brings_as_many_messages_as_asked_for():
    load = planned_load(ChaosOptions(calls=500))

    assert sum(item.shape.messages for item in load) == 500
    assert {item.shape for item in load} >= set(Shape) - {Shape.LONG}


def test_a_producer_that_was_killed_has_told_what_it_knew(tmp_path):
    told = Published(3, Shape.LATE, "bob", ("a",), 1.5)
    file = tmp_path / "published"
    file.write_text(told.to_line() + told.to_line()[:20])

    assert read_published(file) == [told]


@pytest.mark.parametrize(
    ("url", "host", "led"),
    [
        ("redis://:pw@box:7000/2", ("box", 7000), "redis://:pw@127.0.0.1:9/2"),
        ("amqp://guest:guest@rabbit//", ("rabbit", 5672), "amqp://guest:guest@127.0.0.1:9//"),
    ],
    ids=["redis", "amqp"],
)
def test_a_url_leads_through_the_proxy(url, host, led):
    assert (address(url), through(9, url)) == (host, led)


def test_what_no_proxy_can_stand_before_is_refused():
    with pytest.raises(ConfigError, match="expected one host"):
        address("sentinel://a:26379;b:26379/0")


# -- the faults -----------------------------------------------------------------------------------


class SlowServer:
    """A server that answers some looks after it has been started again."""

    name = "broker"

    def __init__(self):
        self.looks_until_up = 0

    def take_down(self, *, is_hard):
        self.looks_until_up = 3

    def bring_up(self):
        pass

    def is_up(self):
        self.looks_until_up -= 1
        return self.looks_until_up <= 0


def havoc_at(server, *plan):
    return Havoc(plan, None, {server.name: server}, None, None)


def test_a_restart_lasts_until_the_server_answers_and_the_next_one_waits():
    first, second = (Fault(at_s, Kind.BROKER_RESTART, for_s=2.0) for at_s in (0.0, 1.0))
    havoc = havoc_at(SlowServer(), first, second)

    for now_s in range(10, 15):
        assert (havoc.left, havoc.journal) == (2 if now_s == 10 else 1, [])
        havoc.tick(float(now_s), now_s - 10.0)

    assert havoc.left == 0
    assert havoc.journal == [Struck(Kind.BROKER_RESTART, 10.0, 14.0)]


def test_it_is_calm_when_every_server_answers_again():
    havoc = havoc_at(SlowServer(), *[Fault(0.0, Kind.BROKER_RESTART, for_s=60.0)] * 2)
    havoc.tick(10.0, 0.0)

    assert [havoc.calm(now_s) for now_s in (11.0, 12.0, 13.0)] == [False, False, True]

    assert havoc.left == 0
    assert havoc.journal == [Struck(Kind.BROKER_RESTART, 10.0, 13.0)]


# -- what is made of the records -------------------------------------------------------------------


def run(body, start_s, end_s, **more):
    usual = {"call": body, "task_id": f"t-{body}", "task": "late", "attempt": 1, "worker": "w1"}
    known = {**usual, "caller": "heavy", "pid": 1, **more}
    return Run(body=body, root_id=known["task_id"], start_s=start_s, end_s=end_s, **known)


def published(*runs, shape=Shape.LATE):
    ids = list(dict.fromkeys(each.task_id for each in runs))
    return tuple(
        Published(number, shape, "heavy", (task_id,), 0.0) for number, task_id in enumerate(ids)
    )


def ends(*runs):
    ids = dict.fromkeys(each.task_id for each in runs)
    return tuple(End(task_id, 100.0, "SUCCESS", "1") for task_id in ids)


def evidence(*runs, **more):
    written = more.get("ends", ends(*runs))
    usual = {
        "published": published(*runs),
        "runs": runs,
        "ends": written,
        "stored": {end.task_id: end for end in written},
        "journal": (),
        "elapsed_s": 10.0,
    }
    return Evidence(**{**usual, **more})


A, B, C = run("a", 0, 10), run("b", 1, 9), run("c", 2, 8)
AGAIN = run("a2", 20, 30, call="a", task_id="t-a", attempt=2, worker="w2")
KILLED = replace(A, end_s=5.01, is_answered=False)
KILL = Struck(Kind.KILL, 5.0, 5.0, "w1")
PAUSE = Struck(Kind.PAUSE, 5.0, 15.0, "w1")
LOST = End("t-a", 100.0, "FAILURE", "WorkerLostError")

KEPT = {
    "nothing-happened": evidence(A, B),
    "as-many-as-the-cap": evidence(A, B, run("c", 10, 12)),
    "again-after-a-kill": evidence(KILLED, replace(AGAIN, start_s=10.5, end_s=11), journal=(KILL,)),
    "early-call-lost": evidence(
        replace(KILLED, task="early"),
        published=published(A, shape=Shape.EARLY),
        ends=(replace(LOST, at_s=10.0),),
        journal=(KILL,),
    ),
    "stopped-body-does-nothing": evidence(
        replace(A, end_s=15.5), replace(AGAIN, start_s=11, end_s=15.2), journal=(PAUSE,)
    ),
    "begun-when-woken-and-stopped-at-once": evidence(
        replace(A, start_s=15.01, end_s=15.1),
        replace(AGAIN, start_s=11, end_s=15.2),
        journal=(PAUSE,),
    ),
    "refused-and-never-run": evidence(
        A, published=(*published(A), Published(9, Shape.LATE, "bob", (), 0.0, "away"))
    ),
    "chain-ends-at-a-dead-letter": evidence(
        A,
        published=(Published(0, Shape.CHAIN, "bob", ("t-a", "t-b"), 0.0),),
        ends=(End("t-a", 1.0, "FAILURE", "WorkerLostError: is a dead letter now"),),
    ),
    "kombus-own-end": evidence(A, gone=(Gone("w1", 1.0, 1, True, ""),)),
}

BROKEN = {
    "lost": (evidence(A, B, ends=ends(A)), "lost: 1 accepted calls"),
    "failed": (
        evidence(A, ends=(End("t-a", 1.0, "FAILURE", "ValueError"),)),
        "failed: 1 calls ended with an error",
    ),
    "late-call-lost": (evidence(A, ends=(LOST,)), "failed: 1 calls"),
    "over-cap": (evidence(A, B, C), "over cap: highest 3 of 2, 6.00 s over"),
    "twice-at-once": (
        evidence(A, replace(AGAIN, start_s=9), journal=(KILL,)),
        "twice at once: 1 calls",
    ),
    "body-outlived-its-pause": (
        evidence(
            replace(A, end_s=15 + GRACE_S + 0.2),
            replace(AGAIN, start_s=11, end_s=12),
            journal=(PAUSE,),
        ),
        "bodies that went on after a pause: 1, at most 1.70 s",
    ),
    "ran-again": (evidence(A, AGAIN), "duplicates: 1 calls ran again"),
    "ran-again-after-another-workers-kill": (
        evidence(A, AGAIN, journal=(replace(KILL, worker="w3"),)),
        "duplicates: 1 calls",
    ),
    "ran-again-after-a-cut": (
        evidence(A, AGAIN, journal=(Struck(Kind.BROKER_CUT, 5.0, 6.0),)),
        "duplicates: 1 calls",
    ),
    "early-ran-again": (
        evidence(
            *(replace(each, task="early") for each in (A, AGAIN)),
            journal=(KILL,),
        ),
        "duplicates: 1 calls",
    ),
    "published-twice": (
        evidence(A, replace(AGAIN, call="other", attempt=1)),
        "duplicates: 1 calls",
    ),
    "changed": (
        evidence(A, ends=(LOST, *ends(A))),
        "results changed: 1 tasks",
    ),
    "early-ended-again": (
        evidence(A, published=published(A, shape=Shape.EARLY), ends=2 * ends(A)),
        "ended again: 1 early calls",
    ),
    "late-recovery": (
        evidence(KILLED, AGAIN, journal=(KILL,)),
        "recovery: 1: p50 15.0 s",
    ),
    "not-drained": (evidence(A, pending=("3 running",)), "drain: not yet after 0.0 s"),
    "left": (evidence(A, left=("callers in tags: bob",)), "left in the store: callers in tags"),
    "ended-by-itself": (
        evidence(A, gone=(Gone("w1", 1.0, 1, False, ""),)),
        "workers that ended by themselves: 1, 0 of them",
    ),
}


@pytest.mark.parametrize("seen", KEPT.values(), ids=KEPT)
def test_a_fault_that_explains_it_is_no_breach(seen):
    assert breaches(Figures(seen, OPTIONS), OPTIONS) == []


@pytest.mark.parametrize(("seen", "line"), BROKEN.values(), ids=BROKEN)
def test_a_broken_promise_is_said_and_ends_with_1(seen, line, tmp_path):
    console = Console(file=io.StringIO(), width=200)
    options = replace(OPTIONS, json=tmp_path / "report.json")

    code = conclude(seen, options, console)

    told = [each for each in console.file.getvalue().splitlines() if "BREACH" in each]
    written = json.loads(options.json.read_text())
    assert code == 1
    assert len(told) == 1
    assert line in told[0]
    assert [line in breach for breach in written["breaches"]] == [True]


def test_a_body_that_outlives_its_pause_beside_another_attempt_is_at_work_twice():
    seen = evidence(
        replace(A, end_s=15 + GRACE_S + 0.2), replace(AGAIN, start_s=11), journal=(PAUSE,)
    )

    assert Figures(seen, OPTIONS).twice_at_once == 1


@pytest.mark.parametrize(
    ("outages", "net_s"),
    [
        ([Struck(Kind.STORE_CUT, 6.0, 14.0)], 7.0),
        ([Struck(Kind.BROKER_CUT, 6.0, 14.0)], 3.0),  # Celery asks again 12 s after the loss
        ([Struck(Kind.STORE_CUT, 6.0, 14.0), Struck(Kind.BROKER_CUT, 10.0, 11.5)], 7.0),
        ([Struck(Kind.STORE_LOSS, 6.0, 14.0)], 15.0),
    ],
    ids=["store", "broker", "both-at-once", "only-answers"],
)
def test_outages_do_not_count_as_recovery(outages, net_s):
    shown = Figures(evidence(KILLED, AGAIN, journal=(KILL, *outages)), OPTIONS)

    assert shown.recovery.p95_s == pytest.approx(15.0)
    assert shown.net_recovery.p95_s == pytest.approx(net_s)


def test_the_time_in_which_no_worker_is_there_does_not_count_as_recovery():
    seen = evidence(KILLED, AGAIN, journal=(KILL,), deserted=((0.0, 2.0), (6.0, 14.0)))

    shown = Figures(seen, OPTIONS)

    assert (shown.recovery.p95_s, shown.net_recovery.p95_s) == pytest.approx((15.0, 7.0))


def test_it_is_noted_when_no_worker_is_there():
    first, second = SimpleNamespace(is_up=True), SimpleNamespace(is_up=True)
    staff = Staff([first, second])
    staff._see_to = lambda *_: None

    for now_s, are_up in enumerate([(1, 1), (0, 1), (0, 0), (0, 0), (1, 0), (0, 0)]):
        first.is_up, second.is_up = are_up
        staff.tick(float(now_s))

    assert staff.deserted == [(2.0, 3.0), (5.0, 5.0)]


def test_wrong_clocks_are_told_and_explain_nothing():
    jumps = tuple(Struck(Kind.CLOCK_JUMP, 5.0, 5.0, "w1", by_s) for by_s in (7.0, -41.5))
    seen = evidence(A, AGAIN, journal=jumps, started_off_s=(0.0, 12.0, -28.25))

    shown = lines(Figures(seen, OPTIONS), OPTIONS)
    assert [line for line in shown if "clock" in line] == [
        "worker's clock jumped                     2 times",
        "workers that started with a wrong clock   2, at most 28.2 s off",
        "longest jump of a worker's clock          41.5 s",
    ]
    assert "  BREACH  duplicates: 1 calls ran again though no fault explains it" in shown


def test_shares_count_only_while_all_callers_wait():
    told, runs = [], []
    for number in range(400):
        caller = "alice" if number % 4 else "heavy"  # served three to one
        told.append(Published(number, Shape.LATE, caller, (f"t-{number}",), 0.0))
        runs.append(run(str(number), 1 + number / 100, 1 + number / 100, caller=caller))
    told.append(Published(400, Shape.LATE, "heavy", ("t-400",), 0.0))
    runs.append(run("400", 100, 101))

    shown = Figures(evidence(*runs, published=tuple(told)), OPTIONS)

    assert shown.jain == pytest.approx(0.8, abs=0.01)
    assert "unfair: Jain's index 0.80" in breaches(shown, OPTIONS)[0]


@pytest.mark.parametrize(
    ("innermost", "is_his"),
    [
        ("/x/site-packages/kombu/transport/virtual/base.py", True),
        ("/x/site-packages/celery/worker/loops.py", False),
        ("/x/celery_lanes/worker/agent.py", False),
    ],
    ids=["kombu", "celery", "lanes"],
)
def test_whose_error_ended_a_worker_is_told_by_its_innermost_frame(innermost, is_his):
    trace = f'Traceback\n  File "/x/celery_lanes/a.py", line 1\n  File "{innermost}", line 2'

    assert is_kombus(trace) is is_his


# -- the proxy -------------------------------------------------------------------------------------


def client_of(proxy):
    return Redis(port=proxy.port, retry=Retry(NoBackoff(), 0), socket_timeout=5)


def test_a_request_whose_answer_is_lost_was_executed_and_the_next_one_is_answered():
    with EmbeddedValkey() as server, Proxy(server.port) as proxy:
        client, other = client_of(proxy), client_of(proxy)
        assert (client.incr("n"), other.ping()) == (1, True)

        proxy.drop_replies()
        with pytest.raises(RedisConnectionError):
            client.incr("n")

        assert client.incr("n") == 3
        with pytest.raises(RedisConnectionError):
            other.ping()


def test_a_cut_breaks_every_connection_until_it_is_restored():
    with EmbeddedValkey() as server, Proxy(server.port) as proxy:
        client = client_of(proxy)
        assert client.ping()

        proxy.cut()
        for _ in range(2):
            with pytest.raises(RedisConnectionError):
                client.ping()
        proxy.restore()

        assert client.ping()


def test_a_proxy_outlives_its_server():
    with EmbeddedValkey() as server, Proxy(server.port) as proxy:
        client = client_of(proxy)
        assert client.ping()

        server.kill()
        with pytest.raises(RedisConnectionError):
            client.ping()
        server.start()

        assert client.ping()


# -- the clocks ------------------------------------------------------------------------------------

TELLING = """
import pickle, time
from datetime import datetime, timezone
true, running = time.clock_gettime(time.CLOCK_REALTIME), time.clock_gettime(time.CLOCK_MONOTONIC)
for now in (
    time.time(),
    time.time_ns() / 1e9,
    datetime.now().timestamp(),
    datetime.now(timezone.utc).timestamp(),
    datetime.utcnow().replace(tzinfo=timezone.utc).timestamp(),
    pickle.loads(pickle.dumps(datetime.today())).timestamp(),
):
    print(round(now - true))
print(round(time.monotonic() - running))
"""


@pytest.mark.parametrize("offset_s", [HOUR_S, -HOUR_S], ids=["ahead", "behind"])
def test_a_process_on_a_wrong_clock_takes_it_for_the_time(offset_s, tmp_path):
    clock = Clock(tmp_path / "clock")
    clock.set(offset_s)
    (tmp_path / "telling.py").write_text(TELLING)

    command = [sys.executable, *clock.running("telling")]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)

    assert told.stdout.split() == [*[str(offset_s)] * 6, "0"]


def test_a_workers_clock_jumps_under_it_and_calls_end_in_their_time(tmp_path):
    options = ChaosOptions(seed=2, skew_s=HOUR_S, workers=1, minutes=0.1, calls=40, logs=tmp_path)
    jump = Fault(0.0, Kind.CLOCK_JUMP, offset_s=-HOUR_S)
    assert Shape.ETA in {item.shape for item in planned_load(options)}

    with staged(options, time.monotonic()) as stage:
        havoc = Havoc([jump], stage.staff, {}, stage.producer.kill, stage.witness.child_of)
        _play(stage, lambda: len(stage.clerk.ended()) >= 5)
        havoc.tick(time.monotonic(), 0.0)
        _play(stage, lambda: stage.producer.is_done and len(stage.clerk.ended()) == 40)
        offsets = {round(offset_s, -2) for offset_s in _offsets_s(stage)}

    (first_s,) = islice(offsets_s(options, 0), 1)
    assert offsets == {round(first_s, -2), -HOUR_S}  # by which an ETA would be far away
    assert [struck.by_s for struck in havoc.journal] == [-HOUR_S - first_s]


@pytest.mark.rabbitmq
@pytest.mark.crash
@pytest.mark.slow
def test_a_rabbitmq_that_is_killed_has_all_that_it_took_when_it_is_back(tmp_path):
    services.rabbitmq_program()
    options = ChaosOptions(
        seed=2, broker="rabbitmq", intake="broker", workers=1, minutes=0.2, calls=80, logs=tmp_path
    )
    kill = Fault(0.0, Kind.BROKER_RESTART, for_s=0.5, is_hard=True)

    with staged(options, time.monotonic()) as stage:
        havoc = Havoc([kill], stage.staff, stage.servers, stage.producer.kill, None)
        until(lambda: stage.producer.tick() or len(accepted_ids(stage.producer.told())) >= 20)
        assert stage.staff.seats[0].worker is None  # so RabbitMQ has them all
        until(lambda: havoc.tick(time.monotonic(), 0.0) or havoc.journal, timeout_s=60)
        _play(stage, lambda: stage.producer.is_done and len(stage.clerk.ended()) == 80)
        left = list(stage.remains.left())

    assert [struck.until_s - struck.from_s > kill.for_s for struck in havoc.journal] == [True]
    assert left == []


def _play(stage, done):
    """Let the stage's processes work until something is the case."""

    def is_so():
        stage.staff.tick(time.monotonic())
        stage.producer.tick()
        return done()

    until(is_so, timeout_s=40)


def _offsets_s(stage):
    """Compare the time that is written into each result with ours, as it was noted outside."""
    behind_s = time.time() - time.monotonic()
    for end in stage.clerk.ends:
        meta = json.loads(stage.clerk._redis.get(RESULT_KEY + end.task_id))
        written = datetime.fromisoformat(meta["date_done"])
        yield written.replace(tzinfo=timezone.utc).timestamp() - (behind_s + end.at_s)


# -- the whole of it -------------------------------------------------------------------------------


@pytest.mark.crash
def test_an_interrupted_run_leaves_no_process():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(_chaos("--pauses", "20"), cwd=ROOT, text=True, **pipes) as chaos:
        assert any("accepted 2" in printed for printed in chaos.stdout)
        started = psutil.Process(chaos.pid).children(recursive=True)

        chaos.send_signal(signal.SIGTERM)
        rest = chaos.stdout.read()
        code = chaos.wait(timeout=60)

    assert code == 130
    assert len(started) >= 3 + 3 + 1  # servers, workers, producer; and pool processes
    assert "Traceback" not in rest
    assert _gone(started)


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.timeout(400)
@pytest.mark.alone
def test_a_minute_of_chaos_breaks_no_promise(tmp_path):
    options = ["--minutes", "1", "--seed", "11", "--json", str(tmp_path / "report.json")]
    shown = subprocess.run(
        _chaos(*options), capture_output=True, text=True, timeout=380, check=False, cwd=ROOT
    )

    assert shown.returncode == 0, shown.stdout + shown.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["breaches"] == []
    assert report["figures"]["faults"]["worker killed"] == 4
    assert set(report["figures"]["faults"]) == {kind.value for kind in Kind}
    assert "All promises were kept." in shown.stdout
    assert "\x1b" not in shown.stdout


def _gone(processes):
    _, alive = psutil.wait_procs(processes, timeout=10)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def _chaos(*options):
    return [sys.executable, "-c", "from celery_lanes.cli import main; main()", "chaos", *options]
