"""One lane as its owner sees it: to read and to steer, for the whole cluster at once."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from fnmatch import fnmatchcase

from celery_lanes.config import Settings
from celery_lanes.errors import ConfigError
from celery_lanes.store.base import Snapshot, Store


class Lane:
    """A lane that the settings or the store know; ``lanes.lane("ollama")`` gives it.

    What it changes is in force at once, also for what waits already. Every method may raise
    ``StoreUnavailable``; then it may or may not have happened, and may be repeated.
    """

    def __init__(self, name: str, store: Store) -> None:
        self.name = name
        self._store = store

    def __repr__(self) -> str:
        return f"Lane({self.name!r})"

    def stats(self) -> Snapshot:
        """Read its cap, its counts of calls, the oldest wait and the calls done in a minute."""
        return self._store.snapshot(self.name)

    def set_max_concurrent(self, slots: int | None) -> None:
        """Change the cap: 1 to 100,000, or ``None`` for what the settings say.

        Of more running calls than a lower cap allows, each ends by itself.
        """
        if slots is not None and slots < 1:
            raise ValueError(f"expected at least 1 slot, got {slots}; pause() stops a lane")
        self._store.set_max_concurrent(self.name, slots)

    def pause(self) -> None:
        """Start no more calls; those that run go on, and new ones are accepted."""
        self._store.set_paused(self.name, paused=True)

    def resume(self) -> None:
        """Start calls again."""
        self._store.set_paused(self.name, paused=False)


def checked_lane(name: str, settings: Settings, store: Callable[[], Store]) -> str:
    """Refuse, with the nearest names, a lane that neither the settings nor the store have.

    The store is asked only for a lane that the settings do not name.
    """
    if any(fnmatchcase(name, family) for family in settings.families):
        settings.lane(name)  # refuses what cannot be a name
        return name
    named = {*settings.lanes, *(rule.lane for rule in settings.rules)}
    if name in named:
        return name
    known = sorted({*named, *store().lanes()})
    if name not in known:
        raise ConfigError(f"there is no lane {name!r}; {_hint(name, known)}")
    return name


def _hint(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
