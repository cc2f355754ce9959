from __future__ import annotations

import os

import httpx
import pytest

from celery_lanes.errors import BadRequest, ConfigError
from celery_lanes.llm.messages import Message
from celery_lanes.llm.registry import BUILTINS, Registry, parse_target
from celery_lanes.llm.request import Request


def asked_url(env: dict[str, str], target: str) -> tuple[str, str | None]:
    """Resolve, ask, and give the URL and the Authorization header that went out."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"choices": [{"message": {"content": "x"}}]})

    registry = Registry(env, transport=httpx.MockTransport(answer))
    provider, model = registry.resolve(target)
    provider.generate(
        Request(model=model, messages=(Message(role="user", content="x"),)), timeout_s=5
    )
    return str(seen[0].url), seen[0].headers.get("authorization")


@pytest.mark.parametrize(
    ("target", "parsed"),
    [
        ("openai/gpt-5-mini", ("openai", "gpt-5-mini")),
        ("m5/qwen3:30b", ("m5", "qwen3:30b")),
        ("ollama/richard/Qwen3-14b:q4_K_M", ("ollama", "richard/Qwen3-14b:q4_K_M")),
    ],
)
def test_a_target_is_split_at_its_first_slash(target, parsed):
    assert parse_target(target) == parsed


@pytest.mark.parametrize("target", ["", "gpt", "/gpt", "openai/", "a b/c", " / ", None, 7, ["a/b"]])
def test_what_is_no_target_is_refused_with_an_example(target):
    with pytest.raises(BadRequest, match='"provider/model", such as "openai/gpt-5-mini"'):
        parse_target(target)


def test_openai_needs_only_its_key():
    url, authorization = asked_url({"OPENAI_API_KEY": "sk-1"}, "openai/gpt-5-mini")

    assert url == "https://api.openai.com/v1/chat/completions"
    assert authorization == "Bearer sk-1"


@pytest.mark.parametrize("name", [name for name, known in BUILTINS.items() if known.key_variable])
def test_each_known_provider_takes_its_key_from_its_variable(name):
    known = BUILTINS[name]

    url, authorization = asked_url({known.key_variable: "k"}, f"{name}/m")

    assert (url, authorization) == (f"{known.base_url}/chat/completions", "Bearer k")


def test_a_missing_key_is_told_with_both_variables():
    with pytest.raises(ConfigError, match="set OPENAI_API_KEY, or LLM_OPENAI"):
        Registry({}).resolve("openai/gpt-5-mini")


@pytest.mark.parametrize(
    ("env", "url"),
    [
        ({}, "http://localhost:11434/v1/chat/completions"),
        ({"OLLAMA_HOST": "gpu"}, "http://gpu:11434/v1/chat/completions"),
        ({"OLLAMA_HOST": "https://gpu/v1/"}, "https://gpu/v1/chat/completions"),
    ],
    ids=["default", "host", "url"],
)
def test_ollama_needs_no_key(env, url):
    assert asked_url(env, "ollama/qwen3:30b") == (url, None)


@pytest.mark.parametrize("name", ["my-box", "my_box", "MY-BOX"])
def test_a_dash_is_an_underscore_and_case_is_no_matter(name):
    env = {"LLM_MY_BOX": "openai+http://key@box:8080/api"}

    assert asked_url(env, f"{name}/m") == ("http://box:8080/api/chat/completions", "Bearer key")


def test_a_variable_goes_before_what_is_known_by_name():
    env = {"LLM_OPENAI": "openai://own@proxy.test/v1", "OPENAI_API_KEY": "sk-1"}

    url, authorization = asked_url(env, "openai/gpt-5-mini")

    assert (url, authorization) == ("https://proxy.test/v1/chat/completions", "Bearer own")


@pytest.mark.parametrize(
    ("dsn", "url"),
    [
        ("openai://h", "https://h/v1/chat/completions"),
        ("groq://h", "https://h/openai/v1/chat/completions"),
        ("foreman://t@h", "https://h/v1/chat/completions"),
        ("ollama+http://h:11434", "http://h:11434/v1/chat/completions"),
        ("openai://h/api", "https://h/api/chat/completions"),
    ],
)
def test_a_bare_host_gets_the_path_of_its_kind(dsn, url):
    assert asked_url({"LLM_M1": dsn}, "m1/x")[0] == url


def test_malformed_values_matter_only_when_their_name_is_used():
    env = {"LLM_API_KEY": "hunter2", "LLM_BAD": "hunter2", "LLM_M1": "openai://h"}
    registry = Registry(env)

    assert registry.resolve("m1/x")[1] == "x"
    with pytest.raises(ConfigError, match="LLM_BAD") as caught:
        registry.resolve("bad/x")
    assert "hunter2" not in str(caught.value)


def test_an_unknown_scheme_is_told_the_known_ones_and_not_shown():
    with pytest.raises(ConfigError, match=r"LLM_M1.*anthropic.*openai") as caught:
        Registry({"LLM_M1": "hunter2://h"}).resolve("m1/x")

    assert "hunter2" not in str(caught.value)


def test_an_unknown_provider_is_told_what_was_checked_and_what_is_close():
    env = {"LLM_OPENER": "openai://h", "LLM_API_KEY": "x"}

    with pytest.raises(ConfigError, match="no provider 'opnai'") as caught:
        Registry(env).resolve("opnai/gpt")

    message = str(caught.value)
    assert "LLM_OPNAI" in message
    assert "anthropic" in message
    assert "did you mean openai" in message


def test_an_unknown_option_is_refused():
    with pytest.raises(ConfigError, match="LLM_M1 knows no speed, only max_tokens_field"):
        Registry({"LLM_M1": "openai://h?speed=9"}).resolve("m1/x")


def test_a_provider_is_kept_until_its_variable_changes():
    env = {"LLM_M1": "openai://old@h"}
    registry = Registry(env)

    first, again = registry.resolve("m1/x")[0], registry.resolve("m1/y")[0]
    env["LLM_M1"] = "openai://new@h"

    assert first is again
    assert registry.resolve("m1/x")[0] is not first


def test_a_forked_child_makes_its_own(monkeypatch):
    registry = Registry({"LLM_M1": "openai://h"})
    parents = registry.resolve("m1/x")[0]

    monkeypatch.setattr(os, "getpid", lambda: -1)

    assert registry.resolve("m1/x")[0] is not parents


def test_a_registry_reads_nothing_before_it_is_used():
    class Untouchable(dict):
        def get(self, *_):
            raise AssertionError

    Registry(Untouchable())


def test_a_table_of_providers_can_be_extended():
    table = {"own": "celery_lanes.llm.openai:openai_provider"}

    provider, model = Registry({"LLM_M1": "own://h"}, providers=table).resolve("m1/x")

    assert (provider.name, model) == ("m1", "x")


def test_a_closed_registry_opens_anew():
    registry = Registry({"LLM_M1": "openai://h"})
    first = registry.resolve("m1/x")[0]

    registry.close()

    assert registry.resolve("m1/x")[0] is not first


def test_no_repr_shows_a_key():
    registry = Registry({"LLM_M1": "openai://hunter2@h"})
    provider = registry.resolve("m1/x")[0]

    assert "hunter2" not in repr(registry) + repr(provider) + repr(provider._http)
