"""Who serves what: providers, aliases, kinds of API, and the environment that names more."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from celery_lanes.errors import ConfigError, LanesError
from celery_lanes.llm.chains.chain import Chain
from celery_lanes.llm.chains.effects import ChainConfig, effect_of
from celery_lanes.llm.chains.events import Observer
from celery_lanes.llm.chains.plan import Plan
from celery_lanes.llm.dsn import Dsn, malformed
from celery_lanes.llm.environment import Addresses, Environment, read_dsn
from celery_lanes.llm.known import BUILTINS, SCHEMES
from celery_lanes.llm.provider import Provider
from celery_lanes.llm.spec import PROVIDER_NAME, Expansion, Name, canonical, check_alias
from celery_lanes.llm.target import Target
from celery_lanes.store.health import HealthConfig, HealthStore
from celery_lanes.store.memory.health import MemoryHealth

if TYPE_CHECKING:
    from celery_lanes.llm.http.client import Transport

MAX_EXPANDED = 1000
"""How many specs are remembered with their targets."""

ENTRY_POINTS = "celery_lanes.providers"
"""The group of entry points that name further schemes, each a ``SchemeFactory``."""

SchemeFactory = Callable[[str, Dsn], Provider]
"""Makes a provider of its name and its DSN."""

Resolver = Callable[[str], "str | None"]
"""Gives the spec that a bare name stands for, or ``None``."""


class Registry:
    """Finds and keeps providers; nothing is read or opened before a name is used.

    Safe to use from many threads, and over a fork: every change is one operation on a dictionary,
    and what is opened is opened under a lock that each process has for itself.

    Args:
        env: where ``LLM_<NAME>`` and the keys are, ``os.environ`` by default; read at each use, so
            that a new key is taken up. An ``Environment`` may have another prefix.
        env_providers: whether ``LLM_<NAME>`` goes before what is known by that name; without, it
            is only looked for when nothing is.
        env_lookup: where a name that is not known is looked for; ``env`` by default.
        lane_of: says which lane bounds a ``provider/model``, written as in the spec.
        health: when a model is left alone, as this process sees it; or who knows.
        chain: how it goes from model to model.
        clock: gives seconds, for health.
        transport: an httpx transport, in tests.
    """

    def __init__(
        self,
        env: Environment | Mapping[str, str] | None = None,
        *,
        env_providers: bool = True,
        env_lookup: Callable[[str], str | None] | None = None,
        lane_of: Callable[[str], str] | None = None,
        health: HealthConfig | HealthStore | None = None,
        chain: ChainConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
        transport: Transport | None = None,
    ) -> None:
        self._env = env if isinstance(env, Environment) else _environment(env)
        self._addresses = Addresses(
            self._env, env_first=env_providers, lookup=env_lookup or self._env.variables.get
        )
        self._transport = transport
        self.health: HealthStore = (
            MemoryHealth(health, clock=clock)
            if health is None or isinstance(health, HealthConfig)
            else health
        )
        self.chain_config = chain or ChainConfig()
        self._named: dict[str, Provider | Dsn | ConfigError] = {}
        self._aliases: dict[str, str] = {}
        self._lane_of = lane_of
        self._expanded: dict[object, tuple[Name, ...]] = {}
        self._observers: list[Observer] = []
        self._resolvers: tuple[Resolver, ...] = ()
        self._schemes: dict[str, SchemeFactory] = {}
        self._open: dict[str, tuple[Dsn, Provider]] = {}
        self._locks: dict[int, threading.RLock] = {}

    def register_provider(self, provider: Provider) -> None:
        """Add a provider under its name, or put it in another's place.

        Raises ``ConfigError`` for what is none, or has a name that no spec can have.
        """
        if not isinstance(provider, Provider):
            raise ConfigError(f"expected a provider, got {type(provider).__name__}")
        if not PROVIDER_NAME.fullmatch(provider.name):
            raise ConfigError(f"expected letters, digits, . _ and -, got {provider.name!r:.100}")
        self._named[canonical(provider.name)] = provider

    def register_alias(self, name: str, spec: str) -> None:
        """Let a bare name stand for a spec, which may hold other aliases; the last one counts.

        Raises ``SpecError`` for a name with a slash or a comma. The spec is read when it is used.
        """
        self._aliases[check_alias(name)] = spec
        self._expanded = {}

    def register_resolver(self, resolver: Resolver) -> None:
        """Add what is asked for the spec of a bare name that is no alias, after those before it."""
        self._resolvers = (*self._resolvers, resolver)
        self._expanded = {}

    def register_scheme(self, scheme: str, factory: SchemeFactory) -> None:
        """Add a kind of API for DSNs, or put it in another's place."""
        self._schemes[scheme.lower()] = factory

    def register_observer(self, observer: Observer) -> None:
        """Let someone be told, after those before it, what chains do, those made already, too."""
        self._observers.append(observer)

    def load_env(self, env: Mapping[str, str]) -> list[ConfigError]:
        """Register each ``LLM_<NAME>`` under its name in lower case.

        Returns what is wrong with the malformed ones, which is raised only when their name is
        used. A value without ``://`` is none.
        """
        found = {
            canonical(variable.removeprefix(self._env.prefix)): read_dsn(text, variable)
            for variable, text in replace(self._env, variables=env).named()
        }
        self._named.update(found)
        return [wrong for wrong in found.values() if isinstance(wrong, ConfigError)]

    def parse(self, spec: object) -> Chain:
        """Chain a spec's targets in order: aliases are put in inline, and equal ones left out.

        Raises ``SpecError`` (``AliasCycle`` for aliases in a circle), and ``ConfigError`` for an
        unknown provider or a malformed ``LLM_<NAME>``. No provider is opened, so that only who asks
        it needs the key of one that is known by name.
        """
        plan = Plan(
            spec=str(spec),
            targets=tuple(map(self._target, self.names(spec))),
            health=self.health,
            config=self.chain_config,
            observers=self._observers,
        )
        return Chain(plan)

    def names(self, spec: object) -> tuple[Name, ...]:
        """Give the provider and the model of a spec's targets as they are written.

        No provider is looked for. Raises ``SpecError``.
        """
        known = self._expanded  # taken first: a new alias begins another one
        if isinstance(spec, str) and (found := known.get(spec)) is not None:
            return found
        found = Expansion(dict(self._aliases), self._resolvers).targets(spec)
        if not self._resolvers and len(known) < MAX_EXPANDED:  # resolvers may change their minds
            known[spec] = found
        return found

    def knows_alias(self, name: str) -> bool:
        """Say whether a bare name is a registered alias; resolvers are not asked."""
        return name in self._aliases

    def provider(self, name: str) -> Provider:
        """Find a provider; a dash is an underscore, and case does not matter.

        Raises ``ConfigError`` for an unknown one, a missing key or a malformed ``LLM_<NAME>``.
        """
        name = canonical(name)
        told = self._named.get(name)
        if not (told is None or isinstance(told, (Dsn, ConfigError))):
            return told
        with _opening(name):
            dsn = self._completed(self._addresses.find(name, told, self._named))
        known = self._open.get(name)
        return known[1] if known is not None and known[0] == dsn else self._opened(name, dsn)

    def close(self) -> None:
        """Close this process's connections; a forked child leaves its parent's alone."""
        for name in list(self._open):
            if (known := self._open.pop(name, None)) is not None:
                known[1].close()

    def _target(self, name: Name) -> Target:
        provider, model = name
        spelled = f"{provider}/{model}"
        lane = self._lane_of(spelled) if self._lane_of else None
        opens = cache(partial(self.provider, provider))  # a failure is not kept
        return Target(self._checked(provider), model, opens, lane, spelled)

    def _checked(self, spelled: str) -> str:
        """Give the name that a provider has, or will have once it is opened."""
        name = canonical(spelled)
        told = self._named.get(name)
        if not (told is None or isinstance(told, (Dsn, ConfigError))):
            return told.name
        with _opening(name):
            self._factory(self._addresses.scheme(name, told, self._named), name)
        return name

    def _opened(self, name: str, dsn: Dsn) -> Provider:
        """Open a provider, once however many threads ask for it."""
        with self._lock(), _opening(name, dsn):
            if (known := self._open.get(name)) is not None and known[0] == dsn:
                return known[1]
            made = self._factory(dsn.scheme, name)(name, dsn)
            self._open[name] = (dsn, made)
            return made

    def _lock(self) -> threading.RLock:
        """Give this process's lock: another's may have been forked while it was held."""
        pid = os.getpid()
        if (lock := self._locks.get(pid)) is not None:
            return lock
        return self._locks.setdefault(pid, threading.RLock())

    def _completed(self, dsn: Dsn) -> Dsn:
        """Give a bare host the path that its kind of API has."""
        known = None if dsn.scheme in self._schemes else BUILTINS.get(dsn.scheme)
        return dsn.with_path(urlsplit(known.base_url).path) if known else dsn

    def _factory(self, scheme: str, name: str) -> SchemeFactory:
        if (registered := self._schemes.get(scheme)) is not None:
            return registered
        if (place := SCHEMES.get(scheme)) is not None:
            return partial(_made, place, transport=self._transport)
        for found in entry_points(group=ENTRY_POINTS, name=scheme):
            factory: SchemeFactory = found.load()
            return self._schemes.setdefault(scheme, factory)
        schemes = ", ".join(sorted({*SCHEMES, *self._schemes}))
        raise malformed(self._env.variable(name), f"the schemes are {schemes}")


def _environment(variables: Mapping[str, str] | None) -> Environment:
    return Environment() if variables is None else Environment(variables)


@contextmanager
def _opening(name: str, dsn: Dsn | None = None) -> Iterator[None]:
    """Let what a factory or a lookup raises be a matter of configuration: not of who is asked.

    The key is cut out, and what was raised is left out of tracebacks, for it might show it.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, LanesError) or effect_of(error).action == "stop":
            raise
        said = f"{type(error).__name__}: {error}"
        if dsn is not None and dsn.token is not None:
            said = said.replace(dsn.token.get_secret_value(), "***")
        raise ConfigError(f"provider {name!r:.100} cannot be opened: {said:.500}") from None


def _made(place: str, name: str, dsn: Dsn, **options: Any) -> Provider:
    """Make a provider by a factory whose module is imported only now."""
    module, _, factory = place.partition(":")
    made: Provider = getattr(import_module(module), factory)(name, dsn, **options)
    return made
