"""How an attempt ends whose call goes on while something else befalls it."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from celery_lanes.envelope import Envelope
from celery_lanes.journeys.journey import moved, returned
from celery_lanes.store.attempts import Grant, Outcome
from celery_lanes.worker.attempt import Attempt
from celery_lanes.worker.body import Yielded
from celery_lanes.worker.dispatch import Dispatcher
from celery_lanes.worker.endings import fail


class Request:
    """What of Celery's request the dispatcher looks at."""

    id = "id"

    def __init__(self, *, is_revoked):
        self._already_revoked = is_revoked
        self.failures = []

    def on_failure(self, info, **_):
        self.failures.append(info.exception)


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_call_that_was_granted_before_a_long_pause_is_not_started_but_given_back(is_ours):
    """Its early acknowledged body would run after another worker has called it lost."""
    started = []
    dispatcher = Dispatcher(SimpleNamespace(), SimpleNamespace(), SimpleNamespace())
    dispatcher._message = dispatcher._receive = started.append
    good_until = time.monotonic() + (60 if is_ours else -0.001)
    attempt = Attempt("ollama", Grant("c", "t", "ann", 1, 0, b""), lambda _: None, good_until)

    dispatcher.start(attempt)

    assert bool(started) is is_ours
    assert attempt.outcome is Outcome.BACK


@pytest.mark.parametrize("error", [Yielded(), moved("b", {}), returned({}, 1)], ids=type)
@pytest.mark.parametrize("is_revoked", [False, True])
def test_a_body_whose_call_goes_on_does_not_run_again_if_it_has_been_revoked(is_revoked, error):
    envelope = Envelope(body=b"", content_type=None, content_encoding=None).pack()
    attempt = Attempt("ollama", Grant("c", "t", "ann", 1, 0, envelope), lambda _: None)
    attempt.request = request = Request(is_revoked=is_revoked)
    attempt.acked = True  # early; else by the revoke

    fail(attempt, lambda: request, SimpleNamespace(exception=error))
    attempt.end()

    assert attempt.outcome is (Outcome.FAILED if is_revoked else error.outcome)
    assert attempt.release().outcome is attempt.outcome
    assert bool(request.failures) is is_revoked
