"""The store's scripts: one verb per file, shared functions in files that begin with ``_``.

A script's header says what it works with::

    -- KEYS: calls queue meta          the lane's keys, bound to these local names in this order
    -- ARGV: worker request ...        its first arguments, the same way; "rest" is what follows
    -- USES: fair moves                shared files to put before it, besides ``_prelude.lua``
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """A verb's script, ready to send; ``sha`` is what EVALSHA wants."""

    kinds: tuple[str, ...]
    source: str
    sha: str


@cache
def load(verb: str) -> Script:
    """Read a verb's script, its shared functions, and its names bound as its header says."""
    body = _read(f"{verb}.lua")
    kinds, names = _header(body, "KEYS"), [n for n in _header(body, "ARGV") if n != "..."]
    shared = [_read(f"_{name}.lua") for name in ("prelude", *_header(body, "USES"))]
    bound = [_bind(kinds, "KEYS"), _bind(names, "ARGV"), f"local rest = {len(names) + 1}"]
    source = "\n".join([*bound, *shared, body])
    return Script(tuple(kinds), source, sha1(source.encode(), usedforsecurity=False).hexdigest())


def _bind(names: list[str], table: str) -> str:
    if not names:
        return ""
    values = ", ".join(f"{table}[{at}]" for at in range(1, len(names) + 1))
    return f"local {', '.join(names)} = {values}"


def _header(body: str, word: str) -> list[str]:
    found = re.search(rf"^-- {word}: (.+)$", body, re.MULTILINE)
    return found[1].split() if found else []


def _read(name: str) -> str:
    return (files(__name__) / name).read_text(encoding="utf-8")
