"""What a worker tells the store at once is bounded: many large messages take many requests."""

from __future__ import annotations

import pytest

from celery_lanes.store.attempts import Outcome, Release
from celery_lanes.store.calls import Call
from celery_lanes.worker.arrivals import Arrivals
from celery_lanes.worker.batch import MAX_BATCH_BYTES, fitting
from celery_lanes.worker.share import MAX_RELEASES, LaneShare

LARGE = b"x" * (MAX_BATCH_BYTES // 4)


@pytest.mark.parametrize(
    ("messages", "count"),
    [
        pytest.param([b""] * 200, 200, id="empty"),
        pytest.param([LARGE] * 9, 4, id="large"),
        pytest.param([LARGE * 9, b"x"], 1, id="one-too-large"),
        pytest.param([b"x", LARGE * 9, b"x"], 1, id="one-before-it"),
    ],
)
def test_as_many_go_together_as_fit_and_one_in_any_case(messages, count):
    assert fitting(messages) == count


def test_releases_with_large_messages_go_in_several_requests_and_in_order():
    moved = [Release(f"c{n}", "t", Outcome.MOVED, envelope=LARGE) for n in range(9)]
    done = [Release(f"d{n}", "t") for n in range(MAX_RELEASES)]
    share = LaneShare("a", releases=[*moved, *done])
    asked = []

    while share.releases:
        ask = share.ask(0, now=0.0, can_close=False)
        asked.append(ask.releases)
        share._pending = None  # answered

    assert [len(releases) for releases in asked] == [4, 4, MAX_RELEASES, 1]
    assert [release for releases in asked for release in releases] == [*moved, *done]


def test_so_do_calls_that_a_broker_has_brought():
    arrivals = Arrivals()
    for n in range(9):
        arrivals.add(Call(id=f"c{n}", task_id="t", task="x", envelope=LARGE), lambda: None)
    seen = []

    while arrivals:
        batch = arrivals.batch()
        seen.append([call.id for call in batch])
        arrivals.took(len(batch))

    assert seen == [["c0", "c1", "c2", "c3"], ["c4", "c5", "c6", "c7"], ["c8"]]
