"""Whom a pool's view tells to make room: the process of that very call, while it is one."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest
from celery.concurrency.asynpool import SCHED_STRATEGY_FAIR, SCHED_STRATEGY_FCFS

from celery_lanes.store.attempts import Grant
from celery_lanes.worker.attempt import Attempt
from celery_lanes.worker.body import ASKED_BY
from celery_lanes.worker.pools import Prefork


@pytest.fixture
def heard():
    """What this process, which stands for the pool's, has been sent."""
    heard = []
    before = signal.signal(ASKED_BY, lambda number, _: heard.append(number))
    yield heard
    signal.signal(ASKED_BY, before)


def make_room(*, is_alive=True, strategy=SCHED_STRATEGY_FAIR):
    process = SimpleNamespace(pid=os.getpid(), _is_alive=lambda: is_alive)
    worker = SimpleNamespace(
        hub=SimpleNamespace(call_later=lambda *_: None),
        pool=SimpleNamespace(_pool=SimpleNamespace(sched_strategy=strategy)),
    )
    attempt = Attempt("ollama", Grant("c", "t", "ann", 1, 0, b""), lambda _: None)
    attempt.job = SimpleNamespace(ready=lambda: False, _write_to=process)
    Prefork(worker, None).make_room(attempt, 5.0)


def test_the_process_of_the_call_is_told(heard):
    make_room()

    assert heard == [ASKED_BY]


def test_a_process_that_is_gone_is_not_told_for_its_number_may_be_anothers(heard):
    """Its job is not ready before billiard has waited 10 s for a last result."""
    make_room(is_alive=False)

    assert heard == []


def test_a_process_that_may_have_another_job_already_is_not_told(heard):
    """With ``-O fast`` jobs wait in the pipe of a busy process."""
    make_room(strategy=SCHED_STRATEGY_FCFS)

    assert heard == []
