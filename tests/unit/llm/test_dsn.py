from __future__ import annotations

import pytest

from celery_lanes.errors import ConfigError
from celery_lanes.llm.dsn import Dsn, read_ollama_host, read_token


def parse(text: str) -> Dsn:
    return Dsn.parse(text, variable="LLM_M1")


@pytest.mark.parametrize(
    ("text", "scheme", "base_url", "token"),
    [
        pytest.param("openai://llm.test", "openai", "https://llm.test", None, id="bare"),
        pytest.param("openai://t@llm.test", "openai", "https://llm.test", "t", id="token"),
        pytest.param("openai://t@h:8/v1/", "openai", "https://h:8/v1", "t", id="port-and-path"),
        pytest.param("openai://a@b@h/v1", "openai", "https://h/v1", "a@b", id="at-in-token"),
        pytest.param("openai://a/b?c@h/v1", "openai", "https://h/v1", "a/b?c", id="odd-token"),
        pytest.param("openai://a%40b%2F@h", "openai", "https://h", "a@b/", id="percent-encoded"),
        pytest.param("openai+http://h:1/v1", "openai", "http://h:1/v1", None, id="plaintext"),
        pytest.param("openai://[::1]:8080/v1", "openai", "https://[::1]:8080/v1", None, id="ipv6"),
        pytest.param("openai://my_box/v1", "openai", "https://my_box/v1", None, id="underscore"),
        pytest.param(" OpenAI+HTTP://h ", "openai", "http://h", None, id="case-and-space"),
    ],
)
def test_a_dsn_is_read(text, scheme, base_url, token):
    dsn = parse(text)

    secret = dsn.token.get_secret_value() if dsn.token else None
    assert (dsn.scheme, dsn.base_url, secret) == (scheme, base_url, token)


def test_a_query_string_holds_options():
    assert parse("openai://t@h/v1?a=1&b=x%20y").options == (("a", "1"), ("b", "x y"))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("hunter2", id="no-scheme"),
        pytest.param("hunter2@h", id="no-separator"),
        pytest.param("hun ter2://h", id="odd-scheme"),
        pytest.param("openai://hunter2@a..b", id="host-with-a-gap"),
        pytest.param(f"openai://hunter2@{'a' * 64}.test", id="host-that-is-too-long"),
        pytest.param("openai://hunter2@xn--zzzz.test", id="host-that-is-no-idna"),
        pytest.param("openai://hunter2@", id="no-host"),
        pytest.param("openai://hunter2@/v1", id="only-path"),
        pytest.param("openai://hunter2@h:99999", id="port-too-high"),
        pytest.param("openai://hunter2@h:0", id="port-nought"),
        pytest.param("openai://hunter2@[::1", id="half-an-address"),
        pytest.param("openai://hunter2@a b", id="space-in-host"),
        pytest.param("openai://hunter2@h/v1#x", id="fragment"),
        pytest.param("openai://hunter2%0A@h/x%0Ahunter2%20x@h", id="newline-in-token"),
    ],
)
def test_a_malformed_dsn_is_refused_without_being_shown(text):
    with pytest.raises(ConfigError, match="LLM_M1") as caught:
        parse(text)

    assert "hunter2" not in repr(caught.value.args)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_malformed_dsn_is_told_the_form():
    with pytest.raises(ConfigError, match=r'LLM_M1 to be "scheme://\[token@\]host\[/path\]'):
        parse("nonsense")


def test_a_dsn_hides_its_token():
    dsn = parse("openai://hunter2@h")

    assert "hunter2" not in repr(dsn)
    assert "hunter2" not in str(dsn)


@pytest.mark.parametrize("text", ["a b", "a\nb", "schlüssel"], ids=["space", "newline", "umlaut"])
def test_a_key_that_fits_no_header_is_refused_without_being_shown(text):
    with pytest.raises(ConfigError, match="OPENAI_API_KEY") as caught:
        read_token(text, variable="OPENAI_API_KEY")

    assert text not in str(caught.value)


def test_white_space_around_a_key_is_dropped():
    assert read_token(" key\n", variable="K").get_secret_value() == "key"
    assert read_token(" \n", variable="K") is None


@pytest.mark.parametrize(
    ("host", "base_url"),
    [
        ("gpu", "http://gpu:11434"),
        ("gpu:8080", "http://gpu:8080"),
        ("http://gpu:8080/", "http://gpu:8080"),
        ("https://gpu/ollama", "https://gpu/ollama"),
        ("[::1]", "http://[::1]:11434"),
    ],
)
def test_an_ollama_host_is_read_as_ollama_does(host, base_url):
    assert read_ollama_host(host) == base_url


@pytest.mark.parametrize("host", ["ftp://gpu", "a b", "gpu:99999"])
def test_a_wrong_ollama_host_is_refused(host):
    with pytest.raises(ConfigError, match="OLLAMA_HOST"):
        read_ollama_host(host)
