"""What a lost broker connection must not do to running lane calls."""

from __future__ import annotations

import pytest
from celery.worker import state
from celery.worker.consumer import consumer

from celery_lanes.worker.reconnect import unseen


class Request:
    """Something that can be active."""


@pytest.fixture
def active() -> list[Request]:
    requests = [Request() for _ in range(3)]
    state.active_requests.update(requests)
    yield requests
    state.active_requests.difference_update(requests)


def test_only_celerys_consumer_does_not_see_them_and_only_meanwhile(active):
    ours, _, theirs = active

    with unseen([ours]):
        assert ours not in consumer.active_requests
        assert theirs in consumer.active_requests
        assert ours in state.active_requests  # who asks whether it has ended, must not hear yes
        state.active_requests.discard(ours)  # it ends in a thread of its own

    assert consumer.active_requests is state.active_requests
    assert ours not in state.active_requests
