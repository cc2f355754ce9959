from __future__ import annotations

import os
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace

import httpx
import pytest

from celery_lanes.errors import AliasCycle, ConfigError, SpecError
from celery_lanes.llm import registry as registry_module
from celery_lanes.llm.chains.effects import ChainConfig
from celery_lanes.llm.environment import Environment
from celery_lanes.llm.known import BUILTINS
from celery_lanes.llm.messages import Message
from celery_lanes.llm.providers.fake import FakeProvider
from celery_lanes.llm.registry import Registry
from celery_lanes.llm.request import Request
from celery_lanes.store.health import HealthConfig
from celery_lanes.store.memory.health import MemoryHealth

WHOLE = {
    "choices": [{"message": {"content": "x"}}],
    "content": [{"type": "text", "text": "x"}],
    "candidates": [{"content": {"parts": [{"text": "x"}]}}],
    "message": {"content": "x"},
}
"""A reply for every kind of API."""

ASK = Request(model="?", messages=(Message(role="user", content="x"),))


def asked_url(env: dict[str, str] | Environment, target: str, **options) -> tuple[str, str | None]:
    """Parse, ask, and give the URL and the key that went out."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=WHOLE)

    registry = Registry(env, transport=httpx.MockTransport(answer), **options)
    (target,) = registry.parse(target)
    target.generate(ASK)
    found = (seen[0].headers.get(n) for n in ("authorization", "x-api-key", "x-goog-api-key"))
    return str(seen[0].url), next((key for key in found if key), None)


def test_openai_needs_only_its_key():
    url, authorization = asked_url({"OPENAI_API_KEY": "sk-1"}, "openai/gpt-5-mini")

    assert url == "https://api.openai.com/v1/chat/completions"
    assert authorization == "Bearer sk-1"


@pytest.mark.parametrize("name", [name for name, known in BUILTINS.items() if known.key_variable])
def test_each_known_provider_takes_its_key_from_its_variable(name):
    known = BUILTINS[name]

    url, key = asked_url({known.key_variable: "k"}, f"{name}/m")

    assert url.startswith(known.base_url + "/")
    assert key in {"k", "Bearer k"}


def test_a_missing_key_is_told_with_both_variables_when_its_provider_is_asked():
    chain = Registry({}).parse("fake/x,openai/gpt-5-mini")

    assert str(chain[1]) == "openai/gpt-5-mini"
    with pytest.raises(ConfigError, match="set OPENAI_API_KEY, or LLM_OPENAI"):
        chain[1].generate(ASK)


@pytest.mark.parametrize("spec", ["fake/x,opnai/y", "fake/x,bad/y", "fake/x,odd/y"])
def test_a_name_that_nobody_can_be_is_refused_at_once(spec):
    registry = Registry({"LLM_BAD": "hunter2", "LLM_ODD": "nonsense://h"})

    with pytest.raises(ConfigError, match=r"LLM_(OPNAI|BAD|ODD)"):
        registry.parse(spec)


def test_a_key_is_taken_up_that_comes_after_the_chain():
    env = {}
    chain = Registry(env).parse("openai/x")

    env["OPENAI_API_KEY"] = "k"

    assert chain[0].provider is chain[0].provider


def test_a_provider_is_opened_once_however_many_threads_ask_for_it():
    registry = Registry({"LLM_M1": "own://h"})
    made, together, another = [], threading.Barrier(4), threading.Barrier(2)

    def factory(name, _):
        made.append(name)
        with suppress(threading.BrokenBarrierError):
            another.wait(0.2)  # for a thread that opens it as well
        return FakeProvider(name)

    registry.register_scheme("own", factory)
    chain = registry.parse("m1/x")
    assert made == []

    def opened(_):
        together.wait(60)
        return chain[0].provider

    with ThreadPoolExecutor(4) as pool:
        found = set(map(id, pool.map(opened, range(4))))

    assert (made, len(found)) == (["m1"], 1)


def test_what_a_factory_raises_is_a_matter_of_configuration_and_not_shown():
    def factory(_, dsn):
        raise RuntimeError(dsn.token.get_secret_value())

    registry = Registry({"LLM_M1": "own://hunter2@h"})
    registry.register_scheme("own", factory)
    chain = registry.parse("m1/x")

    with pytest.raises(ConfigError, match=r"'m1' cannot be opened: RuntimeError: .+") as caught:
        chain.generate(ASK)

    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    assert registry.health.conditions() == []


@pytest.mark.parametrize(
    ("env", "url"),
    [
        ({}, "http://localhost:11434/api/chat"),
        ({"OLLAMA_HOST": "gpu"}, "http://gpu:11434/api/chat"),
        ({"OLLAMA_HOST": ":8000"}, "http://localhost:8000/api/chat"),
        ({"OLLAMA_HOST": "https://gpu/o/"}, "https://gpu/o/api/chat"),
    ],
    ids=["default", "host", "port", "url"],
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
        ("foreman://t@h", "https://h/api/chat"),
        ("ollama+http://h:11434", "http://h:11434/api/chat"),
        ("anthropic://h", "https://h/v1/messages"),
        ("gemini://h", "https://h/v1beta/models/x:generateContent"),
        ("openai://h/api", "https://h/api/chat/completions"),
    ],
)
def test_a_bare_host_gets_the_path_of_its_kind(dsn, url):
    assert asked_url({"LLM_M1": dsn}, "m1/x")[0] == url


def test_malformed_values_matter_only_when_their_name_is_used():
    env = {"LLM_API_KEY": "hunter2", "LLM_BAD": "hunter2", "LLM_M1": "openai://h"}
    registry = Registry(env)

    assert registry.parse("m1/x")[0].model == "x"
    with pytest.raises(ConfigError, match=r"no provider 'bad' is registered, .*LLM_BAD") as caught:
        registry.parse("bad/x")
    assert "hunter2" not in str(caught.value)


def test_an_unknown_scheme_is_told_the_known_ones_and_not_shown():
    with pytest.raises(ConfigError, match=r"LLM_M1.*anthropic.*openai") as caught:
        Registry({"LLM_M1": "hunter2://h"}).parse("m1/x")

    assert "hunter2" not in str(caught.value)


def test_an_unknown_provider_is_told_both_places_and_what_is_close():
    env = {"LLM_OPENER": "openai://h", "LLM_API_KEY": "x"}

    with pytest.raises(ConfigError, match="no provider 'opnai'") as caught:
        Registry(env).parse("opnai/gpt")

    message = str(caught.value)
    assert "not registered, and LLM_OPNAI is not set" in message
    assert "anthropic" in message
    assert "did you mean openai" in message


@pytest.mark.parametrize("scheme", ["openai", "anthropic", "gemini", "ollama", "foreman"])
def test_an_unknown_option_is_refused(scheme):
    with pytest.raises(ConfigError, match="LLM_BOX knows no option fast"):
        Registry({"LLM_BOX": f"{scheme}://h?fast=1"}).provider("box")


def test_a_provider_is_kept_until_its_variable_changes():
    env = {"LLM_M1": "openai://old@h"}
    registry = Registry(env)

    first, again = registry.provider("m1"), registry.provider("M1")
    env["LLM_M1"] = "openai://new@h"

    assert first is again
    assert registry.provider("m1") is not first


def test_a_forked_child_has_connections_of_its_own(monkeypatch):
    client = Registry({"LLM_M1": "openai://h"}).provider("m1")._http
    parents = client._client()
    assert client._client() is parents

    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert client._client() is not parents
    client.close()

    assert not parents.is_closed


def test_a_registry_reads_nothing_before_it_is_used():
    read = []

    class Watched(dict):
        def __getitem__(self, name):
            read.append(name)
            return super().__getitem__(name)

        def get(self, name, default=None):
            read.append(name)
            return super().get(name, default)

    registry = Registry(Watched({"LLM_M1": "openai://h"}))

    assert read == []
    assert registry.provider("m1").name == "m1"
    assert "LLM_M1" in read


def test_a_provider_can_be_registered_and_goes_before_all_others():
    registry = Registry({"LLM_OPENAI": "openai://h"})
    mine = FakeProvider("OpenAI")

    registry.register_provider(mine)

    assert registry.provider("openai") is mine
    assert str(registry.parse("openai/x")[0]) == "OpenAI/x"


def test_what_is_no_provider_is_refused():
    with pytest.raises(ConfigError, match="expected a provider, got dict"):
        Registry({}).register_provider({})
    with pytest.raises(ConfigError, match="expected letters"):
        Registry({}).register_provider(FakeProvider("a/b"))


def test_a_scheme_can_be_registered():
    registry = Registry({"LLM_M1": "own://key@h"})
    made = []

    def factory(name, dsn):
        made.append((name, dsn.base_url, dsn.token.get_secret_value()))
        return FakeProvider(name)

    registry.register_scheme("own", factory)

    assert registry.provider("m1").name == "m1"
    assert made == [("m1", "https://h", "key")]


def test_a_scheme_can_come_with_another_package(monkeypatch):
    found = SimpleNamespace(load=lambda: lambda name, _: FakeProvider(name))
    asked = []

    def entry_points(**chosen):
        asked.append(chosen)
        return [found]

    monkeypatch.setattr(registry_module, "entry_points", entry_points)

    assert isinstance(Registry({"LLM_M1": "own://h"}).provider("m1"), FakeProvider)
    assert asked == [{"group": "celery_lanes.providers", "name": "own"}]


def test_environment_variables_can_be_loaded_from_anywhere():
    registry = Registry({})
    env = {
        "LLM_MY_BOX": "openai://key@h",
        "LLM_BAD": "openai://hunter2@",
        "LLM_API_KEY": "hunter2",
        "OTHER": "openai://h",
    }

    (wrong,) = registry.load_env(env)

    assert "LLM_BAD" in str(wrong)
    assert "hunter2" not in str(wrong)
    assert registry.provider("my-box").name == "my_box"
    with pytest.raises(ConfigError, match="LLM_BAD"):
        registry.provider("bad")
    with pytest.raises(ConfigError, match="LLM_API_KEY is not set"):
        registry.provider("api_key")


def test_the_last_registration_counts():
    registry = Registry({})
    registry.register_provider(FakeProvider("m1"))

    registry.load_env({"LLM_M1": "openai://h"})
    assert not isinstance(registry.provider("m1"), FakeProvider)
    registry.register_provider(FakeProvider("m1"))

    assert isinstance(registry.provider("m1"), FakeProvider)


def test_without_eager_variables_they_are_looked_for_last():
    env = {
        "LLM_OPENAI": "openai://own@proxy.test/v1",
        "OPENAI_API_KEY": "k",
        "LLM_M1": "openai://h",
    }

    assert asked_url(env, "openai/x", env_providers=False)[0].startswith("https://api.openai.com")
    assert asked_url(env, "m1/x", env_providers=False)[0] == "https://h/v1/chat/completions"


def test_where_to_look_last_can_be_told():
    def lookup(variable):
        return {"LLM_M2": "openai://h"}.get(variable)

    assert asked_url({}, "m2/x", env_lookup=lookup)[0] == "https://h/v1/chat/completions"


def test_a_lookup_that_fails_is_no_failure_of_who_is_asked():
    def lookup(_):
        raise ConnectionError("no vault")

    registry = Registry({}, env_lookup=lookup)

    with pytest.raises(ConfigError, match="'openai' cannot be opened: ConnectionError: no vault"):
        registry.parse("openai/x").generate(ASK)
    assert registry.health.conditions() == []


def test_the_prefix_can_be_another():
    env = Environment({"AI_M1": "openai://h"}, prefix="AI_")

    assert asked_url(env, "m1/x")[0].startswith("https://h/")
    with pytest.raises(ConfigError, match="AI_M2 is not set"):
        Registry(Environment({"LLM_M2": "openai://h"}, prefix="AI_")).provider("m2")


def test_the_environment_is_the_processs_own_by_default(monkeypatch):
    monkeypatch.setenv("LLM_M1", "openai://h")

    assert Registry().provider("m1").name == "m1"


def test_a_spec_is_parsed_into_targets():
    registry = Registry({"LLM_M5": "foreman://t@h"})
    registry.register_alias("thinking", "fake/opus, ollama/minimax:cloud")

    targets = registry.parse("m5/qwen3:30b,ollama/kimi,thinking,M5/qwen3:30b")

    assert [str(t) for t in targets] == [
        "m5/qwen3:30b",
        "ollama/kimi",
        "fake/opus",
        "ollama/minimax:cloud",
    ]
    assert targets[0].provider.timeout_s == 1800.0


def test_a_resolver_is_asked_for_what_is_no_alias():
    registry = Registry({})
    registry.register_alias("a", "fake/a")
    registry.register_resolver({"a": "fake/other", "b": "a,c"}.get)
    registry.register_resolver({"c": "fake/c"}.get)

    assert [str(target) for target in registry.parse("b")] == ["fake/a", "fake/c"]


def test_a_wrong_alias_is_refused_at_once_and_a_circle_when_it_is_used():
    registry = Registry({})
    registry.register_alias("a", "a")

    with pytest.raises(SpecError, match="without / and comma"):
        registry.register_alias("a/b", "fake/x")
    with pytest.raises(AliasCycle, match="a -> a"):
        registry.parse("a")


def test_a_registry_is_used_by_many_threads():
    env = {f"LLM_M{n}": "openai://h" for n in range(20)}
    registry = Registry(env)

    def use(number: int) -> str:
        registry.register_alias(f"a{number}", f"m{number}/x")
        return str(registry.parse(f"a{number}")[0])

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(use, [*range(20)] * 20))

    assert found == [f"m{n}/x" for n in range(20)] * 20


def test_a_closed_registry_opens_anew():
    registry = Registry({"LLM_M1": "openai://h"})
    first = registry.provider("m1")

    registry.close()

    assert registry.provider("m1") is not first


def test_no_repr_shows_a_key():
    registry = Registry({"LLM_M1": "openai://hunter2@h"})
    registry.load_env({"LLM_M2": "openai://hunter2@h"})
    targets = registry.parse("m1/x,m2/x")

    env = Environment({"LLM_M1": "openai://hunter2@h"})
    shown = [
        env,
        registry,
        targets,
        *targets,
        targets[0].provider._http,
        registry._named,
        registry._open,
    ]
    assert "hunter2" not in repr(shown)


def test_what_a_chain_will_need_is_kept():
    chain, health = ChainConfig(transient_retries=0), HealthConfig(failure_threshold=1)

    registry = Registry({}, chain=chain, health=health, clock=lambda: 7.0)

    assert registry.chain_config == chain
    assert registry.health.report(registry.health.enter("m1/x", probe_s=1), "count") is not None


def test_registries_may_share_what_they_know_of_health():
    health = MemoryHealth()

    assert Registry({}, health=health).health is Registry({}, health=health).health


def test_names_are_found_without_a_provider_and_known_until_something_new_is_registered():
    registry = Registry({})
    registry.register_alias("quick", "nobody/x")

    first, again = registry.names("quick"), registry.names("quick")
    registry.register_alias("quick", "nobody/y")
    changed = registry.names("quick")
    registry.register_resolver(lambda name: f"nobody/{name}")

    assert first is again == (("nobody", "x"),)
    assert changed == (("nobody", "y"),)
    assert registry.names("z") == (("nobody", "z"),)
    assert registry.knows_alias("quick")
    assert not registry.knows_alias("z")
