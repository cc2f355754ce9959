"""Lanes that adapt to a provider which bears only so much: a real server answers 429."""

from __future__ import annotations

import pytest

from celery_lanes.errors import RateLimited
from celery_lanes.llm import Message, Request
from celery_lanes.store.quota import Quota
from celery_lanes.store.standing import Hold
from celery_lanes.tasks import generate
from celery_lanes.testing.llm_stub import Answer
from tests.integration.conftest import until

BEARS = 4
ADAPTIVE = "[lanes.ollama]\nmax_concurrent = 12\nadaptive = true"


def ask(shop, times=1):
    send = shop.tasks.app.send_task
    return [send(generate.name, ("ollama/x", f"{n}")) for n in range(times)]


def work(shop, observer, **options):
    return shop.worker(pool="threads", env={"LLM_OLLAMA": observer.dsn}, **options)


def refusals(observer):
    return [record for record in observer.log if record.status == 429]


@pytest.mark.alone
def test_the_cap_settles_near_what_the_provider_bears(make_shop, observer):
    shop = make_shop(rest=ADAPTIVE)
    observer.service, observer.bears = 0.1, BEARS
    results = ask(shop, 200)

    work(shop, observer, concurrency=12)
    until(lambda: all(result.ready() for result in results), timeout_s=60)

    refused = len(refusals(observer))
    assert 0 < refused <= 50  # of 12 slots that are always filled, 190 would be
    assert sum(observer.share_at(n) for n in range(2, BEARS + 1)) > 0.6  # the refused come last
    assert shop.tasks.lanes.lane("ollama").stats().effective <= BEARS + 1
    assert [result.get(timeout=20)["text"] for result in results] == list(map(str, range(200)))


def test_the_cap_recovers_when_the_provider_bears_more_again(make_shop, observer):
    shop = make_shop(rest="[lanes.ollama]\nmax_concurrent = 4\nadaptive = true")
    observer.service, observer.bears = 0.02, 1
    ask(shop, 8)
    work(shop, observer, concurrency=4)
    observer.wait_until(lambda: observer.served == 8)
    lane = shop.tasks.lanes.lane("ollama")
    assert lane.stats().effective < 4

    observer.bears = None
    ask(shop, 40)

    observer.wait_until(lambda: observer.served == 48, timeout_s=30)
    until(lambda: lane.stats().effective == 4)
    assert lane.stats().max_concurrent == 4


def test_retry_after_pauses_everybody_and_work_resumes_by_itself(make_shop, observer):
    shop = make_shop(rest=ADAPTIVE)
    observer.script(Answer(status=429, headers={"Retry-After": "3"}))
    lane = shop.tasks.lanes.lane("ollama")
    for _ in range(2):
        work(shop, observer, concurrency=2)
    ask(shop)
    until(lambda: lane.stats().provider_wait_ms > 0)

    results = ask(shop, 6)
    position = shop.tasks.lanes.position(results[-1])

    assert position.reason is Hold.PROVIDER_WAIT
    assert "the provider asked to wait for " in position.explanation
    assert [result.get(timeout=20)["text"] for result in results] == list("012345")
    (refused,) = refusals(observer)
    first_s = min(record.start_s for record in observer.log if record.status == 200)
    assert first_s - refused.end_s >= 2.9


def test_a_lane_whose_provider_has_nothing_left_waits_before_anybody_is_refused(
    make_shop, observer
):
    shop = make_shop(rest=ADAPTIVE)
    lane = shop.tasks.lanes.lane("ollama")
    used_up = {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-reset-requests": "3s",
    }
    observer.script(Answer(headers=used_up))
    work(shop, observer, concurrency=2)

    (first,) = ask(shop)
    assert first.get(timeout=20)["text"] == "0"
    now = lane.stats()
    rest = ask(shop, 4)

    assert (now.effective, now.quota) == (12, Quota("requests", 0, 60, 3_000))
    assert [result.get(timeout=20)["text"] for result in rest] == list("0123")
    warned, *others = observer.log
    assert min(record.start_s for record in others) - warned.end_s >= 2.9
    assert refusals(observer) == []


def test_a_chain_outside_tasks_tells_its_lane_what_its_provider_says(
    make_shop, observer, monkeypatch
):
    monkeypatch.setenv("LLM_OLLAMA", observer.dsn)
    lanes = make_shop(rest=ADAPTIVE).tasks.lanes
    observer.script(
        Answer(headers={"x-ratelimit-remaining-requests": "7"}),
        Answer(status=429, headers={"Retry-After": "300"}),
    )
    chain = lanes.chain("ollama/x")
    asked = Request(model="ollama/x", messages=(Message(role="user", content="hello"),))

    assert chain.generate(asked).text == "hello"
    answered = lanes.lane("ollama").stats()
    with pytest.raises(RateLimited):
        chain.generate(asked)
    refused = lanes.lane("ollama").stats()

    assert (answered.quota, answered.effective) == (Quota("requests", 7), 12)
    assert refused.effective == 6
    assert 290_000 < refused.provider_wait_ms <= 300_000
    assert refused.running == 0


def test_a_task_says_by_itself_that_its_provider_is_busy(make_shop):
    shop = make_shop(rest=f"{ADAPTIVE}\n[lanes.plain]\n")
    lanes = shop.tasks.lanes
    shop.worker("ollama", "plain", concurrency=1)

    for model in ("plain/x", "ollama/x"):
        shop.tasks.refused.delay(model, 60).get(timeout=20)

    adaptive, plain = (lanes.lane(name).stats() for name in ("ollama", "plain"))
    assert (adaptive.effective, adaptive.max_concurrent) == (6, 12)
    assert adaptive.provider_wait_ms > 30_000
    assert plain.effective == 4
    assert plain.provider_wait_ms > 30_000
    results = [shop.tasks.echo.delay(model, 1) for model in ("ollama/x", "plain/x")]
    for name in ("ollama", "plain"):
        lanes.lane(name).resume()  # the operator knows better
    assert [result.get(timeout=20) for result in results] == [1, 1]
