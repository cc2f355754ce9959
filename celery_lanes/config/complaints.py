"""What is wrong with a configuration, one line for each, in the words of its file."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

FAMILIES = "lanes*"
"""Where glob tables are kept apart; in the file they stand with the others."""

_EXPECTED = "expected"
_PROBLEM = "problem"
_TOO_LARGE = "less_than_equal"
_SECRET = ("store", "url")
_ECHO = "default_factory_not_called"  # follows from another field's error
_MAX_SHOWN = 60

Path = tuple[int | str, ...]


def expected(phrase: str) -> PydanticCustomError:
    """Make an error for a validator to raise, that reads "expected KEY to be PHRASE, got ..."."""
    return PydanticCustomError(_EXPECTED, "{phrase}", {"phrase": phrase})


def problem(sentence: str) -> PydanticCustomError:
    """Make an error for a validator to raise, that is a sentence by itself."""
    return PydanticCustomError(_PROBLEM, "{sentence}", {"sentence": sentence})


class Complaints:
    """Words validation errors of ``data``. ``tables`` maps the top level's keys to their models."""

    def __init__(
        self,
        data: Mapping[str, Any],
        source: str,
        top: type[BaseModel],
        tables: Mapping[str, type[BaseModel]],
    ) -> None:
        self._data = data
        self._source = source
        self._top = top
        self._tables = tables

    def of(self, error: ValidationError) -> Iterator[str]:
        """Give one line per problem; what a lane only inherits is told once, at its origin."""
        errors = [(_in_file(e["loc"]), e) for e in error.errors(include_url=False)]
        wrong = {path for path, _ in errors}
        for path, details in errors:
            is_told = self._is_inherited(path) and ("defaults", *path[2:]) in wrong
            if details["type"] != _ECHO and not is_told:
                yield f"{self._sentence(path, details)} ({self._source})"

    def _sentence(self, path: Path, details: ErrorDetails) -> str:
        kind = details["type"]
        if kind == _PROBLEM:
            return details["msg"]
        if kind == "extra_forbidden":
            return f"unknown key {dotted(path)}{self._hint(path)}"
        if kind == "missing":
            return f"missing key {dotted(path)}"
        got = _got(path, details)
        return f"expected {dotted(path)} to be {self._phrase(path, details)}, got {got}"

    def _phrase(self, path: Path, details: ErrorDetails) -> str:
        if details["type"] == _EXPECTED:
            return details["msg"]
        if details["type"] == _TOO_LARGE and isinstance(details["input"], int):
            return f"at most {int(details['ctx']['le'])}"
        model, key = self._owner(path)
        described = (f.description for n, f in model.model_fields.items() if (f.alias or n) == key)
        return next(described, None) or "a table"

    def _hint(self, path: Path) -> str:
        model, key = self._owner(path)
        known = [field.alias or name for name, field in model.model_fields.items()]
        close = difflib.get_close_matches(str(key), [k for k in known if k != FAMILIES], n=1)
        return f"; did you mean {close[0]}?" if close else ""

    def _owner(self, path: Path) -> tuple[type[BaseModel], int | str]:
        """Find the model that declares the path's last key; a table itself is its own, unnamed."""
        model = self._tables.get(str(path[0]))
        depth = 1 if path[0] in {"store", "defaults", "health"} else 2
        if model is None or len(path) == 1:
            return self._top, path[0]
        return model, path[depth] if len(path) > depth else ""

    def _is_inherited(self, path: Path) -> bool:
        if path[0:1] != ("lanes",) or len(path) < 3:  # noqa: PLR2004 - lanes, NAME, KEY
            return False
        table = self._data["lanes"][path[1]]
        return isinstance(table, Mapping) and path[2] not in table


def dotted(path: Path) -> str:
    """Write a path as TOML does: lanes.ollama.rate, rules[0].lane, callers."a b".weight."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            quoted = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _cut(_json(key))
            text += f".{quoted}" if text else quoted
    return text


def _in_file(loc: Path) -> Path:
    path = tuple(key for key in loc if key != "[key]")
    return ("lanes", *path[1:]) if path[0:1] == (FAMILIES,) else path


def _got(path: Path, details: ErrorDetails) -> str:
    value = details["input"]
    if path == _SECRET:
        return "a value that is not shown"
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, (list, tuple)):
        return "an array"
    return _cut(_json(value))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
