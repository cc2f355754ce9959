"""Messages that no sender of ours has stamped: which are calls of their own, and which are not."""

from __future__ import annotations

import pytest
from kombu.message import Message

from celery_lanes.store.attempts import Release
from celery_lanes.store.calls import Duplicate, Parked
from celery_lanes.store.memory.store import MemoryStore
from celery_lanes.store.rules import LaneRules, Policy
from celery_lanes.worker.prelude import call_of

LANE = "ollama"


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    store.configure(LANE, LaneRules(max_concurrent=9))
    return store


def foreign(
    body: str = '[["ollama/x"], {}, {}]', *, redelivered: bool = False, **headers
) -> Message:
    """Make a message as another language's producer might, under one task id."""
    return Message(
        body=body,
        content_type="application/json",
        content_encoding="utf-8",
        delivery_info={"redelivered": redelivered},
        headers={"id": "t-1", "task": "shop.ask", "retries": 0, **headers},
    )


def dead_lettered(*counts: int) -> list[dict[str, object]]:
    """Give the header that RabbitMQ writes: an entry for each queue and reason."""
    return [{"queue": f"q{n}", "reason": "expired", "count": c} for n, c in enumerate(counts)]


def admit(store: MemoryStore, message: Message):
    (verdict,) = store.admit(LANE, [call_of(message)], policy=Policy.FAIR)
    return verdict


def run(store: MemoryStore, request: int = 1) -> list[Release]:
    """Grant what waits; give what would end it."""
    turn = store.next(LANE, worker="w", request=request, want=9)
    return [Release(grant.call, grant.token) for grant in turn.grants]


OTHERS = {
    "replaced": {"replaced_task_nesting": 1},
    "retried": {"retries": 1},
    "dead-lettered": {"x-death": dead_lettered(1)},
    "other arguments": {"body": '[["ollama/y"], {}, {}]'},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_another_message_of_a_running_calls_task_id_is_a_call_of_its_own(store, other):
    admit(store, foreign())
    assert len(run(store)) == 1

    assert admit(store, foreign(**other)) == Parked(0)


def test_each_round_through_dead_letter_exchanges_is_a_call_of_its_own(store):
    rounds = [dead_lettered(1), dead_lettered(2), dead_lettered(2, 1)]

    verdicts = [admit(store, foreign(**{"x-death": deaths})) for deaths in rounds]

    assert verdicts == [Parked(0), Parked(1), Parked(2)]


def test_a_redelivery_is_no_call_of_its_own_while_the_first_waits_runs_or_has_ended(store):
    admit(store, foreign())

    assert admit(store, foreign(redelivered=True)) == Duplicate("waiting")
    ends = run(store)
    assert admit(store, foreign(redelivered=True)) == Duplicate("running")
    store.next(LANE, worker="w", request=2, want=0, releases=ends)
    assert admit(store, foreign(redelivered=True)) == Duplicate("settled")


def test_a_message_that_is_admitted_again_after_a_lost_reply_does_not_run_again(store):
    call = call_of(foreign())
    store.admit(LANE, [call], policy=Policy.FAIR)
    store.next(LANE, worker="w", request=2, want=0, releases=run(store))

    assert store.admit(LANE, [call], policy=Policy.FAIR) == [Duplicate("settled")]


def test_a_job_that_is_submitted_again_under_its_id_runs_again_once_it_has_ended(store):
    admit(store, foreign())
    store.next(LANE, worker="w", request=2, want=0, releases=run(store))

    assert admit(store, foreign()) == Parked(0)


@pytest.mark.parametrize(
    ("header", "own", "option", "priority"),
    [
        ({"priority": 0}, 5, 9, 0),
        ({"caller": "alice"}, 5, 9, 5),
        (None, None, 9, 9),
        (None, None, None, 0),
        ({"priority": 5_000}, None, None, 1000),
    ],
    ids=["header", "task", "option", "nothing", "nonsense"],
)
def test_a_foreign_message_is_as_urgent_as_the_first_who_says_so(header, own, option, priority):
    message = foreign(**({"lanes": header} if header else {}))
    message.properties["priority"] = option

    assert call_of(message, priority=own).priority == priority


@pytest.mark.parametrize(
    ("said", "cost"),
    [(None, 1), (float("nan"), 1), (-5, 1), (7.5, 7.5), (float("inf"), 1e9), (10**400, 1e9)],
    ids=repr,
)
def test_a_foreign_message_costs_what_it_says_within_reason(said, cost):
    assert call_of(foreign(lanes={"cost": said})).cost == cost
