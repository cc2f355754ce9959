"""What a worker knows of its attempts in one lane."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from celery_lanes.store.attempts import Grant
from celery_lanes.worker import share as share_module
from celery_lanes.worker.attempt import Attempt
from celery_lanes.worker.share import LaneShare


class Worker:
    """One worker's share of a lane, on a clock that is turned; its pool drops every job."""

    def __init__(self) -> None:
        self.now = 100.0
        self.share = LaneShare("a")

    def take(self, token: str) -> Attempt:
        attempt = Attempt("a", Grant("c", token, "ann", 1, 0, b""), self.share.give_back)
        attempt.job = SimpleNamespace(ready=lambda: False, _job=1, _cache={})
        self.share.take(attempt)
        return attempt

    def look(self, seconds: float) -> list[str]:
        """Let some time pass, look, and name the leases that are to be given back."""
        self.now += seconds
        self.share.settle_the_vanished(after_s=5)
        return [release.token for release in self.share.releases]


@pytest.fixture
def worker(monkeypatch) -> Worker:
    worker = Worker()
    monkeypatch.setattr(share_module, "time", SimpleNamespace(monotonic=lambda: worker.now))
    return worker


def test_a_job_that_the_pool_has_dropped_is_given_back_after_a_while(worker):
    worker.take("t1")

    assert [worker.look(0), worker.look(5), worker.look(0.1)] == [[], [], ["t1"]]
    assert worker.share.held() == [("c", "t1")]  # until the store has heard of its end


def test_a_job_that_is_there_again_has_its_whole_while(worker):
    attempt = worker.take("t1")
    worker.look(0)
    attempt.job.ready = lambda: True
    worker.look(4)
    attempt.job.ready = lambda: False

    assert [worker.look(2), worker.look(5), worker.look(0.1)] == [[], [], ["t1"]]


def test_a_call_that_is_ours_anew_has_its_whole_while(worker):
    first = worker.take("t1")
    worker.look(0)

    assert worker.share.lose("c") is first
    worker.take("t2")
    first.end()  # its lease is gone: there is nothing to give back

    assert [worker.look(4), worker.look(5), worker.look(0.1)] == [[], [], ["t2"]]
