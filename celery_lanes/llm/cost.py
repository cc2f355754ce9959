"""What a call costs in tokens: guessed before it, weighed after it."""

from __future__ import annotations

import math
from collections.abc import Iterable

from celery_lanes.llm.messages import Blob, Message, Part, Reasoning, Text, ToolCall, ToolResult
from celery_lanes.llm.reply import Usage
from celery_lanes.llm.request import Request

DEFAULT_MAX_TOKENS = 1024
"""How many output tokens a request without ``max_tokens`` is estimated to bring."""

BLOB_TOKENS = 1000
"""What a picture or a page is estimated at."""

INPUT_WEIGHT = 1
OUTPUT_WEIGHT = 2
_CHARACTERS_PER_TOKEN = 4


def estimate_tokens(text: str) -> int:
    """Guess how many tokens a text has: one for each four characters, rounded up."""
    return math.ceil(len(text) / _CHARACTERS_PER_TOKEN)


def estimate_input(messages: Iterable[Message]) -> int:
    """Guess how many tokens a conversation has."""
    return sum(_part(part) for message in messages for part in message.parts)


def estimate_cost(request: Request) -> int:
    """Estimate a request's cost in tokens, output counted double; at least 1."""
    output = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    return _weighed(estimate_input(request.messages), output)


def real_cost(usage: Usage) -> int:
    """Weigh what was really used, output counted double; at least 1."""
    return _weighed(usage.input_tokens, usage.output_tokens)


def _weighed(read: int, written: int) -> int:
    return max(1, INPUT_WEIGHT * read + OUTPUT_WEIGHT * written)


def _part(part: Part) -> int:
    match part:
        case Blob():
            return BLOB_TOKENS
        case Text() | Reasoning():
            return estimate_tokens(part.text)
        case ToolCall():
            return estimate_tokens(str(part.arguments))
        case ToolResult():
            return estimate_tokens(part.content)
