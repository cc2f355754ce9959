"""What was done for one call: an entry for every attempt, and for every target passed by."""

from __future__ import annotations

import json
from collections.abc import Sequence

from celery_lanes.llm.value import Told

PASSED_BY = frozenset({"Benched", "LaneBusy", "OutOfTime"})
"""The error classes of targets that were not asked."""

_BUSY_STATUSES = frozenset({503, 529})


class Attempt(Told):
    """One target, asked or passed by.

    Attributes:
        target: ``provider/model``.
        lane: the lane that bounds it; ``None`` where there are no lanes.
        error_class: the error's; ``Benched``, ``LaneBusy`` or ``OutOfTime`` for one that was not
            asked; ``None`` for the one that answered.
        reason: what was wrong, in up to 200 characters.
        status: the HTTP status, if it is an error that has one.
        retry_after_s: what the provider asked to wait.
        request_id: the provider's name for the request, for its support.
        queued_s: how long the call had waited in the lane for it; 0 for a second one in a row.
        waited_s: the pause before it.
        ran_s: how long it took; of a stream, to its end.
        tokens: input and output together, as far as they are known.
        possibly_billed: the provider may charge for it.
        left_out: of the oldest entry that was kept, how many came before it.
    """

    target: str
    lane: str | None = None
    error_class: str | None = None
    reason: str | None = None
    status: int | None = None
    retry_after_s: float | None = None
    request_id: str | None = None
    queued_s: float = 0.0
    waited_s: float = 0.0
    ran_s: float = 0.0
    tokens: int | None = None
    possibly_billed: bool = False
    left_out: int = 0

    @property
    def was_asked(self) -> bool:
        """Whether it was asked, and not passed by."""
        return self.error_class not in PASSED_BY

    @property
    def is_busy(self) -> bool:
        """Whether it is only busy, and may answer when it has been left alone for a while."""
        if self.error_class in {"Benched", "RateLimited"}:
            return True
        return self.status in _BUSY_STATUSES and self.retry_after_s is not None

    @property
    def size(self) -> int:
        """How many bytes it takes as JSON, in a list."""
        return len(json.dumps(self.model_dump(mode="json"))) + len(", ")


def newest(ledger: Sequence[Attempt], *, most: int, room: int) -> tuple[Attempt, ...]:
    """Give the newest entry, and up to ``most`` with it that take ``room`` bytes together.

    The first one that is kept says how many are left out.
    """
    at = max(0, len(ledger) - 1)
    room -= sum(entry.size for entry in ledger[at:])
    while at > 0 and len(ledger) - at < most and (room := room - ledger[at - 1].size) >= 0:
        at -= 1
    if at == 0:
        return tuple(ledger)
    left_out = at + sum(entry.left_out for entry in ledger[: at + 1])
    return (ledger[at].model_copy(update={"left_out": left_out}), *ledger[at + 1 :])
