"""Which lanes cannot be asked for now: the store is away, or a node of its cluster."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Collection

from celery_lanes.errors import StoreUnavailable
from celery_lanes.worker.hands import Hands
from celery_lanes.worker.share import LaneShare

logger = logging.getLogger(__name__)


class Outage:
    """What the worker knows of it: says so once, and has those lanes' queues held meanwhile.

    Attributes:
        is_whole: the store itself is away, not one lane or another.
    """

    def __init__(self, hands: Hands) -> None:
        self.is_whole = False
        self._hands = hands
        self._away: set[str] = set()
        self._held: frozenset[str] = frozenset()

    def lane_went(
        self, share: LaneShare, error: StoreUnavailable, *, took_s: float, lanes: Collection[str]
    ) -> None:
        """Let a lane rest: for a while, and thrice as long as the others had to wait for it.

        Raises the error if none of the worker's lanes is left.
        """
        is_known = share.lane in self._away
        self._away.add(share.lane)
        share.rests_until = time.monotonic() + retry_s() + 3 * took_s
        if self._away.issuperset(lanes):
            raise error
        if not is_known:
            logger.error(
                "celery_lanes: %s is away, none of its calls starts: %s", share.lane, error
            )

    def lane_came(self, lane: str) -> None:
        """Note that the store has answered for a lane."""
        if lane not in self._away:
            return
        self._away.remove(lane)
        if not self.is_whole:
            logger.warning("celery_lanes: %s is back", lane)

    def may_ask(self, share: LaneShare, now: float) -> bool:
        """Whether a lane that is away may be asked for again, or is not away at all."""
        return share.lane not in self._away or share.rests_until <= now

    def store_went(self, lanes: Collection[str], error: StoreUnavailable) -> None:
        """Note that the store does not answer at all."""
        if not self.is_whole:
            logger.error("celery_lanes: the lane store is away, no call starts: %s", error)
        self.is_whole = True
        self._away.update(lanes)
        self.tell()

    def store_came(self) -> None:
        """Note that the store answers; whether it does for each lane, its next tick will show."""
        if self.is_whole:
            logger.warning("celery_lanes: the lane store is back")
        self.is_whole = False

    def tell(self) -> None:
        """Have the queues held of just those lanes that are away."""
        if self._away != self._held:
            self._held = frozenset(self._away)
            self._hands.hold_intake(self._held)


def retry_s() -> float:
    """Say when to try again, so that not all workers do at once."""
    return random.uniform(0.2, 0.6)  # noqa: S311 # jitter, not a secret
