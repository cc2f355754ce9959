"""Who serves ``provider/model``: environment variables first, then the providers known by name."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from celery_lanes.errors import BadRequest, ConfigError
from celery_lanes.llm.dsn import Dsn, malformed, read_ollama_host, read_token
from celery_lanes.llm.provider import Provider

if TYPE_CHECKING:
    from celery_lanes.llm.http import Transport

PREFIX = "LLM_"
_DEFAULT_PATH = "/v1"
_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Builtin:
    """A provider that is known by name: its public address, and the variable with its key."""

    base_url: str
    key_variable: str | None = None


BUILTINS: Mapping[str, Builtin] = MappingProxyType(
    {
        "anthropic": Builtin("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
        "cerebras": Builtin("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
        "deepseek": Builtin("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
        "fireworks": Builtin("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
        "gemini": Builtin(
            "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"
        ),
        "groq": Builtin("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
        "mistral": Builtin("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
        "ollama": Builtin("http://localhost:11434/v1"),
        "openai": Builtin("https://api.openai.com/v1", "OPENAI_API_KEY"),
        "openrouter": Builtin("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
        "together": Builtin("https://api.together.xyz/v1", "TOGETHER_API_KEY"),
        "xai": Builtin("https://api.x.ai/v1", "XAI_API_KEY"),
    }
)
"""All of them answer in OpenAI's format."""

PROVIDERS: Mapping[str, str] = MappingProxyType(
    dict.fromkeys([*BUILTINS, "foreman"], "celery_lanes.llm.openai:openai_provider")
)
"""DSN scheme to "module:factory"; a factory takes ``(name, dsn, transport=...)``."""


def parse_target(target: object) -> tuple[str, str]:
    """Split ``provider/model`` at its first slash; the model is kept verbatim.

    Raises ``BadRequest`` for anything else.
    """
    provider, _, model = target.strip().partition("/") if isinstance(target, str) else ("", "", "")
    if not _NAME.fullmatch(provider) or not model:
        example = 'such as "openai/gpt-5-mini"'
        raise BadRequest(f'expected model to be "provider/model", {example}, got {target!r:.100}')
    return provider, model


class Registry:
    """Finds and keeps providers; nothing is read or opened before a name is used.

    Args:
        env: where ``LLM_<NAME>`` and the keys are, usually ``os.environ``; read at each use, so
            that a new key is taken up.
        providers: DSN scheme to "module:factory".
        transport: an httpx transport, in tests.
    """

    def __init__(
        self,
        env: Mapping[str, str],
        *,
        providers: Mapping[str, str] = PROVIDERS,
        transport: Transport | None = None,
    ) -> None:
        self._env = env
        self._providers = providers
        self._transport = transport
        self._open: dict[tuple[int, str, Dsn], Provider] = {}

    def resolve(self, target: object) -> tuple[Provider, str]:
        """Give the provider and its own name of the model.

        Raises ``BadRequest`` for a target that is not ``provider/model``, and ``ConfigError`` for
        an unknown provider, a missing key or a malformed ``LLM_<NAME>``.
        """
        name, model = parse_target(target)
        return self._provider(_canonical(name)), model

    def close(self) -> None:
        """Close this process's connections; a forked child leaves its parent's alone."""
        for key in [key for key in self._open if key[0] == os.getpid()]:
            self._open.pop(key).close()

    def _provider(self, name: str) -> Provider:
        """Give this process's provider: a forked child must not share its parent's connections."""
        key = (os.getpid(), name, self._dsn(name))
        if (known := self._open.get(key)) is not None:
            return known
        return self._open.setdefault(key, self._make(name, key[-1]))  # no lock: it might be forked

    def _make(self, name: str, dsn: Dsn) -> Provider:
        module, _, factory = self._providers[dsn.scheme].partition(":")
        make: Any = getattr(import_module(module), factory)
        provider: Provider = make(name, dsn, transport=self._transport)
        return provider

    def _dsn(self, name: str) -> Dsn:
        variable = PREFIX + name.upper()
        if text := self._env.get(variable, "").strip():
            return self._checked(Dsn.parse(text, variable=variable), variable)
        if name not in BUILTINS:
            raise self._unknown(name, variable)
        return self._builtin(name, BUILTINS[name])

    def _checked(self, dsn: Dsn, variable: str) -> Dsn:
        """Refuse an unknown scheme; a bare host gets the path that its kind of API has."""
        if dsn.scheme not in self._providers:
            raise malformed(variable, f"the schemes are {', '.join(sorted(self._providers))}")
        known = BUILTINS.get(dsn.scheme)
        return dsn.with_path(urlsplit(known.base_url).path if known else _DEFAULT_PATH)

    def _builtin(self, name: str, known: Builtin) -> Dsn:
        if known.key_variable is None:
            host = self._env.get("OLLAMA_HOST", "").strip()
            base_url = read_ollama_host(host) if host else known.base_url
            return Dsn(name, base_url).with_path(_DEFAULT_PATH)
        variable = known.key_variable
        token = read_token(self._env.get(variable, ""), variable=variable)
        if token is None:
            raise ConfigError(f"no key for {name}: set {variable}, or {PREFIX}{name.upper()}")
        return Dsn(name, known.base_url, token)

    def _unknown(self, name: str, variable: str) -> ConfigError:
        close = difflib.get_close_matches(name, sorted({*BUILTINS, *self._named()}))
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        return ConfigError(
            f"no provider {name!r:.100}: {variable:.100} is not set, and it is none of "
            f"{', '.join(BUILTINS)}{hint}"
        )

    def _named(self) -> set[str]:
        return {
            variable.removeprefix(PREFIX).lower()
            for variable, value in self._env.items()
            if variable.startswith(PREFIX) and "://" in value
        }


def _canonical(name: str) -> str:
    """Make one spelling of a provider's name; environment variables have no dash and no case."""
    return name.lower().replace("-", "_")
