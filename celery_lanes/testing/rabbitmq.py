"""A real RabbitMQ for tests and trials, started on free ports and ended with you."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from celery_lanes.errors import LanesError
from celery_lanes.testing.server import EmbeddedServer, free_port, reply

HELLO = b"AMQP\x00\x00\x09\x01"
METHOD_FRAME = b"\x01"
NAMES = b"\x00\x01n"
"""A request of one byte: what names do you know?"""

SBIN = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin", "/usr/lib/rabbitmq/bin")


class EmbeddedRabbitMQ(EmbeddedServer):
    """One RabbitMQ on 127.0.0.1, which writes into a folder of its own; 4 to 10 s to start.

    ``with EmbeddedRabbitMQ() as server:`` starts it; ``server.url()`` is a broker's URL. After
    ``restart``, ``stop`` or ``kill`` it has the same port, its durable queues and their persistent
    messages. It is one process, Erlang's own, beside the name service that Erlang needs.
    ``LanesError`` if RabbitMQ is not on this machine, or does not start.

    Args:
        program: the ``rabbitmq-server`` script; by default the one on PATH, or in an sbin folder.
    """

    start_deadline_s = 60.0

    def __init__(self, program: str | None = None) -> None:
        self._program = program or find_program()
        self._names = _NameService()
        self._erlang_port = free_port()
        super().__init__("rabbitmq")

    def url(self) -> str:
        """Give the URL of its one virtual host, as the user that it has."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def __exit__(self, *exc: object) -> None:
        """Stop both, and remove their folders."""
        super().__exit__(*exc)
        self._names.__exit__(*exc)

    def spawn(self) -> None:
        """Start the name service, and RabbitMQ without waiting for it."""
        self._names.start()
        Path(self._folder.name, "enabled_plugins").write_text("[].")
        super().spawn()

    def _end(self, signal_number: int) -> None:
        super()._end(signal_number)
        self._names.stop()

    def _command(self) -> list[str]:
        return [self._program]

    def _environment(self) -> dict[str, str]:
        folder = Path(self._folder.name)
        return {
            **self._names.environment(),
            "HOME": str(folder),  # for the Erlang cookie
            "RUNNING_UNDER_SYSTEMD": "yes",  # the script becomes Erlang, in place of its parent
            "RABBITMQ_NODENAME": f"lanes{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._erlang_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "logs"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none "
            "-kernel inet_dist_use_interface {127,0,0,1}",
        }

    def _answers(self) -> bool:
        """Tell whether it greets with ``connection.start``, which is a method."""
        return reply(self.port, HELLO).startswith(METHOD_FRAME)


class _NameService(EmbeddedServer):
    """Erlang's ``epmd``, in the foreground: RabbitMQ would leave a daemon behind."""

    def __init__(self) -> None:
        self._program = _which("epmd")
        super().__init__("epmd")

    def environment(self) -> dict[str, str]:
        return {"ERL_EPMD_ADDRESS": "127.0.0.1", "ERL_EPMD_PORT": str(self.port)}

    def _command(self) -> list[str]:
        return [self._program, "-address", "127.0.0.1", "-port", str(self.port)]

    def _answers(self) -> bool:
        """Tell whether it knows its names, none so far, as ``epmd -names`` asks it."""
        return reply(self.port, NAMES) != b""


def find_program() -> str:
    """Find the ``rabbitmq-server`` script itself: Debian's on PATH would become another user."""
    return str(Path(_which("rabbitmq-server")).resolve().with_name("rabbitmq-server"))


def _which(program: str) -> str:
    """Find a program on PATH, or where administrators have theirs."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *SBIN])
    if found := shutil.which(program, path=path):
        return found
    raise LanesError(
        f"no {program} found: install RabbitMQ, which needs Erlang (apt install rabbitmq-server,"
        " brew install rabbitmq)"
    )
