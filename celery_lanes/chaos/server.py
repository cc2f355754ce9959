"""One server of the run, behind a proxy: an embedded one, or a user's, which is only cut off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from celery_lanes.errors import ConfigError
from celery_lanes.testing.embedded import EmbeddedValkey
from celery_lanes.testing.proxy import Proxy

PORTS = {"redis": 6379, "valkey": 6379, "amqp": 5672, "pyamqp": 5672}
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
"""An embedded server loses nothing that it has acknowledged, also by kill -9."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server and the way to it.

    Attributes:
        name: store or broker.
        url: leads through the proxy; for workers and the producer.
        direct_url: leads past it; for the observer.
        embedded: the server's process, if it is ours.
    """

    name: str
    url: str
    direct_url: str
    proxy: Proxy
    embedded: EmbeddedValkey | None

    def take_down(self, *, is_hard: bool) -> None:
        """Kill our own server, or stop it."""
        if self.embedded is not None:
            (self.embedded.kill if is_hard else self.embedded.stop)()

    def bring_up(self) -> None:
        """Start it again, on the same port with the same data."""
        if self.embedded is not None:
            self.embedded.start()


@contextmanager
def served(name: str, url: str | None) -> Iterator[Server]:
    """Give the server at an outside URL, or an embedded one, and a proxy before it."""
    with ExitStack() as exits:
        embedded = None if url else exits.enter_context(EmbeddedValkey(*DURABLE))
        direct = url or (embedded.url() if embedded else "")
        host, port = address(direct)
        proxy = exits.enter_context(Proxy(port, host))
        yield Server(name, through(proxy.port, direct), direct, proxy, embedded)


def address(url: str) -> tuple[str, int]:
    """Say where a URL leads. Raises ``ConfigError`` for what no proxy can stand before."""
    parts = urlsplit(url)
    if parts.scheme not in PORTS or parts.hostname is None:
        known = ", ".join(f"{scheme}://" for scheme in PORTS)
        raise ConfigError(
            f"expected one host at {known}, for a proxy before it; got {parts.scheme}://"
        )
    return parts.hostname, parts.port or PORTS[parts.scheme]


def through(port: int, url: str) -> str:
    """Have a URL lead to a local port instead; user, password and path stay."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{port}"))
