"""One server of the run, behind a proxy: an embedded one, or a user's, which is only cut off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from celery_lanes.chaos.options import RABBITMQ
from celery_lanes.errors import ConfigError
from celery_lanes.testing.embedded import EmbeddedValkey
from celery_lanes.testing.proxy import Proxy
from celery_lanes.testing.rabbitmq import EmbeddedRabbitMQ

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
    embedded: EmbeddedValkey | EmbeddedRabbitMQ | None

    def take_down(self, *, is_hard: bool) -> None:
        """Kill our own server, or stop it."""
        if self.embedded is not None:
            (self.embedded.kill if is_hard else self.embedded.stop)()

    def bring_up(self) -> None:
        """Start it again, on the same port with the same data; it may take seconds to answer."""
        if self.embedded is not None:
            self.embedded.spawn()

    def is_up(self) -> bool:
        """Say whether it answers; a user's own is never taken down."""
        return self.embedded is None or self.embedded.is_ready()


@contextmanager
def served(name: str, place: str | None) -> Iterator[Server]:
    """Give the server at an outside URL, or an embedded one, and a proxy before it."""
    with ExitStack() as exits:
        embedded = _embedded(place)
        if embedded is not None:
            exits.enter_context(embedded)
        direct = embedded.url() if embedded else str(place)
        host, port = address(direct)
        proxy = exits.enter_context(Proxy(port, host))
        yield Server(name, through(proxy.port, direct), direct, proxy, embedded)


def _embedded(place: str | None) -> EmbeddedValkey | EmbeddedRabbitMQ | None:
    if place is None:
        return EmbeddedValkey(*DURABLE)
    return EmbeddedRabbitMQ() if place == RABBITMQ else None


def address(url: str) -> tuple[str, int]:
    """Say where a URL leads. Raises ``ConfigError`` for what no proxy can stand before."""
    parts = urlsplit(url)
    if parts.scheme not in PORTS or parts.hostname is None:
        known = ", ".join(f"{scheme}://" for scheme in PORTS)
        scheme = f"{parts.scheme}://" if parts.scheme else "no scheme"
        raise ConfigError(
            f"expected one host at {known}, for a proxy before it, or --broker {RABBITMQ};"
            f" got {scheme}"
        )
    return parts.hostname, parts.port or PORTS[parts.scheme]


def through(port: int, url: str) -> str:
    """Have a URL lead to a local port instead; user, password and path stay."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{port}"))
