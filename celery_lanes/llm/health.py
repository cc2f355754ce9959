"""Which models are fit to be asked: failures are counted, and a failing one is left alone a while.

A target is *benched* after so many failures in a row, each time for longer. When that time is
over, one call tries it for all others, the *probe*: its success forgets everything, its failure
benches the target again. Nothing but a success makes a bench shorter, and failures of attempts
that began before a bench are part of what it was for.

An entry is kept by target (``provider/model``) and one by provider, for what all its models share:
the account, and the way to the server.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, final

from celery_lanes.llm.effects import Health, HealthConfig

MAX_RETRY_AFTER_S = 600.0
"""How long a provider may have itself left alone."""

MAX_ENTRIES = 10_000
"""How many failing targets and providers are remembered; the ones not heard of longest go first."""

_NEVER = -math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """Leave to ask a target; to be given back by ``report`` or ``recover``.

    Attributes:
        target: ``provider/model``.
        entered_at: by the store's clock, in seconds.
        probes: the entries that this call tries for all others.
    """

    target: str
    entered_at: float
    probes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Benched:
    """The target is not to be asked.

    Attributes:
        left_s: for so many seconds.
        is_probed: its bench is over, and another call is trying it.
    """

    left_s: float
    is_probed: bool = False


class HealthStore(Protocol):
    """Keeps the health of targets; shared by all who have the same store."""

    def enter(self, target: str, *, probe_s: float, is_alone: bool = False) -> Pass | Benched:
        """Ask for leave to ask a target.

        A probe that says nothing for ``probe_s`` seconds is given up. ``is_alone`` is for a call
        that has nobody else to ask: it is never kept out, for its lane holds calls back.
        """

    def report(
        self, given: Pass, health: Health, *, retry_after_s: float | None = None
    ) -> Benched | None:
        """Tell of a failure; gives the bench that the target is on then.

        May be told again under the same leave, for a retry. ``none`` just gives the leave back.
        """

    def recover(self, given: Pass) -> bool:
        """Tell of a success; says whether it ended a bench."""


@dataclass(frozen=True, slots=True)
class _Entry:
    failures: int = 0
    cooldown_s: float = 0.0
    benched_at: float = _NEVER
    until: float = _NEVER
    probed_at: float = _NEVER
    probed_until: float = _NEVER


@final
class MemoryHealth:
    """The health of targets as this process has seen it. Safe between threads, and to fork.

    Args:
        config: the numbers.
        clock: gives seconds; they never go back.
        max_entries: how much is remembered.
    """

    def __init__(
        self,
        config: HealthConfig | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_entries: int = MAX_ENTRIES,
    ) -> None:
        self._config = config or HealthConfig()
        self._clock = clock
        self._max_entries = max_entries
        self._entries: dict[str, _Entry] = {}
        self._locks: dict[int, threading.Lock] = {}

    def enter(self, target: str, *, probe_s: float, is_alone: bool = False) -> Pass | Benched:
        """Ask for leave to ask a target."""
        with self._lock():
            now = self._clock()
            known = self._known(target)
            if (benched := _benched(known, now)) is not None and not is_alone:
                return benched
            over = {key: entry for key, entry in known.items() if _NEVER < entry.until <= now}
            left_s = max((entry.probed_until - now for entry in over.values()), default=0.0)
            if left_s > 0 and not is_alone:
                return Benched(left_s=left_s, is_probed=True)
            free = {key: entry for key, entry in over.items() if entry.probed_until <= now}
            for key, entry in free.items():
                self._put(key, replace(entry, probed_at=now, probed_until=now + probe_s))
            return Pass(target=target, entered_at=now, probes=tuple(free))

    def report(
        self, given: Pass, health: Health, *, retry_after_s: float | None = None
    ) -> Benched | None:
        """Tell of a failure; gives the bench that the target is on then."""
        with self._lock():
            now = self._clock()
            self._end_probes(given)
            if health != "none":
                key = _key(given.target, health)
                entry = self._entries.get(key, _Entry())
                asked_s = _trusted(retry_after_s)
                if given.entered_at > entry.benched_at:
                    is_probe = key in given.probes
                    entry = self._failed(entry, health, now, asked_s, is_probe=is_probe)
                elif health == "bench" and asked_s:
                    entry = replace(entry, until=max(entry.until, now + asked_s))
                self._put(key, entry)
            return _benched(self._known(given.target), now)

    def recover(self, given: Pass) -> bool:
        """Tell of a success; says whether it ended a bench."""
        with self._lock():
            known = self._known(given.target)
            gone = {key: e for key, e in known.items() if given.entered_at > e.benched_at}
            for key in gone:
                del self._entries[key]
            return any(entry.until > _NEVER for entry in gone.values())

    def _failed(
        self, entry: _Entry, health: Health, now: float, asked_s: float, *, is_probe: bool
    ) -> _Entry:
        """Count a failure, and bench what has had enough."""
        failures = entry.failures + 1
        is_counted = health in {"count", "count_provider"}
        if is_counted and not is_probe and failures < self._config.failure_threshold:
            return replace(entry, failures=failures)
        cooldown_s = self._next_cooldown_s(entry, health)
        until = max(entry.until, now + max(cooldown_s, asked_s))
        return _Entry(cooldown_s=cooldown_s, benched_at=now, until=until)

    def _next_cooldown_s(self, entry: _Entry, health: Health) -> float:
        config = self._config
        first_s, most_s = config.base_cooldown_s, config.max_cooldown_s
        if health == "bench_provider":
            first_s, most_s = config.quota_cooldown_s, config.max_quota_cooldown_s
        return min(most_s, max(first_s, entry.cooldown_s * config.multiplier))

    def _end_probes(self, given: Pass) -> None:
        for key in given.probes:
            entry = self._entries.get(key)
            if entry is not None and entry.probed_at == given.entered_at:
                self._put(key, replace(entry, probed_at=_NEVER, probed_until=_NEVER))

    def _known(self, target: str) -> dict[str, _Entry]:
        keys = (_provider(target), target)
        return {key: self._entries[key] for key in keys if key in self._entries}

    def _put(self, key: str, entry: _Entry) -> None:
        self._entries.pop(key, None)
        self._entries[key] = entry  # the newest is the last
        while len(self._entries) > self._max_entries:
            del self._entries[next(iter(self._entries))]

    def _lock(self) -> threading.Lock:
        """Give this process's lock: another's may have been forked while it was held."""
        pid = os.getpid()
        if (lock := self._locks.get(pid)) is not None:
            return lock
        return self._locks.setdefault(pid, threading.Lock())


def _benched(known: Mapping[str, _Entry], now: float) -> Benched | None:
    left_s = max((entry.until - now for entry in known.values()), default=0.0)
    return Benched(left_s=left_s) if left_s > 0 else None


def _key(target: str, health: Health) -> str:
    return _provider(target) if health in {"bench_provider", "count_provider"} else target


def _provider(target: str) -> str:
    return target.partition("/")[0]


def _trusted(retry_after_s: float | None) -> float:
    if retry_after_s is None or not 0 < retry_after_s < math.inf:
        return 0.0
    return min(retry_after_s, MAX_RETRY_AFTER_S)
