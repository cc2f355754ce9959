"""One lane as its owner sees it: to read and to steer, for the whole cluster at once."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from dataclasses import dataclass

from celery_lanes.callinfo import HEADER, CallInfo
from celery_lanes.config import durations
from celery_lanes.config.settings import Settings
from celery_lanes.config.tables import LaneSettings
from celery_lanes.envelope import headers_in
from celery_lanes.errors import ConfigError
from celery_lanes.store.attempts import Lease
from celery_lanes.store.base import Snapshot, Store
from celery_lanes.store.calls import fitting
from celery_lanes.store.checks import MAX_LEASES
from celery_lanes.store.live import CallerStatus
from celery_lanes.store.rules import Bucket, Limit, Policy, Unlimited


class Lane:
    """A lane that the settings or the store know; ``lanes.lane("ollama")`` gives it.

    What it changes is in force at once, also for what waits already, and until it is taken back:
    workers that start with other settings do not change it. Every method may raise
    ``StoreUnavailable``; then it may or may not have happened, and may be repeated.
    """

    def __init__(self, name: str, store: Store, settings: LaneSettings) -> None:
        self.name = name
        self._store = store
        self._settings = settings

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

    def set_rate(self, rate: str | None, *, burst: int | None = None) -> None:
        """Change the limit in calls: "60/m"; "" for none, ``None`` for what the settings say.

        ``burst``: how many it lets through at once; what the settings say, else 1.
        """
        most = self._settings.burst or 1 if burst is None else burst
        self._store.set_limit(self.name, Limit.RATE, _bucket(rate, most))

    def set_tokens(self, tokens: str | None) -> None:
        """Change the limit in cost: "100k/m", as much at once; "" and ``None`` as above."""
        self._store.set_limit(self.name, Limit.TOKENS, _bucket(tokens, None))

    def running(self, limit: int = MAX_LEASES) -> list[RunningCall]:
        """Read who has the calls that run, those first that have run longest.

        At most ``limit`` with a slot, up to 100, and as many without; of more than that, those
        whose leases were renewed least recently.
        """
        leases = self._store.leases(self.name, limit)
        return [_running(lease) for lease in sorted(leases, key=lambda held: -held.ran_ms)]

    def callers(self) -> list[CallerStatus]:
        """Read what holds for callers that the settings name, that were steered, or that wait.

        Of those who only wait, up to 750; none by name in a fifo lane.
        """
        return self._store.callers(self.name)

    def caller(self, name: str) -> LaneCaller:
        """Give a caller to steer. Raises ``ConfigError`` in a fifo lane."""
        if self._settings.policy is Policy.FIFO:
            raise ConfigError(
                f"lane {self.name} is fifo: all its callers share one queue, so none of them can"
                " be steered apart; pause the lane, or cancel what waits of the caller"
            )
        return LaneCaller(self.name, fitting(name), self._store)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningCall:
    """A call that runs in a lane, or code outside a task that holds a slot of it.

    Attributes:
        caller: whose it is; "" if nobody has said.
        run_id: the run it belongs to; "" if it says none, or has headers of more than 20 KB, or is
            larger than 1 MB.
        model: ``provider/model``; "" likewise, and of a slot.
        task: the task's name; "" of a slot.
        task_id: Celery's; of a slot a random name.
        worker: the node name of the worker that runs it; of a slot its host and process id.
        ran_s: since it was granted.
        attempt: counts grants from 1.
        priority: higher first.
        has_slot: False for a stream that runs on without one.
    """

    caller: str
    run_id: str
    model: str
    task: str
    task_id: str
    worker: str
    ran_s: float
    attempt: int
    priority: int
    has_slot: bool


def _running(lease: Lease) -> RunningCall:
    info = CallInfo.from_header(headers_in(lease.head).get(HEADER))
    return RunningCall(
        caller=lease.caller,
        run_id=info.run_id,
        model=info.model,
        task=lease.task,
        task_id=lease.task_id,
        worker=lease.worker.rpartition("/")[0],
        ran_s=lease.ran_ms / 1000,
        attempt=lease.attempt,
        priority=lease.priority,
        has_slot=not lease.is_established,
    )


class LaneCaller:
    """One caller in one lane; ``lane.caller("alice")`` gives it. As of a lane, at once.

    What is set of up to 1,000 callers of a lane is kept until it is taken back; ``StoreError`` for
    more.
    """

    def __init__(self, lane: str, name: str, store: Store) -> None:
        self.lane = lane
        self.name = name
        self._store = store

    def __repr__(self) -> str:
        return f"LaneCaller({self.lane!r}, {self.name!r})"

    def set_weight(self, weight: float | None) -> None:
        """Change its share: 0.001 to 1000, or ``None`` for what the settings say."""
        self._store.set_weight(self.lane, self.name, weight)

    def set_rate(self, rate: str | None, *, burst: int = 1) -> None:
        """Change its own limit: "60/m"; "" for none, ``None`` for what the settings say."""
        self._store.set_rate(self.lane, self.name, _bucket(rate, burst))

    def pause(self) -> None:
        """Start no more calls of it; those that run go on, new ones are accepted, others pass."""
        self._store.set_caller_paused(self.lane, self.name, paused=True)

    def resume(self) -> None:
        """Start its calls again."""
        self._store.set_caller_paused(self.lane, self.name, paused=False)


def checked_lane(name: str, settings: Settings, store: Callable[[], Store]) -> str:
    """Refuse, with the nearest names, a lane that neither the settings nor the store have.

    The store is asked only for a lane that the settings do not name.
    """
    if settings.names(name):
        settings.lane(name)  # refuses what cannot be a name
        return name
    known = sorted({*settings.named_lanes, *store().lanes()})
    if name not in known:
        raise ConfigError(f"there is no lane {name!r}; {_hint(name, known)}")
    return name


def _bucket(rate: str | None, burst: int | None) -> Bucket | Unlimited | None:
    if rate is None:
        return None
    if rate == "":
        return Unlimited.UNLIMITED
    try:
        return durations.bucket(rate, burst=burst)
    except ValueError:
        raise ValueError(
            f'expected a rate such as "60/m" or "100k/h", or "" for none, got {rate!r}'
        ) from None


def _hint(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
