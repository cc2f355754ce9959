from __future__ import annotations

import pytest

from celery_lanes.llm.cost import (
    BLOB_TOKENS,
    DEFAULT_MAX_TOKENS,
    estimate_cost,
    estimate_input,
    estimate_tokens,
    real_cost,
)
from celery_lanes.llm.deadline import Deadline
from celery_lanes.llm.messages import Image, Message, Text, ToolCall, ToolResult
from celery_lanes.llm.reply import Usage
from celery_lanes.llm.request import Request


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("abcd", 1), ("abcde", 2)])
def test_four_characters_are_a_token_rounded_up(text, tokens):
    assert estimate_tokens(text) == tokens


def test_output_is_estimated_double_by_max_tokens():
    messages = (
        Message(role="system", content="abcde"),
        Message(role="user", content="abcd"),
    )

    assert estimate_cost(Request(model="m", messages=messages, max_tokens=10)) == 3 + 2 * 10
    assert estimate_cost(Request(model="m", messages=messages)) == 3 + 2 * DEFAULT_MAX_TOKENS


def test_a_real_cost_is_at_least_one():
    assert real_cost(Usage(input_tokens=100, output_tokens=50)) == 200
    assert real_cost(Usage(input_tokens=0, output_tokens=0)) == 1


def test_all_parts_of_a_conversation_count():
    messages = (
        Message(role="user", content=(Text(text="abcd"), Image(url="https://x.test/a.png"))),
        Message(role="assistant", content=(ToolCall(id="1", name="f", arguments="abcd"),)),
        Message(role="tool", content=(ToolResult(id="1", name="f", content="abcd"),)),
    )

    assert estimate_input(messages) == BLOB_TOKENS + 3


def test_time_outs_share_one_deadline():
    deadline = Deadline(60.0)

    assert 9.0 < deadline["connect"] <= 10.0
    assert 59.0 < deadline["read"] <= 60.0
    assert not deadline.is_over


def test_a_time_out_is_never_nought():
    deadline = Deadline(0.0)

    assert deadline.is_over
    assert 0 < deadline.get("connect") < 0.01


def test_a_silence_is_over_before_the_whole():
    deadline = Deadline(60.0, idle_s=0.0)

    assert deadline.is_over
    assert deadline["read"] < 0.01
    assert str(deadline) == "was silent for 0 s"


def test_a_silence_begins_when_there_is_something_to_hear():
    deadline = Deadline(60.0, idle_s=30.0)
    deadline._silent_at = 0.0  # certificates were read, a connection was made

    assert deadline["connect"] > 5.0
    assert deadline["write"] > 50.0
    assert 20.0 < deadline["read"] <= 30.0


def test_a_sign_of_life_renews_the_silence():
    deadline = Deadline(60.0, idle_s=30.0)
    deadline._silent_at = 0.0
    assert deadline.is_over

    deadline.renew()

    assert not deadline.is_over
