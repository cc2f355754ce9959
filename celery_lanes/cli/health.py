"""What ``lanes health`` shows of LLM targets that have failed of late, and how a bench is ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from celery_lanes.cli.command import celery_command
from celery_lanes.cli.exits import REFUSED, CommandFailed
from celery_lanes.config.durations import rounded
from celery_lanes.store.health import Condition

if TYPE_CHECKING:
    from celery_lanes.app import Lanes

_COLUMNS = ("target", "state", "failures", "cooldown", "left")
_STYLES = {"benched": "bold red", "tried": "yellow", "due": "yellow", "failing": ""}


def read(lanes: Lanes) -> list[Condition]:
    """Read what has failed of late, by name; what nobody complained of is not among it."""
    return sorted(lanes.health.conditions(), key=lambda known: known.name)


def clear(lanes: Lanes, name: str) -> str:
    """Forget the failures of a target, or of a provider, and end its bench."""
    if not lanes.health.clear(name):
        seen = f"{celery_command()} lanes health"
        raise CommandFailed(f"nothing is known of {name!r}; see: {seen}", REFUSED)
    return f"{name}: forgotten, and to be asked again"


def to_json(conditions: Sequence[Condition]) -> str:
    """Write a list of objects; times are seconds."""
    rows = [{"state": known.state, **asdict(known)} for known in conditions]
    return json.dumps(rows, indent=2, ensure_ascii=False)


def table(conditions: Sequence[Condition]) -> Table:
    """Draw one row for each target or provider; a column only if there is anything in it."""
    drawn = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))
    rows = list(map(_cells, conditions))
    shown = [name for name in _COLUMNS if any(row[name] for row in rows)]
    for name in shown:
        drawn.add_column(name, justify="left" if name in {"target", "state"} else "right")
    for row in rows:
        drawn.add_row(*(row[name] or "-" for name in shown))
    return drawn


def _cells(known: Condition) -> dict[str, Text | str]:
    """Write the row; failures are counted anew from a bench on."""
    return {
        "target": Text(known.name if "/" in known.name else f"{known.name}/*"),
        "state": Text(known.state, style=_STYLES[known.state]),
        "failures": str(known.failures or ""),
        "cooldown": rounded(known.cooldown_s) if known.cooldown_s else "",
        "left": rounded(known.left_s) if known.left_s else "",
    }
