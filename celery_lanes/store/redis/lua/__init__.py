"""The store's scripts: one verb per file, shared functions in files that begin with ``_``.

A script's header says what it works with::

    -- FLAGS: allow-oom              what it is as a function of the server: "allow-oom" goes on at
                                     maxmemory, "no-writes" only reads
    -- KEYS: calls queue meta        the lane's keys, bound to these names in this order
    -- ARGV: worker request ...      its first arguments, the same way; "rest" is what follows
    -- USES: ring fair moves         shared files to put before it, besides ``_prelude.lua``

A verb is sent as a script, or with all of its kind as a library of functions: there shared files
are read once and not at each call, which takes half of a call's time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib.resources import files

from celery_lanes.store.keys import HEALTH_KINDS, KINDS

SHARED = (
    "prelude", "ring", "fair", "tickets", "moves", "adapting", "releases", "buckets", "grants",
    "preemption", "standing", "steering",
)  # fmt: skip
"""What the verbs of lanes share. Each may use what stands before it."""

HEALTH_SHARED = ("prelude", "health")
"""What the verbs of the health of LLM targets share: a library apart, for few need both."""

SHARED_ARGUMENTS = ("channel", "tries", "lane_name")
"""What shared functions want of a verb's arguments."""


@dataclass(frozen=True, slots=True)
class Script:
    """A verb's script, ready to send; ``sha`` is what EVALSHA wants.

    ``wakes``: it may wake workers, so that its first arguments are the ``SHARED_ARGUMENTS``.
    """

    kinds: tuple[str, ...]
    wakes: bool
    source: str
    sha: str


@dataclass(frozen=True, slots=True)
class Library:
    """Verbs, ready for FUNCTION LOAD; named after its content, so that versions get along."""

    name: str
    source: str
    kinds: tuple[str, ...]

    def function(self, verb: str) -> str:
        """Name a verb's function."""
        return f"{self.name}_{verb}"


@cache
def load(verb: str) -> Script:
    """Read a verb's script, its shared functions, and its names bound as its header says."""
    body = _read(verb)
    kinds, names = _header(body, "KEYS"), _arguments(body)
    shared = (_read(f"_{name}") for name in ("prelude", *_header(body, "USES")))
    bound = [_bound(kinds, "KEYS"), _bound(names, "ARGV"), _rest(names)]
    source = "\n".join([*bound, *shared, "begin()", body])
    wakes = set(SHARED_ARGUMENTS) <= set(names)
    return Script(tuple(kinds), wakes, source, _sha(source))


def library(verb: str) -> Library:
    """Give the library that a verb is in."""
    lanes, health = _libraries()
    return health if _is_of_health(verb) else lanes


@cache
def _libraries() -> tuple[Library, Library]:
    """Put all verbs into two libraries: of lanes, and of health."""
    of_health = [verb for verb in verbs() if _is_of_health(verb)]
    of_lanes = [verb for verb in verbs() if verb not in of_health]
    return (
        _library("lanes", of_lanes, SHARED, KINDS),
        _library("lanes_health", of_health, HEALTH_SHARED, HEALTH_KINDS),
    )


def _library(
    name: str, verbs: list[str], shared: tuple[str, ...], kinds: tuple[str, ...]
) -> Library:
    files = [_read(f"_{file}") for file in shared]
    declared = f"local {', '.join((*kinds, *SHARED_ARGUMENTS))}"
    source = "\n".join([declared, *files, *(_function(verb, kinds) for verb in verbs)])
    name = f"{name}_{_sha(source)[:16]}"
    return Library(name, f"#!lua name={name}\n" + source.replace(_NAME, name), kinds)


def _is_of_health(verb: str) -> bool:
    return verb.startswith("health_")


def verbs() -> list[str]:
    """Name every verb."""
    names = (file.name for file in files(__name__).iterdir())
    return sorted(n[:-4] for n in names if n.endswith(".lua") and not n.startswith("_"))


_NAME = "@name@"


def _function(verb: str, kinds: tuple[str, ...]) -> str:
    body = _read(verb)
    return "\n".join(
        [
            "redis.register_function{",
            f"function_name = '{_NAME}_{verb}',",
            f"flags = {{ {', '.join(repr(flag) for flag in _header(body, 'FLAGS'))} }},",
            "callback = function(KEYS, ARGV)",
            *_assigned(_header(body, "KEYS"), kinds, "KEYS"),
            *_assigned(_arguments(body), SHARED_ARGUMENTS, "ARGV"),
            "begin()",
            body,
            "end }",
        ]
    )


def _assigned(names: list[str], shared: tuple[str, ...], table: str) -> Iterator[str]:
    """Bind names anew at each call: the shared ones for all functions, or none if not declared."""
    at = {name: f"{table}[{number}]" for number, name in enumerate(names, 1)}
    yield f"{', '.join(shared)} = {', '.join(at.pop(name, 'nil') for name in shared)}"
    if at:
        yield f"local {', '.join(at)} = {', '.join(at.values())}"
    if table == "ARGV":
        yield _rest(names)


def _bound(names: list[str], table: str) -> str:
    if not names:
        return ""
    values = ", ".join(f"{table}[{at}]" for at in range(1, len(names) + 1))
    return f"local {', '.join(names)} = {values}"


def _rest(names: list[str]) -> str:
    return f"local rest = {len(names) + 1}"


def _arguments(body: str) -> list[str]:
    return [name for name in _header(body, "ARGV") if name != "..."]


def _header(body: str, word: str) -> list[str]:
    found = re.search(rf"^-- {word}: (.+)$", body, re.MULTILINE)
    return found[1].split() if found else []


def _read(name: str) -> str:
    return (files(__name__) / f"{name}.lua").read_text(encoding="utf-8")


def _sha(source: str) -> str:
    return sha1(source.encode(), usedforsecurity=False).hexdigest()
