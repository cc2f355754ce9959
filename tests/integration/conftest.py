"""A shop with its own store, broker and worker processes; nothing is shared between tests."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
from celery import _state

from celery_lanes.testing.embedded import EmbeddedValkey
from celery_lanes.testing.llm_stub import LLMStub
from celery_lanes.testing.workers import WorkerProcess
from tests.integration.nursery import ForkedWorker
from tests.waiting import until  # noqa: F401 # for the tests that ask here for all they need

ROOT = Path(__file__).parents[2]

CONFIG = """
[store]
url = "{store}"
{store_options}

[defaults]
queue_prefix = "{prefix}"
max_concurrent = 4
lease_ttl = "{lease_ttl}"
{defaults}

{rest}

[[rules]]
match = "ollama/*"
lane = "ollama"
"""


@dataclass
class Shop:
    """One shop: its settings, its app in this process, its workers."""

    broker: str
    backend: str
    store: str
    config: Path
    prefix: str
    _exits: ExitStack
    conf: dict[str, Any] = field(default_factory=dict)
    _module: list[ModuleType] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        return {
            "SHOP_BROKER": self.broker,
            "SHOP_BACKEND": self.backend,
            "SHOP_CONF": json.dumps(self.conf),
            "CELERY_LANES_CONFIG": str(self.config),
            "PYTHONPATH": str(ROOT),
        }

    @property
    def full_env(self) -> dict[str, str]:
        return {**os.environ, **self.env}

    def configure(
        self, *, defaults: str = "", rest: str = "", lease_ttl: str = "3s", store: str = ""
    ) -> Shop:
        text = CONFIG.format(
            store=self.store,
            store_options=store,
            prefix=self.prefix,
            defaults=defaults,
            rest=rest,
            lease_ttl=lease_ttl,
        )
        self.config.write_text(text)
        return self

    @property
    def tasks(self) -> Any:
        """The shop's module, loaded into this process as a producer."""
        if not self._module:
            self._exits.enter_context(patch.dict(os.environ, self.env))
            path = ROOT / "tests/integration/shop.py"
            spec = importlib.util.spec_from_file_location("tests.integration.shop", path)
            module = importlib.util.module_from_spec(spec)
            self._exits.callback(_forget_shared_tasks, set(_state._on_app_finalizers))
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
            self._exits.callback(module.app.close)
            self._exits.callback(_let_results_go, module.app)
            self._module.append(module)
        return self._module[0]

    def queue(self, lane: str) -> str:
        return f"{self.prefix}{lane}"

    def worker(self, *lanes: str, **options: Any) -> WorkerProcess:
        """Start a worker for these lanes; it is killed at the end of the test.

        ``conf`` is what Celery is configured there beside the shop's own ``conf``; the rest is
        ``WorkerProcess``'s.
        """
        queues = [self.queue(lane) for lane in lanes or ("ollama",)]
        conf = {"SHOP_CONF": json.dumps({**self.conf, **options.pop("conf", {})})}
        options["env"] = {**options.get("env", {}), **self.env, **conf}
        is_plain = options.get("pool") in {"gevent", "eventlet"} or "program" in options
        worker = (WorkerProcess if is_plain else ForkedWorker)(
            "tests.integration.shop:app", [*queues, *options.pop("queues", ())], cwd=ROOT, **options
        )
        self._exits.callback(_stop, worker)
        return worker.start()


@contextmanager
def listening(app: Any, kind: str, seen: list[Any]) -> Iterator[None]:
    """Collect events in a thread; nothing tells when the subscription has begun."""
    connection = app.connection()
    receiver = app.events.Receiver(connection, handlers={kind: seen.append})

    def capture() -> None:
        for _ in receiver.itercapture(limit=None, timeout=None, wakeup=False):
            pass

    thread = threading.Thread(target=capture)
    thread.start()
    yield
    receiver.should_stop = True
    thread.join(timeout=10)
    connection.release()


def running(shop: Shop, lane: str = "ollama") -> int:
    return shop.tasks.lanes.parts.store.snapshot(lane).running


def waiting(shop: Shop, lane: str = "ollama") -> int:
    return shop.tasks.lanes.parts.store.snapshot(lane).waiting


def _let_results_go(app: Any) -> None:
    """Have results that are collected later not look for the server, which is gone by then.

    Each would try for 20 s, wherever the garbage collector happens to run.
    """
    app.backend.remove_pending_result = lambda result: result


def _forget_shared_tasks(known: set[Any]) -> None:
    """Let the next shop, another app in this process, have tasks of the same names."""
    _state._on_app_finalizers.intersection_update(known)


def _stop(worker: WorkerProcess) -> None:
    """Kill it: what a test says of a warm stop it has said by now, and that takes 2 s."""
    if worker.exit_code is None:
        with suppress(ProcessLookupError):  # it ends by itself just now
            worker.signal_all(signal.SIGKILL)
        worker.wait()
    if sys.exc_info()[0] or os.environ.get("SHOW_LOGS"):
        sys.stderr.write(worker.log())


@pytest.fixture
def valkey() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
def make_shop(
    valkey: EmbeddedValkey, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Shop]]:
    with ExitStack() as exits:

        def make(broker: str = "redis", **config: str) -> Shop:
            url = valkey.url(0) if broker == "redis" else request.getfixturevalue("rabbitmq").url()
            prefix = "lanes." if broker == "redis" else f"l{uuid.uuid4().hex[:6]}."
            shop = Shop(
                broker=url,
                backend=valkey.url(1),
                store=valkey.url(2),
                config=tmp_path / "lanes.toml",
                prefix=prefix,
                _exits=exits,
            )
            return shop.configure(**config)

        yield make


@pytest.fixture
def shop(make_shop: Callable[..., Shop]) -> Shop:
    return make_shop()


@pytest.fixture
def make_store() -> Iterator[Callable[[], EmbeddedValkey]]:
    """A store apart from the broker's server, to be stopped and let go on."""
    with ExitStack() as exits:
        yield lambda: exits.enter_context(EmbeddedValkey())


@pytest.fixture
def observer() -> Iterator[LLMStub]:
    with LLMStub() as stub:
        yield stub
