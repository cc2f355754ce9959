from __future__ import annotations

import json

import httpx
import pytest

from celery_lanes.errors import BadRequest, RateLimited, TransientError
from celery_lanes.llm.reply import Usage


class Recorder:
    """Answers with a completion, and keeps what it was asked."""

    def __init__(self, completion):
        self._completion = completion

    def __call__(self, request):
        self.url = str(request.url)
        self.asked = json.loads(request.content)
        return httpx.Response(200, json=self._completion)


@pytest.fixture
def server(completion):
    return Recorder(completion)


def test_a_completion_is_a_reply(ask, completion):
    reply = ask(httpx.Response(200, json=completion))

    assert reply.text == "hello"
    assert reply.usage == Usage(input_tokens=7, output_tokens=3)
    assert (reply.model, reply.finish_reason) == ("small-2026", "stop")


def test_only_what_is_given_is_sent(ask, server):
    ask(server)

    assert server.url == "https://llm.test/v1/chat/completions"
    assert server.asked == {
        "model": "small",
        "messages": [{"role": "user", "content": "hi there"}],
    }


def test_parameters_are_passed_on(ask, server):
    ask(server, max_tokens=9, temperature=0.0, params={"seed": 1})

    assert server.asked["max_tokens"] == 9
    assert server.asked["temperature"] == 0.0
    assert server.asked["seed"] == 1


@pytest.mark.parametrize(
    ("dsn", "field"),
    [
        ("openai://k@api.openai.com/v1", "max_completion_tokens"),
        ("openai://k@vllm.test/v1", "max_tokens"),
        ("openai://k@x.test/v1?max_tokens_field=max_completion_tokens", "max_completion_tokens"),
    ],
)
def test_max_tokens_has_the_name_that_the_server_knows(ask, server, dsn, field):
    ask(server, dsn=dsn, max_tokens=9)

    assert server.asked[field] == 9


@pytest.mark.parametrize("name", ["stream", "messages", "model"])
def test_a_parameter_that_is_ours_is_refused(ask, server, name):
    with pytest.raises(BadRequest, match=name):
        ask(server, params={name: True})


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        pytest.param(None, (2, 2), id="missing"),
        pytest.param({}, (2, 2), id="empty"),
        pytest.param({"prompt_tokens": 7}, (7, 2), id="half"),
        pytest.param({"prompt_tokens": -1, "completion_tokens": "3"}, (2, 2), id="nonsense"),
        pytest.param({"prompt_tokens": True, "completion_tokens": 0}, (2, 0), id="bool"),
    ],
)
def test_missing_usage_is_estimated(ask, completion, usage, counted):
    completion["usage"] = usage

    usage = ask(httpx.Response(200, json=completion)).usage

    assert (usage.input_tokens, usage.output_tokens) == counted
    assert usage.is_estimated


@pytest.mark.parametrize(
    ("content", "text"),
    [
        pytest.param(None, "", id="refusal"),
        pytest.param([{"type": "text", "text": "a"}, {"text": "b"}, "c"], "ab", id="parts"),
    ],
)
def test_content_may_be_none_or_parts(ask, completion, content, text):
    completion["choices"] = [{"message": {"content": content}}]

    reply = ask(httpx.Response(200, json=completion))

    assert (reply.text, reply.finish_reason) == (text, None)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<html>", "no JSON object"),
        (b"", "no JSON object"),
        (b"[1]", "no JSON object"),
        (b"{}", "no choices"),
        (b'{"choices": []}', "no choices"),
        (b'{"choices": {"0": 1}}', "no choices"),
        (b'{"choices": [{"text": "old API"}]}', "no choices"),
    ],
)
def test_an_odd_reply_is_transient(ask, content, what):
    with pytest.raises(TransientError, match=f"^m1/small answered oddly: {what}"):
        ask(httpx.Response(200, content=content))


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        ({"code": 429, "message": "slow down"}, RateLimited, 429),
        ({"code": "oops", "message": "what"}, TransientError, None),
        ("what", TransientError, None),
    ],
    ids=["status-inside", "code", "string"],
)
def test_an_error_that_comes_with_status_200_is_an_error(ask, error, kind, status):
    with pytest.raises(kind) as caught:
        ask(httpx.Response(200, json={"error": error}))

    assert type(caught.value) is kind
    assert caught.value.status == status
