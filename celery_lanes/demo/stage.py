"""Everything the demo needs, started in the right order and ended in the other."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from celery_lanes.config.settings import Settings
from celery_lanes.demo.options import DemoOptions
from celery_lanes.demo.shop import MODULE, POLICIES, config, make_app
from celery_lanes.testing.embedded import EmbeddedValkey
from celery_lanes.testing.llm_stub import LLMStub
from celery_lanes.testing.workers import READY, WorkerProcess

START_S = 60


class Host:
    """An HTTP server in place of an LLM, and who is inside: the first word of a prompt tells."""

    def __init__(self, service_s: float) -> None:
        self.stub = LLMStub(self._serve)
        self._service_s = service_s
        self._entered: list[str] = []

    @property
    def requests(self) -> int:
        """Requests that have come in."""
        return len(self._entered)

    def running(self) -> Counter[str]:
        """Count the requests that are being served, by caller."""
        left = Counter(_caller(record.prompt) for record in self.stub.log)
        return Counter(self._entered) - left

    def _serve(self, asked: dict[str, Any]) -> float:
        self._entered.append(_caller(asked["messages"][-1]["content"]))
        return self._service_s


@dataclass(frozen=True, slots=True)
class Stage:
    """What the runs need: the producer's app, and for each policy a host that counts."""

    app: Any
    hosts: Mapping[str, Host]
    options: DemoOptions


@contextmanager
def staged(options: DemoOptions, console: Console) -> Iterator[Stage]:
    """Start Valkey, the HTTP server and the workers; end them in the other order."""
    with ExitStack() as exits:
        with console.status("starting Valkey, the HTTP server and the workers"):
            stage = _start(exits, options)
        yield stage


def _start(exits: ExitStack, options: DemoOptions) -> Stage:
    valkey = exits.enter_context(EmbeddedValkey())
    hosts = {policy: Host(options.service_ms / 1000) for policy in POLICIES}
    for host in hosts.values():
        exits.enter_context(host.stub)
    folder = exits.enter_context(tempfile.TemporaryDirectory(prefix="celery-lanes-"))
    file = Path(folder) / "lanes.toml"
    file.write_text(config(valkey.url(2), options))
    env = {
        "DEMO_BROKER": valkey.url(0),
        "DEMO_BACKEND": valkey.url(1),
        "CELERY_LANES_CONFIG": str(file),
        **{f"LLM_{policy.upper()}": host.stub.dsn for policy, host in hosts.items()},
    }
    _start_workers(exits, options, env)
    app = make_app(valkey.url(0), valkey.url(1), Settings.load(file))
    exits.callback(app.close)
    return Stage(app, hosts, options)


def _start_workers(exits: ExitStack, options: DemoOptions, env: Mapping[str, str]) -> None:
    """Start all of them at once, and wait until each is ready."""
    workers = [_worker(options, env).spawn() for _ in range(options.workers)]
    for worker in workers:
        exits.push(worker)
    for worker in workers:
        worker.wait_for_log(READY, timeout_s=START_S)


def _worker(options: DemoOptions, env: Mapping[str, str]) -> WorkerProcess:
    queues = [f"lanes.{policy}" for policy in POLICIES]
    return WorkerProcess(MODULE, queues, concurrency=options.processes, env=env)


def _caller(prompt: str) -> str:
    return prompt.partition(" ")[0]
