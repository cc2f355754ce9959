"""Lanes within a test's own process: broker, results, store and worker, and a clock to turn.

::

    app = Celery("shop", broker="memory://", backend="cache+memory://")
    lanes = Lanes(app, "config/lanes.toml")  # [store] url = "memory://"

    with serving(app):
        assert ask.delay("ollama/llama3", "why?").get(timeout=5) == "because"
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from celery.contrib.testing.worker import start_worker
from celery.worker import state

from celery_lanes.config.settings import DEFAULT_LANE
from celery_lanes.errors import ConfigError
from celery_lanes.store.memory.ledgers import epoch_ms
from celery_lanes.store.memory.store import MemoryStore

POLLING_S = 0.01
"""How often kombu's memory looks for messages."""


class FakeClock:
    """A memory store's clock, in milliseconds since the epoch: the time, and what it is put on.

    Delays, leases and buckets go by it; a task's own ``expires`` and time limits do not.
    """

    def __init__(self) -> None:
        self._ahead_ms = 0
        self._stores: list[MemoryStore] = []

    def __call__(self) -> int:
        """Read it."""
        return epoch_ms() + self._ahead_ms

    def advance(self, seconds: float) -> None:
        """Put it on; workers look at once what is due by now."""
        self._ahead_ms += round(seconds * 1000)
        for store in self._stores:
            store.rouse()

    @contextmanager
    def ticking(self, store: MemoryStore) -> Iterator[None]:
        """Be a store's clock meanwhile."""
        usual, store.clock = store.clock, self
        self._stores.append(store)
        try:
            yield
        finally:
            self._stores.remove(store)
            store.clock = usual


@contextmanager
def serving(
    app: Any, *lanes: str, clock: FakeClock | None = None, threads: int = 4
) -> Iterator[MemoryStore]:
    """Run a worker of an app in this process; gives the store, which is empty afterwards.

    It serves the app's default queue and every lane that a table or a rule names (not by a glob),
    and ``default``; or the given lanes. A call in any other lane waits, as the log says.
    Raises ``ConfigError`` if the app's broker or store are not in memory.
    """
    store = _store_of(app)
    _select_queues(app, lanes)
    _hasten(app)
    with (
        _emptied(store),
        clock.ticking(store) if clock else nullcontext(),
        start_worker(app, pool="threads", concurrency=threads, perform_ping_check=False),
        _ended_soon(app),
    ):
        yield store


@contextmanager
def _emptied(store: MemoryStore) -> Iterator[None]:
    """Leave nothing to the next test, also after one that has failed."""
    try:
        yield
    finally:
        store.clear()


def _hasten(app: Any) -> None:
    """Have kombu's memory look for messages more often than once a second, unless that is set."""
    options = app.conf.broker_transport_options or {}
    app.conf.broker_transport_options = {"polling_interval": POLLING_S, **options}


@contextmanager
def _ended_soon(app: Any) -> Iterator[None]:
    """Wake the worker when it is to end: it would look at that every two seconds, and then again.

    Each of the two messages ends one of its waits.
    """
    try:
        yield
    finally:
        state.should_terminate = 0  # as ``start_worker`` says it next
        for _ in range(2):
            app.control.broadcast("ping")


def _store_of(app: Any) -> MemoryStore:
    broker = app.connection_for_write().transport.driver_type
    store = app.lanes.parts.store
    if broker != "memory" or not isinstance(store, MemoryStore):
        raise ConfigError(
            'expected broker_url and [store] url to be "memory://" in a test, got a broker of type'
            f" {broker} and {store!r}"
        )
    return store


def _select_queues(app: Any, lanes: tuple[str, ...]) -> None:
    settings = app.lanes.settings
    named = lanes or sorted({DEFAULT_LANE, *settings.named_lanes})
    queues = [settings.queue(lane) for lane in named]
    app.amqp.queues.select([app.conf.task_default_queue, *queues])
