"""A cluster as pytest-celery sets it up: broker, backend and two workers, any of which may die.

The LLM that the workers ask is the observer outside: it sees how many calls are inside at once,
and which call was asked for how often.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from celery.result import AsyncResult
from pytest_celery import CeleryTestSetup

from celery_lanes import CallInfo
from celery_lanes.errors import BadRequest
from celery_lanes.tasks import generate
from celery_lanes.testing.llm_stub import Answer, LLMStub, Record
from tests.waiting import until

CAP = 3  # of each lane; two workers have two processes each
LEASE_TTL_S = 3
SLOW_LEASE_TTL_S = 6  # longer than a worker takes to come back


def test_two_workers_serve_one_lane_up_to_its_cap(celery_setup: CeleryTestSetup, observer: LLMStub):
    observer.service = 0.1

    calls = ask("ollama/llama3", count=20)

    assert texts(calls, within_s=15) == prompts(20)
    assert observer.highest == CAP
    workers = {worker.hostname() for worker in celery_setup.worker_cluster}
    assert {call.worker for call in calls} == workers
    assert {call.get()["lane"] for call in calls} == {"ollama"}
    assert celery_setup.ready(ping=True, control=True)  # plain tasks run beside


def test_an_error_in_the_cluster_says_whose_call_it_was(
    celery_setup: CeleryTestSetup, observer: LLMStub
):
    observer.script(Answer(status=400, body={"error": {"message": "no"}}))

    (call,) = ask("openai/gpt-5", count=1)
    with pytest.raises(BadRequest, match="openai/gpt-5 answered 400: no") as caught:
        call.get(timeout=15)

    info = CallInfo.from_error(caught.value)
    assert (info.caller, info.run_id, info.lane) == ("alice", "run-17", "openai")


@pytest.mark.crash
def test_the_calls_of_a_killed_worker_run_again_and_the_cap_holds(
    celery_setup: CeleryTestSetup, observer: LLMStub
):
    observer.service = 2  # nothing ends before all have begun
    calls = ask("ollama/llama3", count=40)
    observer.wait_until(lambda: observer.inside == CAP)  # so each worker has one or two

    celery_setup.worker.kill()
    observer.service = 0.3
    celery_setup.worker.restart()  # to have more processes than slots, now and after the leases

    assert texts(calls, within_s=20) == prompts(40)
    assert 1 <= len(cut_off(observer)) <= 2
    assert all(wait_s < LEASE_TTL_S + 5 for wait_s in waits_to_run_again(observer))
    assert observer.highest == CAP
    assert most_at_once_of_one_call(observer) == 1


@pytest.mark.crash
@pytest.mark.parametrize("model", ["ollama/llama3", "openai/gpt-5"], ids=["store", "broker"])
def test_calls_that_run_while_the_broker_restarts_run_once(
    celery_setup: CeleryTestSetup, observer: LLMStub, model: str
):
    observer.service = 2
    calls = ask(model, count=8)
    observer.wait_until(lambda: observer.inside == CAP)
    until(lambda: admitted(celery_setup, model) == 8)

    celery_setup.broker.restart()
    observer.service = 0.05

    assert texts(calls, within_s=20) == prompts(8)
    assert all(
        "Connection to broker lost" in worker.logs() for worker in celery_setup.worker_cluster
    )
    assert [record.status for record in observer.log] == [200] * 8
    assert most_at_once_of_one_call(observer) == 1
    assert celery_setup.ready(ping=True)


@pytest.mark.crash
def test_a_worker_that_comes_back_does_not_renew_its_predecessors_leases(
    celery_setup: CeleryTestSetup, observer: LLMStub
):
    first, second = celery_setup.worker_cluster
    second.kill()
    observer.script(*[Answer(hangs=True)] * 3)
    *lost, held = ask("groq/slow-lease", count=3)
    observer.wait_until(lambda: observer.inside == 2)

    first.kill()
    first.restart()
    observer.wait_until(lambda: len(runs_of(observer)) == 2 and observer.inside == 1)
    back_at_s = time.monotonic()

    assert texts(lost, within_s=SLOW_LEASE_TTL_S + 5) == prompts(2)
    assert {call.worker for call in lost} == {first.hostname()}
    assert len(cut_off(observer)) == 2
    answered = [record for record in observer.log if record.status == 200]
    assert all(record.start_s > back_at_s for record in answered)  # the leases were still live
    assert not held.ready()  # all the while the worker renewed a lease of its own


def ask(model: str, *, count: int) -> list[AsyncResult]:
    return [
        generate.apply_async((model, prompt), caller="alice", run_id="run-17")
        for prompt in prompts(count)
    ]


def prompts(count: int) -> list[str]:
    return [f"question {n}" for n in range(count)]


def texts(calls: Iterable[AsyncResult], *, within_s: float) -> list[str]:
    """Collect all answers by one deadline."""
    deadline = time.monotonic() + within_s
    return [call.get(timeout=max(0.01, deadline - time.monotonic()))["text"] for call in calls]


def admitted(setup: CeleryTestSetup, model: str) -> int:
    lane = setup.app.lanes.parts.store.snapshot(model.partition("/")[0])
    return lane.running + lane.waiting


def cut_off(observer: LLMStub) -> list[Record]:
    return [record for record in observer.log if record.status is None]


def runs_of(observer: LLMStub) -> dict[str, Sequence[Record]]:
    """Give each call's runs, in order; generate sends the call's nonce as the idempotency key."""
    runs = defaultdict(list)
    for record in sorted(observer.log, key=lambda record: record.start_s):
        runs[record.idempotency_key].append(record)
    return runs


def waits_to_run_again(observer: LLMStub) -> list[float]:
    pairs = [pair for runs in runs_of(observer).values() for pair in pairwise(runs)]
    return [again.start_s - cut.end_s for cut, again in pairs]


def most_at_once_of_one_call(observer: LLMStub) -> int:
    return max(map(most_at_once, runs_of(observer).values()))


def most_at_once(runs: Sequence[Record]) -> int:
    return max(sum(other.start_s <= run.start_s < other.end_s for other in runs) for run in runs)
