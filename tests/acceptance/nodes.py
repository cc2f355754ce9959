"""Processes of this machine in the shape of Docker's containers, for pytest-celery's clusters.

pytest-celery's own container classes wrap whatever has the Docker SDK's few members that they use;
so its nodes, clusters and ``celery_setup`` are the stock ones, with or without a Docker engine.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_celery import CeleryTestContainer, CeleryWorkerContainer
from typing_extensions import Self

from celery_lanes.testing.embedded import EmbeddedValkey
from celery_lanes.testing.rabbitmq import EmbeddedRabbitMQ
from celery_lanes.testing.server import end_with_parent
from tests.waiting import until

ROOT = Path(__file__).parents[2]
START_DEADLINE_S = 30


class ProcessContainer(ABC):
    """What the Docker SDK calls a container, over a process."""

    attrs: Mapping[str, object] = {"NetworkSettings": {"Networks": {}, "Ports": {}}}

    def __init__(self, name: str) -> None:
        self.id = uuid.uuid4().hex
        self.name = name

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Be removed by force, as Docker's containers are after a test."""
        self.kill()

    @property
    def status(self) -> str:
        return "running" if self.is_running else "exited"

    def reload(self) -> None:  # noqa: B027 - complete as it is
        """Read the state anew: it is never kept."""

    def restart(self, timeout: float) -> None:
        """Stop as an operator would, and start under the same name; returns when it is ready."""
        if self.is_running:
            self.stop(timeout)
        self.start()

    @property
    @abstractmethod
    def is_running(self) -> bool: ...

    @abstractmethod
    def start(self) -> None:
        """Start, and wait until it is ready."""

    @abstractmethod
    def stop(self, timeout_s: float) -> None:
        """End it with SIGTERM."""

    @abstractmethod
    def kill(self, signal: str | int = "SIGKILL") -> None: ...

    @abstractmethod
    def logs(self) -> bytes: ...


class ServerProcess(ProcessContainer):
    """An embedded server. After a restart it has its port; a Valkey is empty, a RabbitMQ is not."""

    def __init__(self, server: EmbeddedValkey | EmbeddedRabbitMQ) -> None:
        super().__init__(repr(server))
        self._server = server
        self.url = server.url()

    def __exit__(self, *exc: object) -> None:
        self._server.__exit__(*exc)  # its folder goes, too

    @property
    def is_running(self) -> bool:
        return self._server.pid is not None

    def start(self) -> None:
        self._server.start()

    def stop(self, timeout_s: float) -> None:
        self._server.stop()

    def kill(self, signal: str | int = "SIGKILL") -> None:
        self._server.kill()

    def logs(self) -> bytes:
        return self._server.log().encode()


class WorkerProcess(ProcessContainer):
    """A worker in a folder of its own, as its container would have in /app."""

    def __init__(
        self,
        folder: Path,
        *,
        command: Sequence[str],
        content: Mapping[str, bytes],
        env: Mapping[str, str],
    ) -> None:
        super().__init__(folder.name)
        host = self.id[:12]  # Docker's name for the host; the processes here share one
        self._command = [sys.executable, "-m", *(word.replace("%h", host) for word in command)]
        self._env = {**os.environ, **env, "PYTHONPATH": str(ROOT)}
        self._folder = folder
        self._log = folder / "worker.log"
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None
        _fill(folder, content)

    def __enter__(self) -> Self:
        """Start without waiting, so that a cluster's workers boot side by side."""
        self._spawn()
        return self

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        self._spawn()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        def is_ready() -> bool:
            assert self.is_running, f"{self.name} has ended:\n{self.logs().decode()}"
            return b" ready." in self.logs()[self._log_start :]

        until(is_ready, timeout_s=START_DEADLINE_S, story=lambda: self.logs().decode())

    def stop(self, timeout_s: float) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self, signal_name: str | int = "SIGKILL") -> None:
        """SIGKILL ends all of its processes, as in a container; other signals go to the first."""
        number = getattr(signal, str(signal_name), signal_name)
        if not self.is_running:
            return
        if number == signal.SIGKILL:
            os.killpg(self._process.pid, number)
            self._process.wait()
        else:
            self._process.send_signal(number)

    def logs(self) -> bytes:
        return self._log.read_bytes()

    def _spawn(self) -> None:
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent,  # noqa: PLW1509 - one C function
            )


class ServerContainer(CeleryTestContainer):
    """A server that workers and the test reach under the same URL."""

    @property
    def celeryconfig(self) -> dict[str, str]:
        url = self._container.url
        return {"url": url, "host_url": url}


class LanesWorkerContainer(CeleryWorkerContainer):
    """pytest-celery's worker with what a shop adds to have lanes: two lines, and a file."""

    @classmethod
    def command(cls, *args: str, **options: bool) -> list[str]:
        queues = f"{cls.worker_queue()},lanes.ollama,lanes.openai,lanes.groq"
        ours = ("-Q", queues, "-c", "2", "--without-mingle")  # of two -Q the last one counts
        return super().command(*args, *ours, **options)

    @classmethod
    def initial_content(cls, *args: object, **modules: object) -> dict[str, bytes]:
        content = super().initial_content(*args, **modules)
        content["app.py"] += b"\nfrom celery_lanes import Lanes\nlanes = Lanes(app)\n"
        return {**content, "config/lanes.toml": LANES.encode()}


LANES = """
[defaults]
max_concurrent = 3
lease_ttl = "3s"

[lanes.openai]
intake = "broker"

[lanes.groq]
lease_ttl = "6s"
"""


def _fill(folder: Path, content: Mapping[str, bytes]) -> None:
    for name, data in content.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
