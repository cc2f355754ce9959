"""Where providers are: in ``LLM_<NAME>``, or, with their keys, where those known by name are."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from celery_lanes.errors import ConfigError
from celery_lanes.llm.dsn import Dsn, read_ollama_host, read_token
from celery_lanes.llm.known import BUILTINS, Builtin

PREFIX = "LLM_"


@dataclass(frozen=True, slots=True)
class Environment:
    """Variables, and what those begin with that name providers. Its repr shows none of them.

    Attributes:
        variables: by default the process's own; read at each use, so that a new key is taken up.
        prefix: in place of ``LLM_``.
    """

    variables: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    prefix: str = PREFIX

    def variable(self, name: str) -> str:
        """Name the variable of a provider."""
        return self.prefix + name.upper()

    def text(self, variable: str) -> str:
        """Give a variable's value; empty if there is none."""
        return self.variables.get(variable, "").strip()

    def named(self) -> Iterator[tuple[str, str]]:
        """Give the variables that name providers, with their values.

        A value without ``://`` is none: ``LLM_API_KEY`` is a common name.
        """
        for variable, text in self.variables.items():
            if variable.startswith(self.prefix) and "://" in text:
                yield variable, text


class Addresses:
    """Finds the DSN of a provider, whose name is given as ``canonical`` spells it.

    Args:
        env: where variables are.
        env_first: whether ``LLM_<NAME>`` goes before what is known by that name.
        lookup: where the variable of what is not known is looked for.
    """

    def __init__(
        self, env: Environment, *, env_first: bool, lookup: Callable[[str], str | None]
    ) -> None:
        self._env = env
        self._env_first = env_first
        self._lookup = lookup

    def find(self, name: str, told: Dsn | ConfigError | None, others: Iterable[str] = ()) -> Dsn:
        """Give it; ``told`` is what is registered, ``others`` are the names of all that is.

        Raises ``ConfigError`` for an unknown provider, a missing key or a malformed DSN.
        """
        found = self._written(name, told)
        if found is None and (known := BUILTINS.get(name)):
            found = self._builtin(known)
        if found is None and (text := (self._lookup(self._env.variable(name)) or "").strip()):
            found = read_dsn(text, self._env.variable(name))
        if found is None:
            raise self._unknown(name, others)
        if isinstance(found, ConfigError):
            raise ConfigError(f"no provider {name!r:.100} is registered, and {found}")
        return found

    def scheme(self, name: str, told: Dsn | ConfigError | None, others: Iterable[str] = ()) -> str:
        """Say which kind of API it has; the key of what is known by name may be missing.

        Raises ``ConfigError`` for an unknown provider, or a malformed DSN.
        """
        if (known := BUILTINS.get(name)) and self._written(name, told) is None:
            return known.scheme
        return self.find(name, told, others).scheme

    def _written(self, name: str, told: Dsn | ConfigError | None) -> Dsn | ConfigError | None:
        variable = self._env.variable(name)
        if told is None and self._env_first and (text := self._env.text(variable)):
            return read_dsn(text, variable)
        return told

    def _builtin(self, known: Builtin) -> Dsn | None:
        """Give the address and key of what is known by name; ``None`` if the key is missing."""
        if (variable := known.key_variable) is not None:
            token = read_token(self._env.text(variable), variable=variable)
            return Dsn(known.scheme, known.base_url, token) if token else None
        host = self._env.text("OLLAMA_HOST") if known.scheme == "ollama" else ""
        return Dsn(known.scheme, read_ollama_host(host) if host else known.base_url)

    def _unknown(self, name: str, others: Iterable[str]) -> ConfigError:
        variable = self._env.variable(name)
        if (known := BUILTINS.get(name)) is not None:
            return ConfigError(f"no key for {name}: set {known.key_variable}, or {variable}")
        prefix = self._env.prefix
        in_env = (found.removeprefix(prefix).lower() for found, _ in self._env.named())
        names = sorted({*BUILTINS, *others, *in_env})
        close = difflib.get_close_matches(name, names)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        return ConfigError(
            f"no provider {name!r:.100}: it is not registered, and {variable:.100} is not set; "
            f"known are {', '.join(names)}{hint}"
        )


def read_dsn(text: str, variable: str) -> Dsn | ConfigError:
    """Read a DSN, or say what is wrong with it."""
    try:
        return Dsn.parse(text, variable=variable)
    except ConfigError as error:
        return error
