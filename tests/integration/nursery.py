"""Workers forked from a process that has imported Celery already: a start costs a fourth.

Each is a process of its own, with Celery's own ``main``, arguments, environment and log, and ends
as ``python -m celery`` does. Only what it imports was imported before, which is most of a start.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import subprocess
import sys

from typing_extensions import Self

from celery_lanes.testing.workers import WorkerProcess

IMPORTED = [
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.concurrency.thread",
    "celery.worker.consumer",
    "celery_lanes",
    "cffi.cparser",  # billiard's, in every process of a pool
    "kombu.transport.pyamqp",
    "kombu.transport.redis",
    "tests.integration.nursery",
]
"""What no worker's configuration has a say in."""

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(IMPORTED)


class ForkedWorker(WorkerProcess):
    """A worker process that has nothing left to import; not for gevent, which must patch first."""

    def spawn(self) -> Self:
        arguments = self.command[self.command.index("celery") :]
        self._process = _Forked(arguments, dict(self._env), str(self._cwd), str(self._log))
        return self


class _Forked:
    """Of ``subprocess.Popen``, what a ``WorkerProcess`` uses."""

    def __init__(self, *how: object) -> None:
        self._process = _forks.Process(target=_work, args=how)
        self._process.start()
        self.pid = self._process.pid
        self.terminate = self._process.terminate

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("celery", timeout or 0)
        return self._process.exitcode


def _work(arguments: list[str], env: dict[str, str], cwd: str, log: str) -> None:
    """Become ``python -m celery``."""
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    with open(log, "ab") as file:  # noqa: PTH123 # as a shell would
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)
    sys.argv = arguments
    try:
        from celery.__main__ import main

        main()
    finally:
        atexit._run_exitfuncs()  # multiprocessing would skip them
