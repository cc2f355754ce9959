"""A provider whose network is a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from celery_lanes.llm.dsn import Dsn
from celery_lanes.llm.messages import Message
from celery_lanes.llm.providers.openai import openai_provider
from celery_lanes.llm.reply import Reply
from celery_lanes.llm.request import Request

KEY = "sk-very-secret"
COMPLETION = {
    "model": "small-2026",
    "choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3},
}


@pytest.fixture
def ask() -> Callable[..., Reply]:
    """Ask provider m1 for model small; the handler is a response or a function of the request."""

    def ask(handler: Any, dsn: str = f"openai://{KEY}@llm.test/v1", **options: Any) -> Reply:
        answer = handler if callable(handler) else lambda _: handler
        transport = httpx.MockTransport(answer)
        provider = openai_provider("m1", Dsn.parse(dsn, variable="LLM_M1"), transport=transport)
        call = {"timeout_s": options.pop("timeout_s", 5.0)}
        if "idempotency_key" in options:
            call["idempotency_key"] = options.pop("idempotency_key")
        request = Request(
            model="small", messages=(Message(role="user", content="hi there"),), **options
        )
        return provider.generate(request, **call)

    return ask


@pytest.fixture
def completion() -> dict[str, Any]:
    return dict(COMPLETION)
