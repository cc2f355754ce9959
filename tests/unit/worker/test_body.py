"""A body is interrupted while it runs, and nothing else is: real signals, in this process."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest

from celery_lanes.errors import Preempted
from celery_lanes.worker import body
from celery_lanes.worker.body import ASKED_BY, Yielded, running, watched

LEASE = ("nonce", "token")


@pytest.fixture
def make():
    """Make a task whose body is run in a lane."""
    before = signal.getsignal(ASKED_BY)
    body.listen()

    def make(run, *, grace_s=60.0, header=True):
        lanes = {"nonce": LEASE[0], "token": LEASE[1], "lane": "ollama"} if header else {}
        task = SimpleNamespace(run=run, request=SimpleNamespace(lanes=lanes))
        return watched(task, lambda _lane: grace_s)

    yield make
    signal.signal(ASKED_BY, before)


def tell():
    os.kill(os.getpid(), ASKED_BY)


def test_it_is_raised_in_the_body_which_becomes_a_rejection(make):
    with pytest.raises(Yielded) as raised:
        make(tell)()

    assert raised.value.requeue
    assert isinstance(raised.value.__cause__, Preempted)
    assert running(LEASE) is None


def test_a_body_that_catches_it_ends_as_it_likes(make):
    def save():
        try:
            tell()
        except Preempted:
            return "saved"

    assert make(save)() == "saved"


def test_within_the_grace_it_is_told_once(make):
    def go_on():
        with pytest.raises(Preempted):
            tell()
        tell()
        return "went on"

    assert make(go_on)() == "went on"


def test_after_the_grace_no_handler_for_errors_holds_it(make):
    def go_on():
        while True:
            try:
                tell()
            except Exception:  # noqa: BLE001, PERF203 # as some retry loops do
                continue

    with pytest.raises(Yielded):
        make(go_on, grace_s=0)()


def test_nobody_is_interrupted_between_bodies_nor_around_one(make):
    tell()
    run = make(lambda: "ran")

    body._hear(ASKED_BY, SimpleNamespace(f_globals=vars(body)))

    assert run() == "ran"


def test_what_runs_in_no_lane_is_left_alone(make):
    def run():
        tell()
        return "ran"

    assert make(run, header=False)() == "ran"


def test_a_task_that_is_watched_twice_is_watched_once(make):
    inner = make(tell)

    with pytest.raises(Yielded):
        make(inner)()

    assert running(LEASE) is None
