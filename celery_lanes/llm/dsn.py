"""Where a provider is: ``scheme://[token@]host[/path][?option=value]``, as in ``LLM_<NAME>``."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pydantic import SecretStr

from celery_lanes.errors import ConfigError

FORM = (
    '"scheme://[token@]host[/path][?option=value]" (scheme+http:// without TLS; '
    "in the token, write odd characters as %XX)"
)

_PLAINTEXT = "+http"
_SCHEME = re.compile(r"[a-z][a-z0-9_-]*(?:\+http)?", re.IGNORECASE)
_NETLOC = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class Dsn:
    """A provider's address and key; hashable, and its repr hides the token.

    Attributes:
        scheme: which kind of provider it is, in lower case, without ``+http``.
        base_url: https (or http) URL without a slash at its end.
        token: the key; ``None`` if there is none.
        options: the query string's pairs, in their order.
    """

    scheme: str
    base_url: str
    token: SecretStr | None = None
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str, *, variable: str) -> Dsn:
        """Read a DSN; the token is what stands before the *last* ``@``, percent-decoded.

        An ``@`` after the host must thus be written ``%40``. Raises ``ConfigError``, which names
        the variable and the expected form, and shows nothing of the text.
        """
        scheme, separator, rest = text.strip().partition("://")
        if not separator:
            raise malformed(variable, "it has no ://")
        if not _SCHEME.fullmatch(scheme):
            raise malformed(variable, "its scheme has odd characters")
        token, _, address = rest.rpartition("@")
        kind = scheme.lower().removesuffix(_PLAINTEXT)
        protocol = "http" if scheme.lower().endswith(_PLAINTEXT) else "https"
        parts = _address(f"{protocol}://{address}", variable)
        base_url = f"{protocol}://{parts.netloc}{parts.path}".rstrip("/")
        secret = read_token(unquote(token), variable=variable)
        return cls(kind, base_url, secret, tuple(parse_qsl(parts.query)))

    def known_options(self, name: str, *known: str) -> dict[str, str]:
        """Give the options of provider ``name``. Raises ``ConfigError`` for an unknown one."""
        options = dict(self.options)
        if unknown := ", ".join(sorted(options.keys() - set(known))):
            only = f", only {', '.join(known)}" if known else ""
            raise ConfigError(f"LLM_{name.upper()} knows no option {unknown}{only}")
        return options

    def with_path(self, path: str) -> Dsn:
        """Add a path if the address is a bare host."""
        has_path = bool(urlsplit(self.base_url).path)
        return self if has_path else replace(self, base_url=self.base_url + path)


def read_token(text: str, *, variable: str) -> SecretStr | None:
    """Take a key that fits into an HTTP header; ``None`` of none.

    What does not fit is refused here: the HTTP library's own error would show it.
    """
    if not (text := text.strip()):
        return None
    if not _TOKEN.fullmatch(text):
        raise ConfigError(f"expected the key in {variable} to be printable ASCII without spaces")
    return SecretStr(text)


def read_ollama_host(text: str, *, variable: str = "OLLAMA_HOST") -> str:
    """Give the base URL of an ``OLLAMA_HOST``: a host, host:port or URL, as Ollama reads it.

    Without a port it is 11434; with a protocol, that protocol's own port. Without a host it is
    this machine.
    """
    protocol, separator, rest = text.strip().rpartition("://")
    if separator and protocol not in {"http", "https"}:
        raise ConfigError(f"expected {variable} to be a host, host:port or http(s):// URL")
    host = "localhost" if rest.startswith(":") else ""
    parts = _address(f"{protocol or 'http'}://{host}{rest}", variable)
    port = "" if separator or parts.port else ":11434"
    return f"{parts.scheme}://{parts.netloc}{port}{parts.path}".rstrip("/")


def malformed(variable: str, what: str) -> ConfigError:
    """Say what is wrong with a variable, without its value."""
    return ConfigError(f"expected {variable} to be {FORM}: {what}")


def _address(url: str, variable: str) -> SplitResult:
    """Split a URL with a sound host, port and no fragment."""
    try:
        parts = urlsplit(url)
        is_sound = bool(_NETLOC.fullmatch(parts.netloc)) and parts.port != 0
        (parts.hostname or "").encode("idna").decode("idna")
    except ValueError:  # a port beyond 65535, half an IPv6 address, a name that is too long
        is_sound = False
    if not is_sound or parts.fragment:
        raise malformed(variable, "it has no host, or one with odd characters or a wrong port")
    return parts
