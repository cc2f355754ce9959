"""Real Celery worker processes, for tests, the demo and benchmarks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from typing_extensions import Self

READY = " ready."


class WorkerProcess:
    """One ``celery worker`` process; a context manager that stops it warmly.

    Args:
        app: what ``celery -A`` takes.
        queues: what ``-Q`` takes.
        pool: prefork, threads, gevent or solo.
        concurrency: ``-c``.
        options: more arguments for ``celery worker``.
        env: variables on top of this process's own.
        cwd: where it runs.
        log: the file that it prints to; by default a temporary one.
        program: what Python runs instead of ``-m celery``, with the same arguments.
    """

    def __init__(
        self,
        app: str,
        queues: Sequence[str],
        *,
        pool: str = "prefork",
        concurrency: int = 2,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path | str | None = None,
        log: Path | None = None,
        program: Sequence[str] = ("-m", "celery"),
    ) -> None:
        name = f"w{os.urandom(4).hex()}@localhost"
        self.command = [
            sys.executable, *program, "-A", app, "worker", "-Q", ",".join(queues),
            "-P", pool, "-c", str(concurrency), "-n", name, "-l", "INFO",
            "--without-gossip", "--without-mingle", *options,
        ]  # fmt: skip
        self.name = name
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._cwd = cwd
        self._log = log or Path(tempfile.mkstemp(prefix="worker-", suffix=".log")[1])
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Start, and wait until it is ready."""
        return self.start()

    def __exit__(self, *exc: object) -> None:
        """Stop warmly; kill what does not stop."""
        self.stop()
        self._log.unlink(missing_ok=True)

    @property
    def pid(self) -> int:
        """The parent process's id."""
        return self._running().pid

    @property
    def exit_code(self) -> int | None:
        """What it has ended with; ``None`` while it runs."""
        return self._running().poll()

    def start(self, *, timeout_s: float = 30) -> Self:
        """Start, and wait for its ready line. ``RuntimeError`` with the log if it does not come."""
        self.spawn()
        self.wait_for_log(READY, timeout_s=timeout_s)
        return self

    def spawn(self) -> Self:
        """Start without waiting."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 # our own interpreter
                self.command, env=self._env, cwd=self._cwd, text=True,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        return self

    def signal(self, number: int) -> None:
        """Send a signal to the parent process."""
        os.kill(self.pid, number)

    def signal_all(self, number: int) -> None:
        """Send a signal to the parent and to its pool processes, at once."""
        os.killpg(self.pid, number)

    def kill(self) -> None:
        """Kill the parent outright, as the OOM killer would; its children follow it."""
        self.signal(signal.SIGKILL)
        self._running().wait(timeout=10)

    def stop(self, *, timeout_s: float = 20) -> int | None:
        """Stop warmly and give the exit code; killed after ``timeout_s``."""
        process = self._process
        if process is None or process.poll() is not None:
            return process.poll() if process else None
        process.terminate()
        try:
            return process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.signal_all(signal.SIGKILL)
            return process.wait(timeout=10)

    def wait(self, *, timeout_s: float = 30) -> int:
        """Wait for its end; give the exit code."""
        return self._running().wait(timeout=timeout_s)

    def log(self) -> str:
        """Read what it has printed so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_for_log(self, text: str, *, timeout_s: float = 30, times: int = 1) -> None:
        """Wait until a text has been printed so many times."""
        pause = threading.Event()
        deadline = time.monotonic() + timeout_s
        while self.log().count(text) < times:
            if self._running().poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no {text!r} in the worker's log:\n{self.log()}")
            pause.wait(0.02)

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise RuntimeError("the worker has not been started")
        return self._process
