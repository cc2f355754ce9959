from __future__ import annotations

import pytest

from celery_lanes.llm.base import (
    DEFAULT_MAX_TOKENS,
    Deadline,
    Message,
    Request,
    Usage,
    estimate_cost,
    estimate_tokens,
    real_cost,
)


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("abcd", 1), ("abcde", 2)])
def test_four_characters_are_a_token_rounded_up(text, tokens):
    assert estimate_tokens(text) == tokens


def test_output_is_estimated_double_by_max_tokens():
    messages = (Message("system", "abcde"), Message("user", "abcd"))

    assert estimate_cost(Request(model="m", messages=messages, max_tokens=10)) == 3 + 2 * 10
    assert estimate_cost(Request(model="m", messages=messages)) == 3 + 2 * DEFAULT_MAX_TOKENS


def test_a_real_cost_is_at_least_one():
    assert real_cost(Usage(100, 50)) == 200
    assert real_cost(Usage(0, 0)) == 1


def test_time_outs_share_one_deadline():
    deadline = Deadline(60.0)

    assert deadline["connect"] == 10.0
    assert 59.0 < deadline["read"] <= 60.0
    assert not deadline.is_over


def test_a_time_out_is_never_nought():
    deadline = Deadline(0.0)

    assert deadline.is_over
    assert 0 < deadline.get("connect") < 0.01
