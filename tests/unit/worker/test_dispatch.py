"""How an attempt ends where a body makes room while something else befalls it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from celery_lanes.store.attempts import Grant, Outcome
from celery_lanes.worker.attempt import Attempt
from celery_lanes.worker.body import Yielded
from celery_lanes.worker.dispatch import Dispatcher


class Request:
    """What of Celery's request the dispatcher looks at."""

    id = "id"

    def __init__(self, *, is_revoked):
        self._already_revoked = is_revoked
        self.failures = []

    def on_failure(self, info, **_):
        self.failures.append(info.exception)


@pytest.mark.parametrize(
    ("is_revoked", "outcome"), [(False, Outcome.PREEMPTED), (True, Outcome.FAILED)]
)
def test_a_body_that_makes_room_does_not_run_again_if_it_has_been_revoked(is_revoked, outcome):
    dispatcher = Dispatcher(SimpleNamespace(), SimpleNamespace(), SimpleNamespace())
    attempt = Attempt("ollama", Grant("c", "t", "ann", 1, 0, b""), lambda _: None)
    attempt.request = request = Request(is_revoked=is_revoked)
    attempt.acked = True  # early; else by the revoke

    dispatcher._fail(attempt, lambda: request, SimpleNamespace(exception=Yielded()))
    attempt.end()

    assert attempt.outcome is outcome
    assert bool(request.failures) is is_revoked
