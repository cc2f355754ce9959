"""What an app's lanes work with: settings, registry, store; each is made at its first use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from celery_lanes.config.settings import Settings
from celery_lanes.errors import ConfigError
from celery_lanes.journeys.herald import Herald
from celery_lanes.lane import checked_lane
from celery_lanes.llm.chains.logbook import log
from celery_lanes.llm.registry import Registry
from celery_lanes.once import once
from celery_lanes.router import LaneRouter
from celery_lanes.store.base import Store
from celery_lanes.store.calls import Call, Verdict
from celery_lanes.store.connect import open_health, open_store, open_transcripts
from celery_lanes.store.memory.health import MemoryHealth
from celery_lanes.store.redis.health import RedisHealth
from celery_lanes.store.rules import LaneRules, Policy, Scope
from celery_lanes.store.standing import Standing
from celery_lanes.store.transcripts import Transcripts
from celery_lanes.streams.press import Printer

Health = MemoryHealth | RedisHealth

STORE_SCHEMES = {"redis", "rediss", "redis+socket", "sentinel", "memory"}
"""Brokers whose server can be the store as well."""


class Parts:
    """The parts of an app's lanes, for the producer, the worker and the verbs alike.

    A part is an attribute from its first use on; a test may put its own there before
    (``lanes.parts.store = ...``), and all who use it meet that one.
    """

    def __init__(
        self,
        app: Any,
        config: Settings | str | Path | None,
        make_registry: Callable[..., Registry],
    ) -> None:
        self.app = app
        self.herald = Herald(app)
        self._config = config
        self._make_registry = make_registry

    @once
    def settings(self) -> Settings:
        """The configuration. Raises ``ConfigError``."""
        return self._config if isinstance(self._config, Settings) else Settings.load(self._config)

    @once
    def router(self) -> LaneRouter:
        """Model to lane."""
        return LaneRouter(lambda: self.settings, lambda: self.registry)

    @once
    def registry(self) -> Registry:
        """What ``generate`` uses in this app: providers, and the aliases of the settings.

        Nothing is read or opened before a provider is used.
        """
        registry = self._make_registry(lane_of=self._lane_of, health=self.health)
        said = self.settings.health.model_dump(include={"on_all_benched"}, exclude_unset=True)
        registry.chain_config = replace(registry.chain_config, **said)
        for name, spec in self.settings.aliases.items():
            registry.register_alias(name, spec)
        registry.register_observer(log)
        registry.register_observer(self.herald)
        return registry

    def _lane_of(self, model: str) -> str:
        return self.settings.lane_for(model).lane

    @once
    def store(self) -> Store:
        """The process's own store, for producers and task bodies."""
        return self.open_store()

    def open_store(self) -> Store:
        """Open a store of one's own, as the worker's store thread does."""
        settings = self.settings.store
        store: Store = open_store(
            self._store_url, prefix=settings.prefix, durability=settings.durability
        )
        return store

    @property
    def _store_url(self) -> str:
        """The store's URL; the broker's, if none is set and that is a Redis."""
        if url := self.settings.store.url.get_secret_value():
            return url
        broker = self.app.conf.broker_write_url or self.app.conf.broker_url or ""
        if str(broker).partition(":")[0] in STORE_SCHEMES:
            return str(broker)
        raise ConfigError("expected [store] url to name a Redis or Valkey server, got none")

    @once
    def health(self) -> Health:
        """The health of LLM targets, as all who have the store have seen it.

        As this process has, with ``[health] shared = false``, or where there is no store.
        """
        url = self._health_url() if self.settings.health.shared else None
        prefix, config = self.settings.store.prefix, self.settings.health.config
        return open_health(url or "memory://", prefix=prefix, config=config)

    def _health_url(self) -> str | None:
        try:
            return self._store_url if self.settings.enabled else None
        except ConfigError:  # a task that is run eagerly needs no store
            return None

    @once
    def transcripts(self) -> Transcripts:
        """What is kept of streamed replies, beside the store."""
        return open_transcripts(self._store_url, prefix=self.settings.store.prefix)

    @once
    def printer(self) -> Printer:
        """What gives each process the press that prints its streamed replies."""
        return Printer(lambda: self.transcripts)

    def known_lane(self, name: str) -> str:
        """Take a lane's name; ``ConfigError`` if neither the settings nor the store have it."""
        return checked_lane(name, self.settings, lambda: self.store)

    def admit(
        self, lane: str, calls: Sequence[Call], *, max_wait_ms: int | None = None
    ) -> list[Verdict]:
        """Park calls in a lane, or refuse those that would wait longer than they may."""
        policy, scope = self.policy(lane), self.scope(lane)
        return self.store.admit(lane, calls, policy=policy, scope=scope, max_wait_ms=max_wait_ms)

    def place(
        self, lane: str, call: Call, *, max_wait_ms: int | None = None
    ) -> tuple[Verdict, Standing | None]:
        """Park one call as ``admit`` does, and read where it stands."""
        policy, scope = self.policy(lane), self.scope(lane)
        return self.store.place(lane, call, policy=policy, scope=scope, max_wait_ms=max_wait_ms)

    def policy(self, lane: str) -> Policy:
        """How a lane orders its callers."""
        return self.settings.lane(lane).policy

    def scope(self, lane: str) -> Scope:
        """Whose calls a priority orders."""
        return self.settings.lane(lane).priority_scope

    def rules(self, lane: str) -> LaneRules:
        """Give what the store must know of a lane, and which tasks Celery acknowledges early."""
        tasks = (task for task in self.app.tasks.values() if not task.name.startswith("celery."))
        early = {task.name: self.settings.is_early(lane, task) for task in tasks}
        return replace(self.settings.rules_of(lane), acks_early=early)

    def task(self, name: str) -> Any:
        """Find a task without finalizing the app, as ``send_task`` does; ``None`` if unknown."""
        return self.app._tasks.get(name) if hasattr(self.app._tasks, "get") else None
