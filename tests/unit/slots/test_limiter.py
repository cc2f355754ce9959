"""A lane as pydantic-ai's concurrency limiter; skipped where the extra is not installed."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from celery import Celery

from celery_lanes.app import Lanes
from celery_lanes.config.settings import Settings
from celery_lanes.errors import LaneBusy

pytest.importorskip("pydantic_ai", reason="the extra pydantic-ai is not installed")


@pytest.fixture
def lanes() -> Lanes:
    url = f"memory://{uuid.uuid4().hex}"
    settings = {"store": {"url": url}, "lanes": {"ollama": {"max_concurrent": 2}}}
    return Lanes(Celery(broker="memory://"), Settings.parse(settings))


def test_requests_of_a_limited_model_hold_slots_of_the_lane(lanes):
    from pydantic_ai import Agent
    from pydantic_ai.messages import ModelResponse, TextPart
    from pydantic_ai.models.concurrency import ConcurrencyLimitedModel
    from pydantic_ai.models.function import FunctionModel

    from celery_lanes.limiter import LaneLimiter

    running, changed = [], asyncio.Condition()

    async def answer(messages, info) -> ModelResponse:
        async with changed:
            running.append(lanes.parts.store.snapshot("ollama").running)
            changed.notify_all()
            both = len(running) + len(running) % 2  # each has another one beside it
            await changed.wait_for(lambda: len(running) >= both)
        return ModelResponse(parts=[TextPart("because")])

    limiter = LaneLimiter(lanes, "ollama/x", caller="alice")
    agent = Agent(ConcurrencyLimitedModel(FunctionModel(answer), limiter=limiter))

    async def main() -> list[str]:
        runs = await asyncio.gather(*(agent.run("why?") for _ in range(10)))
        return [run.output for run in runs]

    assert asyncio.run(main()) == ["because"] * 10
    assert max(running) == 2
    with lanes.slot("ollama/x"), lanes.slot("ollama/x"):  # all have been given back
        assert lanes.parts.store.snapshot("ollama").running == 2


def test_a_request_that_would_wait_too_long_raises(lanes):
    from celery_lanes.limiter import LaneLimiter

    limiter = LaneLimiter(lanes, "ollama/x", max_wait=0)

    async def main() -> None:
        await limiter.acquire("test")
        await limiter.acquire("test")
        with pytest.raises(LaneBusy):
            await limiter.acquire("test")
        limiter.release()
        limiter.release()

    asyncio.run(main())


def test_a_request_that_failed_says_nothing_of_service_times(lanes):
    from pydantic_ai import Agent
    from pydantic_ai.exceptions import ModelHTTPError
    from pydantic_ai.models.concurrency import ConcurrencyLimitedModel
    from pydantic_ai.models.function import FunctionModel

    from celery_lanes.limiter import LaneLimiter

    async def refuse(messages, info):
        raise ModelHTTPError(429, "x")

    model = ConcurrencyLimitedModel(FunctionModel(refuse), limiter=LaneLimiter(lanes, "ollama/x"))
    with pytest.raises(ModelHTTPError):
        asyncio.run(Agent(model).run("why?"))

    with lanes.slot("ollama/x") as slot:
        slot.release(failed=True)
    ledger = lanes.parts.store._lanes["ollama"]
    assert not ledger.leases
    assert not ledger.times_ms


def test_odd_wishes_are_refused_when_the_limiter_is_made(lanes):
    from celery_lanes.limiter import LaneLimiter

    with pytest.raises(ValueError, match="expected max_wait to be a number of seconds"):
        LaneLimiter(lanes, "ollama/x", max_wait=-1)
