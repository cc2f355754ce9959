"""The words of an LLM call: a request, its reply, what both cost, and the time it may take."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

DEFAULT_MAX_TOKENS = 1024
"""How many output tokens a request without ``max_tokens`` is estimated to bring."""

INPUT_WEIGHT = 1
OUTPUT_WEIGHT = 2
CONNECT_TIMEOUT_S = 10.0
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; ``role`` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a provider is asked.

    Attributes:
        model: the provider's own name of the model, verbatim.
        messages: the conversation, oldest first.
        max_tokens: at most so many output tokens; ``None`` leaves it to the provider.
        temperature: ``None`` leaves it to the provider.
        params: further parameters, passed on as they are.
    """

    model: str
    messages: tuple[Message, ...]
    max_tokens: int | None = None
    temperature: float | None = None
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a provider charges for; output includes reasoning."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a provider answered; ``model`` is the one that it says it used."""

    text: str
    usage: Usage
    model: str
    finish_reason: str | None = None


class Provider(Protocol):
    """Serves models over some API."""

    @property
    def name(self) -> str:
        """What stands before the slash in ``provider/model``."""

    def generate(
        self, request: Request, *, timeout_s: float, idempotency_key: str | None = None
    ) -> Reply:
        """Answer within ``timeout_s`` seconds, without retries. Raises ``ProviderError``."""

    def close(self) -> None:
        """Close its connections."""


class Deadline(Mapping[str, float]):
    """The end of a call, as the time-outs that httpcore asks for before each step.

    Each is what is then left of the whole; so they cannot add up to more. Only a provider that
    sends a little and then stalls can use up to twice the time: the steps within one answer's
    body share one time-out, and the whole is checked after each piece that arrives.
    """

    def __init__(self, timeout_s: float) -> None:
        self._ends_at = time.monotonic() + timeout_s

    def __getitem__(self, step: str) -> float:
        """Give the time-out of a step (connect, pool, write, read) in seconds, never quite 0."""
        left_s = max(self._ends_at - time.monotonic(), 0.001)
        return min(left_s, CONNECT_TIMEOUT_S) if step == "connect" else left_s

    def __iter__(self) -> Iterator[str]:
        return iter(("connect", "pool", "write", "read"))

    def __len__(self) -> int:
        return len(tuple(self))

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._ends_at


def estimate_tokens(text: str) -> int:
    """Guess how many tokens a text has: one for each four characters, rounded up."""
    return math.ceil(len(text) / _CHARACTERS_PER_TOKEN)


def estimate_input(messages: Iterable[Message]) -> int:
    """Guess how many tokens a conversation has."""
    return sum(estimate_tokens(message.content) for message in messages)


def estimate_cost(request: Request) -> int:
    """Estimate a request's cost in tokens, output counted double; at least 1."""
    output = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    return real_cost(Usage(estimate_input(request.messages), output))


def real_cost(usage: Usage) -> int:
    """Weigh what was really used, output counted double; at least 1."""
    return max(1, INPUT_WEIGHT * usage.input_tokens + OUTPUT_WEIGHT * usage.output_tokens)
