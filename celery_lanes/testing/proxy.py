"""A TCP proxy that can be cut and restored, and can lose answers: a bad network on one machine."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from typing_extensions import Self

CONNECT_S = 5.0


class Proxy:
    """Passes connections on to a server; a context manager that listens on a free local port.

    ::

        with Proxy(server.port) as proxy:
            client = Redis(port=proxy.port)
            proxy.drop_replies()  # the next request is executed, and its answer lost
            proxy.cut()  # nothing passes, nobody can connect
            proxy.restore()

    Args:
        target: the server's port.
        host: the server's host.
    """

    def __init__(self, target: int, host: str = "127.0.0.1") -> None:
        self._target = (host, target)
        self._is_up = True
        self._sockets: set[socket.socket] = set()
        self._deaf: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        """Begin to listen."""
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop listening, and break what is open."""
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Break all connections, and refuse new ones."""
        self._is_up = False
        for end in list(self._sockets):
            _shut(end)

    def restore(self) -> None:
        """Let connections through again; also takes back a ``drop_replies``."""
        self._deaf.clear()
        self._is_up = True

    def drop_replies(self) -> None:
        """Lose the next answer on each connection that is open now, and break it with that.

        The request does reach the server. New connections are not concerned: a client can repeat
        its request at once.
        """
        self._deaf = set(self._sockets)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        server = self._server()
        if server is None:
            client.close()
            return
        self._sockets |= {client, server}
        if not self._is_up:  # cut meanwhile
            _shut(server)
        threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()
        self._pass_on(server, client, is_reply=True)

    def _server(self) -> socket.socket | None:
        if not self._is_up:
            return None
        with suppress(OSError):
            server = socket.create_connection(self._target, CONNECT_S)
            server.settimeout(None)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return server
        return None

    def _pass_on(
        self, source: socket.socket, sink: socket.socket, *, is_reply: bool = False
    ) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if is_reply and source in self._deaf:
                    break
                sink.sendall(data)
        for end in (source, sink):
            _shut(end)
        source.close()  # the thread of the other direction closes the other end
        self._sockets.discard(source)
        self._deaf.discard(source)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
