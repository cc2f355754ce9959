"""The health of LLM targets as one process sees it: the readable specification.

``redis/lua/_health.lua`` says the same, and ``tests/store/test_health_model.py`` compares them.
"""

from __future__ import annotations

import heapq
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import final

from celery_lanes.store.calls import fitting
from celery_lanes.store.health import (
    DROP_AT_ONCE,
    MAX_ENTRIES,
    MAX_READ,
    MEMORY_MS,
    NEVER,
    Benched,
    Condition,
    Health,
    HealthConfig,
    Pass,
    asked_ms,
    name_for,
    names_of,
    probe_ms,
)
from celery_lanes.store.keys import random_token


@dataclass(frozen=True, slots=True)
class _Entry:
    """Times and spans in ms; ``prober`` is the token of the call that tries it."""

    failures: int = 0
    cooldown: float = 0.0
    benched_at: float = NEVER
    until: float = NEVER
    prober: str = ""
    probed_until: float = NEVER
    fades_at: float = NEVER


@final
class MemoryHealth:
    """The health of targets as this process has seen it. Safe between threads, and to fork.

    Args:
        config: the numbers.
        clock: gives seconds; whole milliseconds count.
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
            now, token = self._now(), random_token()
            known = self._known(target, now)
            if (benched := _benched(known, now)) is not None and not is_alone:
                return benched
            over = {name: entry for name, entry in known.items() if NEVER < entry.until <= now}
            left = max((entry.probed_until - now for entry in over.values()), default=0.0)
            if left > 0 and not is_alone:
                return Benched(left_s=left / 1000, is_probed=True)
            free = {name: entry for name, entry in over.items() if entry.probed_until <= now}
            for name, entry in free.items():
                probed_until = now + probe_ms(probe_s)
                self._put(name, replace(entry, prober=token, probed_until=probed_until), now)
            return Pass(target=target, token=token, entered_at=now / 1000, probes=tuple(free))

    def report(
        self, given: Pass, health: Health, *, retry_after_s: float | None = None
    ) -> Benched | None:
        """Tell of a failure; gives the bench that the target is on then."""
        with self._lock():
            now = self._now()
            known = self._known(given.target, now)
            if health != "none":
                name = name_for(given.target, health)
                entry = known.get(name, _Entry())
                failed = self._failed(entry, given, health, now, asked_ms(retry_after_s))
                if failed is not entry:
                    known[name] = self._put(name, failed, now)
            for name, entry in known.items():
                if entry.prober == given.token:
                    known[name] = self._put(name, _untried(entry), now)
            return _benched(known, now)

    def recover(self, given: Pass) -> bool:
        """Tell of a success; says whether it ended a bench."""
        with self._lock():
            known = self._known(given.target, self._now())
            gone = {name: e for name, e in known.items() if given.entered_ms > e.benched_at}
            for name in gone:
                self._entries.pop(name, None)
            return any(entry.until > NEVER for entry in gone.values())

    def clear(self, name: str) -> bool:
        """Forget what is known of a target, or of a provider; says whether anything was."""
        with self._lock():
            entry = self._entries.pop(fitting(name), None)
            return entry is not None and entry.fades_at > self._now()

    def conditions(self) -> list[Condition]:
        """Give what has failed of late, what is remembered longest first; up to 1,000."""
        with self._lock():
            now = self._now()
            found = ((e.fades_at, name.encode(), name) for name, e in self._entries.items())
            last = heapq.nlargest(MAX_READ, (key for key in found if key[0] > now))
            return [_condition(name, self._entries[name], now) for *_, name in last]

    def _failed(self, entry: _Entry, given: Pass, health: Health, now: int, asked: float) -> _Entry:
        """Count a failure, and bench what has had enough."""
        if given.entered_ms < entry.until:  # part of what this bench is for
            longer = max(entry.until, now + asked)
            is_told = health == "bench" and asked > 0 and longer > entry.until
            return replace(entry, until=longer) if is_told else entry
        failures = entry.failures + 1
        is_counted = health in {"count", "count_provider"}
        is_probe = entry.prober == given.token
        if is_counted and not is_probe and failures < self._config.failure_threshold:
            return replace(entry, failures=failures)
        first, most = self._config.cooldowns_ms(health)
        cooldown = min(most, max(first, entry.cooldown * self._config.multiplier))
        until = max(entry.until, now + max(cooldown, asked))
        return _Entry(cooldown=cooldown, benched_at=now, until=until)

    def _known(self, target: str, now: int) -> dict[str, _Entry]:
        """Give the entries of a provider and its target that have not faded.

        A bench from the future begins now: the clock was set back, and it would last too long.
        """
        found = {name: self._entries[name] for name in names_of(target) if name in self._entries}
        known = {name: entry for name, entry in found.items() if entry.fades_at > now}
        for name, entry in known.items():
            if (ahead := entry.benched_at - now) > 0:
                known[name] = self._put(name, _earlier(entry, ahead), now)
        return known

    def _put(self, name: str, entry: _Entry, now: int) -> _Entry:
        entry = replace(entry, fades_at=max(now, entry.until) + MEMORY_MS)
        self._entries[name] = entry
        first = heapq.nsmallest(
            DROP_AT_ONCE, ((e.fades_at, n.encode(), n) for n, e in self._entries.items())
        )
        gone = [key for key in first if key[0] <= now]
        if not gone and len(self._entries) > self._max_entries:
            gone = [key for key in first if key[2] != name][:1]
        for *_, faded in gone:
            del self._entries[faded]
        return entry

    def _now(self) -> int:
        return round(self._clock() * 1000)

    def _lock(self) -> threading.Lock:
        """Give this process's lock: another's may have been forked while it was held."""
        pid = os.getpid()
        if (lock := self._locks.get(pid)) is not None:
            return lock
        return self._locks.setdefault(pid, threading.Lock())


def _untried(entry: _Entry) -> _Entry:
    return replace(entry, prober="", probed_until=NEVER)


def _earlier(entry: _Entry, ms: float) -> _Entry:
    return replace(
        entry,
        benched_at=entry.benched_at - ms,
        until=entry.until - ms,
        probed_until=entry.probed_until - ms,
    )


def _benched(known: Mapping[str, _Entry], now: int) -> Benched | None:
    left = max((entry.until - now for entry in known.values()), default=0.0)
    return Benched(left_s=left / 1000) if left > 0 else None


def _condition(name: str, entry: _Entry, now: int) -> Condition:
    left = max(0.0, entry.until - now)
    return Condition(
        name=name,
        failures=entry.failures,
        cooldown_s=entry.cooldown / 1000,
        left_s=left / 1000,
        is_tried=not left and entry.probed_until > now,
    )
