"""A call's way through several lanes: how far it has come, and the part of it that is done here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from pydantic import Field

from celery_lanes.llm.ledger import Attempt, newest
from celery_lanes.llm.value import Told

if TYPE_CHECKING:
    from celery_lanes.llm.chains.patience import Wait
    from celery_lanes.llm.target import Target
    from celery_lanes.store.quota import Quota

MAX_LEDGER = 30
"""How many entries of the ledger travel: the last ones."""

MAX_BYTES = 64 * 1024
"""How much travels in all, as JSON; the oldest entries of the ledger make room for the rest."""

_LEFT_OUT_BYTES = 10
"""What the count of those that are left out may take."""

MAX_WAITS = 20
"""How often a call waits for providers that are busy, before it fails as they do."""

MAX_WAIT_S = 600.0
"""How long it waits for them each time; a provider that asks for more fails the call."""


class Journey(Told):
    """How far a call has come: what another process must know to go on. Travels as JSON.

    Attributes:
        call_id: its name, which all attempts bear.
        to_come: the targets to be asked now, in order, as they are written.
        tried_by_others: those passed by because another call was trying them; they are asked if
            there is nobody else.
        insists: there is nobody else: a target that others try is asked as well.
        was_asked: a target has been asked, since the call last waited for its providers.
        free_at: when each of the benched targets may be asked again, in seconds since the epoch.
        retries_left: how often the same target may still be asked again.
        spent_s: how long it has run; its waits in lanes do not count.
        waits: how often it has waited for busy providers.
        moves: how often it has changed lanes since it last asked anybody.
        max_wait_s: how long it may wait in a lane; ``None`` for any time.
        ledger: whom it asked or passed by.
    """

    call_id: str
    to_come: tuple[str, ...]
    tried_by_others: tuple[str, ...] = ()
    insists: bool = False
    was_asked: bool = False
    free_at: dict[str, float] = Field(default_factory=dict)
    retries_left: int
    spent_s: float = 0.0
    waits: int = 0
    moves: int = 0
    max_wait_s: float | None = None
    ledger: tuple[Attempt, ...] = ()

    def fitted(self) -> Journey:
        """Give it with as much of the ledger as may travel; see ``Attempt.left_out``."""
        rest = self.model_copy(update={"ledger": ()}).model_dump(mode="json")
        room = MAX_BYTES - len(json.dumps(rest)) - _LEFT_OUT_BYTES
        return self.model_copy(update={"ledger": newest(self.ledger, most=MAX_LEDGER, room=room)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """The part of a journey that is done in one lane, and the ways out of it.

    Attributes:
        lane: which.
        move: ends it: the call goes on with that target, in its lane. Raises ``LaneBusy`` if it
            would wait there longer than it may.
        wait: ends it: the call comes again, in this lane.
        refused: is told that a provider was only busy, and how many seconds it asked for.
        forewarned: is told what one that answers says of its limits.
        left_s: how long it may take, whatever the call has left.
        usual_s: how long a part may take there, whatever this call's caller has said.
        queued_s: how long the call waited in the lane for it.
        journey: how far it had come before; ``None`` at the beginning.
    """

    lane: str
    move: Callable[[Target, Journey], NoReturn]
    wait: Callable[[Wait, Journey], NoReturn]
    refused: Callable[[float | None], object]
    forewarned: Callable[[Sequence[Quota]], object]
    left_s: float = math.inf
    usual_s: float = math.inf
    queued_s: float = 0.0
    journey: Journey | None = None
