"""How this app's celery is called, for hints that can be pasted."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence


def celery_command(words: Sequence[str] = (), env: Mapping[str, str] = os.environ) -> str:
    """Write ``celery -A shop``, as the command line says; ``words``: that line, ``sys.argv``."""
    if (app := _app_of(words or sys.argv)) is not None:
        return f"celery -A {app}"
    return "celery" if env.get("CELERY_APP") else "celery -A ..."


def _app_of(words: Sequence[str]) -> str | None:
    """Find ``-A shop``, ``-Ashop``, ``--app shop`` or ``--app=shop``."""
    for at, word in enumerate(words):
        if word in {"-A", "--app"} and at + 1 < len(words):
            return words[at + 1]
        for prefix in ("--app=", "-A"):
            if word.startswith(prefix) and word != prefix:
                return word.removeprefix(prefix)
    return None
