"""Whom a pool's view tells to make room: the process of that very call, while it is one."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest
from billiard.pool import Pool
from celery import states
from celery.concurrency.asynpool import SCHED_STRATEGY_FAIR, SCHED_STRATEGY_FCFS
from celery.exceptions import WorkerLostError

from celery_lanes.store.attempts import Grant
from celery_lanes.worker.attempt import Attempt
from celery_lanes.worker.body import ASKED_BY
from celery_lanes.worker.closing import DEAD
from celery_lanes.worker.pools import BlockingPrefork, Prefork


@pytest.fixture
def heard():
    """What this process, which stands for the pool's, has been sent."""
    heard = []
    before = signal.signal(ASKED_BY, lambda number, _: heard.append(number))
    yield heard
    signal.signal(ASKED_BY, before)


class Killed:
    """A pool and a job that note who is killed."""

    def __init__(self, strategy):
        self._pool = SimpleNamespace(sched_strategy=strategy)
        self.pids = []

    def terminate_job(self, pid, _signal):
        self.pids.append(pid)


def make_room(*, is_alive=True, strategy=SCHED_STRATEGY_FAIR, grace_s=5.0, result=None):
    """Give whom the pool has killed; ``result`` is what the backend has of the call."""
    process = SimpleNamespace(pid=os.getpid(), _is_alive=lambda: is_alive)
    worker = SimpleNamespace(
        hub=SimpleNamespace(call_later=lambda *_: None),
        pool=Killed(strategy),
    )
    attempt = Attempt("ollama", Grant("c", "t", "ann", 1, 0, b""), lambda _: None)
    attempt.job = SimpleNamespace(ready=lambda: False, _write_to=process, terminate=lambda _: None)
    attempt.request = request_with(result)
    Prefork(worker).make_room(attempt, grace_s)
    return worker.pool.pids


def request_with(result):
    state = states.FAILURE if result else states.STARTED
    backend = SimpleNamespace(get_state=lambda _: state, get_result=lambda _: result)
    return SimpleNamespace(
        id="id",
        ignore_result=False,
        task=SimpleNamespace(backend=backend),
        _already_revoked=False,
        _already_cancelled=False,
    )


def test_the_process_of_the_call_is_told(heard):
    assert make_room() == []

    assert heard == [ASKED_BY]


OVERDUE_S = -60.0


def test_one_that_will_not_hear_is_killed(heard):
    assert make_room(grace_s=OVERDUE_S) == [os.getpid()]
    assert heard == []


def test_nobody_is_killed_whose_body_has_written_its_end(heard):
    """The chord part may not be written yet, or a task's own handlers run."""
    assert make_room(grace_s=OVERDUE_S, result=ValueError("its own")) == []


def test_the_result_of_a_dead_letter_that_runs_again_is_no_end(heard):
    assert make_room(grace_s=OVERDUE_S, result=WorkerLostError(DEAD)) == [os.getpid()]


def test_a_process_that_is_gone_is_not_told_for_its_number_may_be_anothers(heard):
    """Its job is not ready before billiard has waited 10 s for a last result."""
    make_room(is_alive=False)

    assert heard == []


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_lease_goes_at_a_hard_time_limit_when_the_process_is_dead():
    """With threads, as without an event loop: the pool kills it only after it has told of it."""
    pool, ended, seen = Pool(1, threads=True, enable_timeouts=True), threading.Event(), []
    (process,) = pool._pool
    view = BlockingPrefork(SimpleNamespace(pool=SimpleNamespace(_pool=pool)))

    def released(attempt):
        seen.append(process._is_alive())
        ended.set()

    attempt = Attempt("ollama", Grant("c", "t", "ann", 1, 0, b""), released)
    quiet = {"callback": id, "error_callback": id}
    view.watch(pool.apply_async(time.sleep, (60,), timeout=0.1, **quiet), attempt)
    assert ended.wait(30)
    pool.terminate()
    pool.join()

    assert seen == [False]


def test_a_process_that_may_have_another_job_already_is_not_told(heard):
    """With ``-O fast`` jobs wait in the pipe of a busy process."""
    make_room(strategy=SCHED_STRATEGY_FCFS)

    assert heard == []
