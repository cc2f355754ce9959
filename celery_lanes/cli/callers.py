"""What ``lanes callers`` shows of a lane's callers, and how one of them is steered."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from celery_lanes.cli.control import limit_words
from celery_lanes.config.durations import written_rate
from celery_lanes.store.live import CallerStatus

if TYPE_CHECKING:
    from celery_lanes.app import Lanes


MOST_ROWS = 50


def read(lanes: Lanes, lane: str) -> list[CallerStatus]:
    """Read who waits or is named or steered, those with the most calls waiting first."""
    return sorted(lanes.lane(lane).callers(), key=lambda known: (-known.waiting, known.caller))


def to_json(callers: Sequence[CallerStatus]) -> str:
    """Write a list of objects; ``live`` names what was set at run time."""
    return json.dumps([asdict(caller) for caller in callers], indent=2, ensure_ascii=False)


def table(callers: Sequence[CallerStatus]) -> Table:
    """Draw a row for each of the first callers; ``set`` is what does not come from the settings."""
    drawn = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))
    for name in ("caller", "weight", "rate", "waiting", "set", "state"):
        drawn.add_column(name, justify="right" if name in {"weight", "waiting"} else "left")
    for caller in callers[:MOST_ROWS]:
        drawn.add_row(*_cells(caller))
    return drawn


def rest(callers: Sequence[CallerStatus]) -> str:
    """Say how many are not drawn; "" if all are."""
    left = callers[MOST_ROWS:]
    waiting = sum(caller.waiting for caller in left)
    return f" and {len(left)} more with {waiting} waiting: --json\n" if left else ""


def set_weight(lanes: Lanes, lane: str, name: str, weight: float | None) -> str:
    """Change a caller's share; ``None`` goes back to the file's."""
    lanes.lane(lane).caller(name).set_weight(weight)
    told = "as configured" if weight is None else f"{weight:g}"
    return f"{lane}: {name} weight {told}"


def set_rate(lanes: Lanes, lane: str, name: str, rate: str | None) -> str:
    """Change a caller's own limit; ``None`` goes back to the file's."""
    lanes.lane(lane).caller(name).set_rate(rate)
    return f"{lane}: {name} rate {limit_words(rate)}"


def pause(lanes: Lanes, lane: str, name: str) -> str:
    """Stop the grants of a caller's calls."""
    lanes.lane(lane).caller(name).pause()
    waiting = sum(c.waiting for c in read(lanes, lane) if c.caller == name)
    return f"{lane}: {name} paused; {waiting} waiting"


def resume(lanes: Lanes, lane: str, name: str) -> str:
    """Let a caller's calls be granted again."""
    lanes.lane(lane).caller(name).resume()
    return f"{lane}: {name} resumed"


def _cells(caller: CallerStatus) -> tuple[Text, ...]:
    return (
        Text(caller.caller) if caller.caller else Text("(none)", style="dim"),
        Text(f"{caller.weight:g}"),
        Text(written_rate(caller.rate) if caller.rate else "-"),
        Text(str(caller.waiting)),
        Text(", ".join(caller.live) or "-"),
        Text("paused" if caller.paused else "", style="bold yellow"),
    )
