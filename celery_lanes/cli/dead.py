"""What ``lanes dead`` shows of a lane's dead letters, and how one is tried again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from celery_lanes.cli.exits import REFUSED, CommandFailed
from celery_lanes.store.attempts import Outcome
from celery_lanes.store.base import Store
from celery_lanes.store.calls import DeadLetter, Duplicate
from celery_lanes.store.checks import MAX_LETTERS

if TYPE_CHECKING:
    from celery_lanes.app import Lanes

EVERY = "all"
_REASONS = {Outcome.LOST: "lost its worker", Outcome.STRANGE: "no worker could run it"}


def read(lanes: Lanes, lane: str, limit: int) -> list[DeadLetter]:
    """Read the youngest letters of a lane, the youngest first."""
    lanes.lane(lane)
    return list(islice(_letters(lanes.parts.store, lane), limit))


def retry(lanes: Lanes, lane: str, task_id: str) -> str:
    """Admit a task id's dead letters anew, or all; each waits its turn with attempts from 1.

    Those that are not admitted keep their letters, and are named.
    """
    lanes.lane(lane)
    letters = [dead for dead in _letters(lanes.parts.store, lane) if task_id in _names(dead)]
    if not letters:
        of = "" if task_id == EVERY else f" of {task_id}"
        raise CommandFailed(f"{lane} has no dead letters{of}", REFUSED)
    tried = [_try_again(lanes, lane, dead) for dead in reversed(letters)]  # as they died
    refused = [f"{lane}: {why}" for why in tried if why]
    count = len(letters) - len(refused)
    if not count:
        raise CommandFailed("\n".join(refused), REFUSED)
    return "\n".join([f"{lane}: {_calls_wait(count)} again", *refused])


def to_json(letters: Sequence[DeadLetter]) -> str:
    """Write a list of objects; ``died_ms`` is since the epoch."""
    rows = [
        {
            "died_ms": letter.died_ms,
            "task": letter.call.task,
            "task_id": letter.call.task_id,
            "caller": letter.call.caller,
            "attempts": letter.attempts,
            "reason": letter.reason.value,
        }
        for letter in letters
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False)


def table(letters: Sequence[DeadLetter]) -> Table:
    """Draw one row for each letter; times are this machine's."""
    drawn = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))
    for name in ("died", "task", "task id", "caller", "attempts", "reason"):
        drawn.add_column(name, justify="right" if name == "attempts" else "left", overflow="fold")
    for letter in letters:
        drawn.add_row(*map(Text, _cells(letter)))
    return drawn


def _cells(letter: DeadLetter) -> tuple[str, ...]:
    call, died = letter.call, datetime.fromtimestamp(letter.died_ms / 1000).astimezone()
    when = died.isoformat(" ", timespec="seconds")[:19]
    reason = _REASONS[letter.reason]
    return (when, call.task, call.task_id, call.caller, str(letter.attempts), reason)


def _letters(store: Store, lane: str) -> Iterator[DeadLetter]:
    """Read all letters that are there now, page by page, the youngest first."""
    page = store.dead_letters(lane, MAX_LETTERS)
    while page:
        yield from page
        page = store.dead_letters(lane, MAX_LETTERS, page[-1].died_ms)


def _try_again(lanes: Lanes, lane: str, letter: DeadLetter) -> str | None:
    """Admit a letter's call and bury it; or say why not.

    A new id is made of the old one, so that a repeat after a lost reply doubles nothing.
    """
    call = letter.call
    (verdict,) = lanes.parts.admit(lane, [replace(call, id=f"{call.id}.again")])
    if isinstance(verdict, Duplicate):
        return f"{call.task_id} is left as it is: it was tried again before, and is {verdict.state}"
    lanes.parts.store.bury(lane, call.id, letter.died_ms)
    return None


def _calls_wait(count: int) -> str:
    return "1 call waits" if count == 1 else f"{count} calls wait"


def _names(letter: DeadLetter) -> tuple[str, str]:
    return EVERY, letter.call.task_id
