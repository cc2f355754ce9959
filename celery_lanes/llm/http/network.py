"""The sockets that HTTP is spoken over: each wait on them ends with its call's deadline."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import httpcore
import httpx

from celery_lanes.errors import ConfigError
from celery_lanes.llm.deadline import Left
from celery_lanes.llm.http.hangup import Hangup, hangup_here

MAX_IDLE_CONNECTIONS = 100
KEEPALIVE_S = 5.0
"""How long a connection is kept for the next call; servers close theirs soon after."""

_SLICE = 16 * 1024
"""How much is written before the time is looked at again, in bytes."""


def transport(base_url: str) -> httpx.BaseTransport:
    """Make the connections to a server, through the proxy that the environment names for it.

    Raises ``ConfigError`` for a proxy or certificates that cannot be used.
    """
    scheme = urlsplit(base_url).scheme
    url = _proxy_of(scheme, urlsplit(base_url).hostname or "")
    certificates = _certificates() if scheme == "https" else None  # which takes a while
    try:
        return _Transport(certificates, _read_proxy(url) if url else None)
    except (ValueError, RuntimeError, httpx.InvalidURL):
        raise ConfigError(
            f"expected {scheme.upper()}_PROXY or ALL_PROXY to be the URL of a proxy; "
            "for socks5:// there must be httpx[socks]"
        ) from None


class _Transport(httpx.HTTPTransport):
    """httpx's own, but for the sockets: it has no place for another's."""

    def __init__(self, certificates: ssl.SSLContext | None, proxy: httpx.Proxy | None) -> None:
        self._pool = _pool(certificates, proxy)


class _Sockets(httpcore.SyncBackend):
    """httpcore's own, but that no more than the whole time is spent on many addresses."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Try each address of a host in turn; each has its share of what is left of the time."""
        options = (local_address, socket_options)
        *others, last = _addresses(host, port)
        for at, address in enumerate(others):
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                share_s = _left(timeout, httpcore.ConnectTimeout, among=len(others) + 1 - at)
                return _Socket(super().connect_tcp(address, port, share_s, *options))
        left_s = _left(timeout, httpcore.ConnectTimeout)
        return _Socket(super().connect_tcp(last, port, left_s, *options))


class _Socket(httpcore.NetworkStream):
    """httpcore's own, which would give each of many small steps the whole time."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read what is there, or wait for it."""
        with self._waiting():
            return self._inner.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all of it."""
        for at in range(0, len(buffer), _SLICE):
            with self._waiting():
                self._inner.write(buffer[at : at + _SLICE], _left(timeout, httpcore.WriteTimeout))

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Let another thread give the line up meanwhile."""
        hangup = hangup_here()
        with hangup.on(self._inner.get_extra_info("socket")):
            _check(hangup)
            yield
        _check(hangup)

    def close(self) -> None:
        """Close it."""
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """Go on with TLS."""
        left_s = _left(timeout, httpcore.ConnectTimeout)
        return _Socket(self._inner.start_tls(ssl_context, server_hostname, left_s))

    def get_extra_info(self, info: str) -> Any:
        """Tell what httpcore wants to know of it."""
        return self._inner.get_extra_info(info)


def _check(hangup: Hangup) -> None:
    """Let a line that is given up be closed, and not be kept for the next call."""
    if hangup.is_over:
        raise httpcore.ReadError("it was given up")


def _left(timeout: float | None, late: type[Exception], *, among: int = 1) -> float | None:
    """Give what is left of a step's time by now. Raises what httpcore would if that is nothing."""
    if not isinstance(timeout, Left):
        return timeout
    if (left_s := timeout.now()) <= 0:
        raise late("the time is up")
    return left_s / among


def _addresses(host: str, port: int) -> list[str]:
    """Look a host up. How long that may take is the resolver's own (``resolv.conf``) matter."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(str(error)) from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _pool(
    certificates: ssl.SSLContext | None, proxy: httpx.Proxy | None
) -> httpcore.ConnectionPool:
    options: dict[str, Any] = {
        "ssl_context": certificates,
        "max_connections": None,  # the lane is the cap
        "max_keepalive_connections": MAX_IDLE_CONNECTIONS,
        "keepalive_expiry": KEEPALIVE_S,
        "network_backend": _Sockets(),
    }
    if proxy is None:
        return httpcore.ConnectionPool(**options)
    url = httpcore.URL(str(proxy.url))
    if proxy.url.scheme.startswith("socks"):
        return httpcore.SOCKSProxy(url, proxy_auth=proxy.raw_auth, **options)
    return httpcore.HTTPProxy(url, proxy_auth=proxy.raw_auth, **options)


def _certificates() -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        raise ConfigError(
            f"expected SSL_CERT_FILE or SSL_CERT_DIR to hold certificates: {error.strerror}"
        ) from error


def _proxy_of(scheme: str, host: str) -> str | None:
    """Find what ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` say of a server.

    This machine itself is never asked through a proxy.
    """
    proxies = getproxies_environment()
    is_direct = _is_loopback(host) or proxy_bypass(host)
    return None if is_direct else proxies.get(scheme) or proxies.get("all")


def _read_proxy(url: str) -> httpx.Proxy:
    url = url if "://" in url else f"http://{url}"
    urlsplit(url).port  # noqa: B018 # raises what httpcore would only when it connects
    return httpx.Proxy(url)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
