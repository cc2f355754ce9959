"""Real servers for tests, started by hand on free ports and ended with the test process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from tests.waiting import until

RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # /usr/sbin's would su to its own user
START_DEADLINE_S = 60
STOP_DEADLINE_S = 15

_PR_SET_PDEATHSIG = 1


def unavailable(reason: str) -> NoReturn:
    """Skip the test on a laptop, fail it in CI."""
    if os.environ.get("CI", "").lower() in {"1", "true", "yes"}:
        pytest.fail(f"{reason}, and CI must have it", pytrace=False)
    pytest.skip(reason)


def redis_program() -> str:
    """Find the Redis beside the embedded Valkey: ``$LANES_REDIS_PROGRAM``, else the machine's."""
    program = shutil.which(os.environ.get("LANES_REDIS_PROGRAM") or "redis-server")
    return program or unavailable("redis-server is not installed")


def version_of(program: str) -> tuple[int, ...]:
    """Give what a server's program says of itself; a Valkey's version, the first is 7.2."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(map(int, re.search(r"v=(\d+)\.(\d+)", said).groups()))  # type: ignore[union-attr]


def need(version: tuple[int, ...], program: str) -> None:
    """Skip a test of what an older server does not have."""
    if version_of(program) < version:
        pytest.skip(f"needs a server of version {'.'.join(map(str, version))}")


@dataclass(frozen=True)
class Server:
    """A running server: its URL, its process (a group of its own), and what it prints."""

    url: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> None:
        """End it as an operator would, or by force if it does not go."""
        self.process.terminate()
        try:
            self.process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it as a power cut would (kill -9)."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_DEADLINE_S)


@contextlib.contextmanager
def redis_server(directory: Path, *options: str, port: int | None = None) -> Iterator[Server]:
    """Run the machine's own ``redis-server``; without persistence unless ``options`` say so."""
    program = redis_program()
    port = port or free_port()
    settings = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    command = [program, *settings, "--save", "", "--appendonly", "no", *options]
    with _running(command, directory / "redis.log", f"redis://127.0.0.1:{port}/0", port) as server:
        _await(lambda: _answers_ping(port), server)
        yield server


@contextlib.contextmanager
def rabbitmq_server(directory: Path, *, port: int | None = None) -> Iterator[Server]:
    """Run RabbitMQ with all it writes under ``directory``; 4 s to start.

    Started again with the same directory and port it finds its queues again.
    """
    if not RABBITMQ.exists() or shutil.which("epmd") is None:
        unavailable("rabbitmq-server is not installed")
    port, epmd_port = port or free_port(), free_port()
    epmd = [str(shutil.which("epmd")), "-address", "127.0.0.1", "-port", str(epmd_port)]
    environment = _rabbitmq_environment(directory, port, epmd_port)
    with (
        # Our own, in the foreground: RabbitMQ would leave a daemon behind.
        _running(epmd, directory / "epmd.log", "", epmd_port) as names,
        _running(
            [str(RABBITMQ)],
            directory / "rabbitmq.log",
            f"amqp://guest:guest@127.0.0.1:{port}//",
            port,
            environment,
        ) as server,
    ):
        _await(lambda: _accepts(epmd_port), names)
        _await(lambda: _speaks_amqp(port), server)
        yield server


def free_port() -> int:
    """Let the system choose a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _running(
    command: list[str],
    log: Path,
    url: str,
    port: int,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - no threads run yet in the child
        )
    server = Server(url, port, process, log)
    try:
        yield server
    finally:
        if process.poll() is None:
            server.stop()


def _end_with_parent() -> None:
    """Have Linux stop the server when the tests are killed; elsewhere it stays."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _rabbitmq_environment(directory: Path, port: int, epmd_port: int) -> dict[str, str]:
    (directory / "home").mkdir(exist_ok=True)  # for the Erlang cookie
    (directory / "enabled_plugins").write_text("[].")
    return {
        "HOME": str(directory / "home"),
        "RABBITMQ_NODENAME": f"lanes{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(epmd_port),
        "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
        "RABBITMQ_LOG_BASE": str(directory / "log"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq"),
        "RABBITMQ_CONF_ENV_FILE": os.devnull,
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none "
        "-kernel inet_dist_use_interface {127,0,0,1}",
    }


def _await(is_ready: Callable[[], bool], server: Server) -> None:
    def is_decided() -> bool:
        return is_ready() or server.process.poll() is not None

    def printed() -> str:
        return server.log.read_text(errors="replace")

    until(is_decided, timeout_s=START_DEADLINE_S, story=printed)
    assert server.process.poll() is None, printed()


def _answers_ping(port: int) -> bool:
    return _reply(port, b"PING\r\n").startswith(b"+PONG")


def _speaks_amqp(port: int) -> bool:
    """Tell whether RabbitMQ greets: connection.start is a method frame, type 1."""
    return _reply(port, b"AMQP\x00\x00\x09\x01").startswith(b"\x01")


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _reply(port: int, hello: bytes) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(hello)
            return connection.recv(64)
    except OSError:
        return b""
