"""The health of LLM targets in Redis or Valkey: shared by all who have the same store."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, final

from celery_lanes.store.absence import Absence
from celery_lanes.store.calls import fitting
from celery_lanes.store.health import (
    MAX_ENTRIES,
    MAX_READ,
    Benched,
    Condition,
    Health,
    HealthConfig,
    Pass,
    asked_ms,
    names_of,
    probe_ms,
)
from celery_lanes.store.keys import HEALTH, Keys, random_token
from celery_lanes.store.redis.line import Argument
from celery_lanes.store.redis.wire import Client, Wire


@final
class RedisHealth:
    """The health of targets as all processes have seen it; by the server's clock.

    No LLM call fails for it, or waits: while the store is away all targets are healthy, failures
    are forgotten, and the store is asked once a second. Safe between threads, and to fork.

    Args:
        client: with short time-outs, and redis-py's own retries off, as ``open_health`` makes it.
        prefix: what every key begins with.
        config: the numbers; each process goes by its own.
        max_entries: how much is remembered.
        token: names leaves and reports; tests pass their own.
    """

    def __init__(
        self,
        client: Client,
        prefix: str = "lanes",
        config: HealthConfig | None = None,
        *,
        max_entries: int = MAX_ENTRIES,
        token: Callable[[], str] = random_token,
    ) -> None:
        self._wire = Wire(client, Keys(prefix), "store")
        self._config = config or HealthConfig()
        self._max_entries = max_entries
        self._token = token
        self._absence = Absence(
            "celery_lanes: the health of LLM targets is not known, and all count as healthy",
            "celery_lanes: the health of LLM targets is known again",
        )

    def __repr__(self) -> str:
        return f"RedisHealth(prefix={self._wire.keys.prefix!r})"

    def enter(self, target: str, *, probe_s: float, is_alone: bool = False) -> Pass | Benched:
        """Ask for leave to ask a target."""
        names, token = names_of(target), self._token()
        how = (repr(probe_ms(probe_s)), int(is_alone), self._max_entries)
        match self._asked("health_enter", *names, token, *how):
            case [0, now, *flags]:
                probes = tuple(name for name, flag in zip(names, flags, strict=True) if flag)
                return Pass(target=target, token=token, entered_at=now / 1000, probes=probes)
            case [how_not, left]:
                return Benched(left_s=float(left) / 1000, is_probed=how_not == _TRIED)
        return Pass(target=target, token=token)

    def report(
        self, given: Pass, health: Health, *, retry_after_s: float | None = None
    ) -> Benched | None:
        """Tell of a failure; gives the bench that the target is on then."""
        first, longest = self._config.cooldowns_ms(health)
        left = self._asked(
            "health_report",
            *names_of(given.target),
            given.token,
            given.entered_ms,
            health,
            self._token(),
            repr(asked_ms(retry_after_s)),
            self._config.failure_threshold,
            repr(first),
            repr(self._config.multiplier),
            repr(longest),
            self._max_entries,
        )
        left_s = float(left or 0) / 1000
        return Benched(left_s=left_s) if left_s > 0 else None

    def recover(self, given: Pass) -> bool:
        """Tell of a success; says whether it ended a bench."""
        names = names_of(given.target)
        return bool(self._asked("health_recover", *names, given.entered_ms, self._max_entries))

    def clear(self, name: str) -> bool:
        """Forget what is known of a target, or of a provider; says whether anything was.

        Raises ``StoreUnavailable``.
        """
        return bool(self._wire.run("health_clear", HEALTH, fitting(name)))

    def conditions(self) -> list[Condition]:
        """Give what has failed of late, what is remembered longest first; up to 1,000.

        Raises ``StoreUnavailable``.
        """
        return [_condition(*told) for told in self._wire.run("health_read", HEALTH, MAX_READ)]

    def close(self) -> None:
        """Close all connections; the next question opens them again."""
        self._wire.close()

    def _asked(self, verb: str, *arguments: Argument) -> Any:
        return self._absence.ask(partial(self._wire.run, verb, HEALTH, *arguments))


_TRIED = 2


def _condition(
    name: bytes, failures: int, cooldown: bytes, left: bytes, is_tried: int
) -> Condition:
    return Condition(
        name=name.decode(),
        failures=failures,
        cooldown_s=float(cooldown) / 1000,
        left_s=float(left) / 1000,
        is_tried=bool(is_tried),
    )
