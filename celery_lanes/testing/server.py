"""What the embedded servers have in common: a port, a folder, and a process that ends with ours."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from typing_extensions import Self

from celery_lanes.errors import LanesError

STOP_DEADLINE_S = 10.0
LOOK_EVERY_S = 0.01

_PR_SET_PDEATHSIG = 1


class EmbeddedServer(ABC):
    """One server process on 127.0.0.1; its port and its folder stay the same over restarts.

    A context manager that starts it, and in the end stops it and removes the folder. It also ends
    when the thread that started it does, be it by ``kill -9`` (on Linux).

    Attributes:
        port: where it listens.
        start_deadline_s: how long it may take until it answers.
        unavailable: what is raised, with the server's log, if it does not start.
    """

    start_deadline_s: ClassVar[float] = 20.0
    unavailable: ClassVar[type[LanesError]] = LanesError

    def __init__(self, name: str) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._spawned_s = 0.0
        self._folder = tempfile.TemporaryDirectory(prefix=f"embedded-{name}-")
        self._log = Path(self._folder.name, "log")

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self._folder.cleanup()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(port={self.port})"

    @property
    def pid(self) -> int | None:
        """Give the server's process id while it runs."""
        return self._process.pid if self._process else None

    def log(self) -> str:
        """Read what it has printed so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self.spawn()
        while not self.is_ready():
            time.sleep(LOOK_EVERY_S)

    def spawn(self) -> None:
        """Start the server without waiting."""
        if self._process is not None:
            return
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 # our own program and arguments
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environment()},
                preexec_fn=end_with_parent,  # noqa: PLW1509 # calls one C function
            )
        self._spawned_s = time.monotonic()

    def is_ready(self) -> bool:
        """Say whether it answers. Raises ``unavailable`` if it has ended or takes too long."""
        if self._answers():
            return True
        has_ended = self._process is None or self._process.poll() is not None
        if has_ended or time.monotonic() > self._spawned_s + self.start_deadline_s:
            self.kill()
            raise self.unavailable(f"{self._command()[0]} did not start:\n{self.log()}")
        return False

    def stop(self) -> None:
        """End the server as an operator would, by SIGTERM; killed after 10 s."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server as a power cut would, by SIGKILL."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it if it runs, and start it on the same port."""
        self.stop()
        self.start()

    @abstractmethod
    def _command(self) -> Sequence[str]: ...

    @abstractmethod
    def _answers(self) -> bool: ...

    def _environment(self) -> Mapping[str, str]:
        """Give variables on top of this process's own."""
        return {}

    def _end(self, signal_number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal_number)
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """Let the system choose a port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def reply(port: int, hello: bytes) -> bytes:
    """Give the beginning of what a local port answers; nothing if it does not."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as wire:
        wire.sendall(hello)
        return wire.recv(64)
    return b""


def end_with_parent() -> None:
    """Have Linux end this process when the thread that started it ends, also by kill -9."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
