"""A TCP proxy that can be cut and restored: a network outage on this machine."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from typing_extensions import Self


class Proxy:
    """Passes connections on to a local port; usable as a context manager."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._is_up = True
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Break all connections, and refuse new ones."""
        self._is_up = False
        for end in list(self._sockets):
            _shut(end)

    def restore(self) -> None:
        """Let connections through again."""
        self._is_up = True

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        if not self._is_up:
            client.close()
            return
        server = socket.create_connection(("127.0.0.1", self._target))
        self._sockets |= {client, server}
        for ends in ((client, server), (server, client)):
            threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            _shut(end)
            end.close()
            self._sockets.discard(end)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
