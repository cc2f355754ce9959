"""Chains under real load: workers in processes of their own, two servers, and one of them fails."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from celery_lanes.tasks import generate
from celery_lanes.testing.llm_dialects import Anthropic
from celery_lanes.testing.llm_stub import Answer, LLMStub
from tests.integration.conftest import until

CALLS = int(os.environ.get("FAILOVER_CALLS", "300"))
WORKERS = int(os.environ.get("FAILOVER_WORKERS", "2"))
SLOTS, COOLDOWN_S = 4, 2.0
LANES = f"""
[lanes.a]
max_concurrent = {SLOTS}
[lanes.b]
max_concurrent = {SLOTS}
[health]
base_cooldown = "{COOLDOWN_S:g}s"
max_cooldown = "{COOLDOWN_S:g}s"
[aliases]
both = "a/small,b/small"
"""
DOWN = Answer(status=500, body={})


@pytest.fixture
def stubs() -> Iterator[tuple[LLMStub, LLMStub]]:
    with LLMStub() as first, LLMStub(dialect=Anthropic()) as second:
        first.service = second.service = 0.02
        yield first, second


@pytest.mark.alone
def test_a_model_that_fails_and_then_dies_loses_no_call(make_shop, stubs):
    first, second = stubs
    first.script(*[DOWN, Answer()] * (CALLS // 15), *[DOWN] * 2 * CALLS)
    shop = make_shop(rest=LANES)
    env = {"LLM_A": first.dsn, "LLM_B": second.dsn}
    send, lanes = shop.tasks.app.send_task, shop.tasks.lanes

    calls = [send(generate.name, ("both", f"{n}"), caller=f"c{n % 3}") for n in range(CALLS)]
    began_at = time.monotonic()
    for _ in range(WORKERS):
        shop.worker("a", "b", concurrency=2, env=env)
    until(lambda: lanes.lane("a").stats().running + lanes.lane("b").stats().running > 0)
    until(lambda: all(call.ready() for call in calls), timeout_s=60 + CALLS)
    took_s = time.monotonic() - began_at

    results = [call.get(timeout=1) for call in calls]
    asked = [[a for a in r["attempts"] if a["error_class"] != "Benched"] for r in results]
    assert [result["text"] for result in results] == [f"{n}" for n in range(CALLS)]
    assert max(map(len, asked)) <= 3  # the first twice, the second once
    assert {(a["target"], a["lane"]) for call in asked for a in call} == {
        ("a/small", "a"),
        ("b/small", "b"),
    }
    assert all(r["lane"] == r["attempts"][-1]["lane"] for r in results)
    assert max(first.highest, second.highest) <= SLOTS
    healthy = max((n for n, r in enumerate(first.log) if r.status == 200), default=-1)
    tried = len(first.log) - healthy - 1
    assert tried <= 2 * SLOTS + took_s / COOLDOWN_S + 1
    print(  # noqa: T201 # for who runs it by hand with more of them
        f"{CALLS} calls, {WORKERS} workers: {took_s:.1f} s; first asked {len(first.log)} times,"
        f" {tried} of them since it was down; {len(second.log)} answered by the second;"
        f" at most {max(map(len, asked))} attempts at a call"
    )
