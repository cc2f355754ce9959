"""What names models: ``provider/model``, aliases, and lists of both.

::

    spec    := element ("," element)*
    element := provider "/" model | alias

The model is what follows the first slash, up to the next comma, verbatim; it is printable.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping

from celery_lanes.errors import AliasCycle, SpecError

MAX_DEPTH = 32
"""How deep aliases of aliases may go."""

MAX_TARGETS = 16
"""How many different targets a spec may have."""

MAX_LENGTH = 10_000
"""How many characters a spec may have, also one that an alias stands for."""

Name = tuple[str, str]
"""A provider's name as it is written, and its model's."""

PROVIDER_NAME = re.compile(r"[A-Za-z0-9._-]+")
_EXAMPLE = '"provider/model", such as "openai/gpt-5-mini"'


def canonical(provider: str) -> str:
    """Make one spelling of a provider's name; environment variables have no dash and no case."""
    return provider.lower().replace("-", "_")


def check_alias(name: str) -> str:
    """Take what can be an alias. Raises ``SpecError``."""
    if not name or name != name.strip() or set(name) & {"/", ","}:
        raise SpecError(f"expected an alias to be a word without / and comma, got {name!r:.100}")
    return name


class Expansion:
    """Turns specs into targets: aliases are put in inline, at any depth, and none goes twice.

    Of targets that differ only in how their provider is written the first stays, as it is written.

    Args:
        aliases: name to spec.
        resolvers: asked in turn for the spec of a name that is no alias; ``None`` if unknown.
    """

    def __init__(
        self,
        aliases: Mapping[str, str],
        resolvers: Iterable[Callable[[str], str | None]] = (),
    ) -> None:
        self._aliases = aliases
        self._resolvers = tuple(resolvers)
        self._known: dict[str, tuple[Name, ...]] = {}

    def targets(self, spec: object) -> tuple[Name, ...]:
        """Give the targets in order, the first of equal ones. Raises ``SpecError``."""
        if not isinstance(spec, str):
            raise SpecError(f"expected model to be {_EXAMPLE}, got {spec!r:.100}")
        return self._list(spec, ())

    def _list(self, spec: str, path: tuple[str, ...]) -> tuple[Name, ...]:
        if len(spec) > MAX_LENGTH:
            raise SpecError(f"expected a spec of up to {MAX_LENGTH} characters, got {len(spec)}")
        elements = [element.strip() for element in spec.split(",")]
        if "" in elements:
            where = f" (element {elements.index('') + 1} is empty)" if len(elements) > 1 else ""
            raise SpecError(f"expected model to be {_EXAMPLE}, got {spec!r:.100}{where}")
        found: dict[Name, Name] = {}
        for name in (name for element in elements for name in self._element(element, path)):
            found.setdefault((canonical(name[0]), name[1]), name)
            if len(found) > MAX_TARGETS:
                raise SpecError(f"expected up to {MAX_TARGETS} targets, got more")
        return tuple(found.values())

    def _element(self, element: str, path: tuple[str, ...]) -> tuple[Name, ...]:
        if "/" in element:
            return (_target(element),)
        if element in path:
            raise AliasCycle(f"aliases in a circle: {' -> '.join((*path, element))}")
        if len(path) >= MAX_DEPTH:
            raise SpecError(f"aliases of aliases go deeper than {MAX_DEPTH}: {' -> '.join(path)}")
        if element not in self._known:  # each once, however many ways lead to it
            self._known[element] = self._list(self._spec_of(element), (*path, element))
        return self._known[element]

    def _spec_of(self, name: str) -> str:
        if name in self._aliases:
            return self._aliases[name]
        found = (resolver(name) for resolver in self._resolvers)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is None:
            raise self._unknown(name)
        if not isinstance(spec, str):
            raise SpecError(f"expected a spec for {name!r:.100}, got {type(spec).__name__}")
        return spec

    def _unknown(self, name: str) -> SpecError:
        close = difflib.get_close_matches(name, self._aliases)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        if ":" in name and not close:  # as pydantic-ai, LangChain and others write it
            hint = f"; did you mean {name.replace(':', '/', 1)}?"
        return SpecError(f"expected model to be {_EXAMPLE}, or an alias, got {name!r:.100}{hint}")


def _target(element: str) -> Name:
    provider, _, model = element.partition("/")
    if not PROVIDER_NAME.fullmatch(provider) or not model or not model.isprintable():
        raise SpecError(f"expected model to be {_EXAMPLE}, got {element!r:.100}")
    return provider, model
