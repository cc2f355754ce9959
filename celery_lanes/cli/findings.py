"""What ``lanes check`` has found, as lines and as an exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum


class Severity(str, Enum):
    """Errors break a promise; warnings may."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, and what to do about it."""

    severity: Severity
    text: str


def error(text: str) -> Finding:
    """Make an error."""
    return Finding(Severity.ERROR, text)


def warning(text: str) -> Finding:
    """Make a warning."""
    return Finding(Severity.WARNING, text)


def exit_code(findings: Sequence[Finding], *, is_strict: bool) -> int:
    """Give 1 if there are errors; with ``is_strict``, if there is anything."""
    return int(any(is_strict or f.severity is Severity.ERROR for f in findings))


def lines(findings: Sequence[Finding]) -> list[str]:
    """Write one line for each, errors first, and the sum."""
    ordered = sorted(findings, key=lambda finding: finding.severity is Severity.WARNING)
    signs = _signs()
    found = [f"{signs[f.severity]} {f.severity.value}: {f.text}" for f in ordered]
    return [*found, _sum(findings, signs)]


def _sum(findings: Sequence[Finding], signs: dict[Severity | None, str]) -> str:
    if not findings:
        return f"{signs[None]} all is well"
    kinds = (_counted(findings, severity) for severity in Severity)
    return "  " + ", ".join(kinds)


def _counted(findings: Iterable[Finding], severity: Severity) -> str:
    count = sum(finding.severity is severity for finding in findings)
    return f"{count} {severity.value}{'' if count == 1 else 's'}"


def _signs() -> dict[Severity | None, str]:
    """Choose signs that the terminal can show."""
    try:
        "✗✓".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return {Severity.ERROR: "x", Severity.WARNING: "!", None: "ok"}
    return {Severity.ERROR: "✗", Severity.WARNING: "!", None: "✓"}
