"""What is left of a provider's own limits, as it says with each answer that it gives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

KEPT_MS = 60_000
"""For how long a lane keeps what it was told last."""

_OF_ALL_CALLS = frozenset({"requests", "tokens", "input-tokens", "output-tokens"})
"""The limits that every call counts to; others may be those of pictures, or of searches."""


@dataclass(frozen=True, slots=True)
class Quota:
    """One limit.

    Attributes:
        name: "requests", "tokens", ..., as the provider calls it.
        left: so much may still be asked for.
        of: out of so much; ``None`` where it does not say.
        resets_ms: in so many ms it is whole again; ``None`` where it does not say.
    """

    name: str
    left: int
    of: int | None = None
    resets_ms: int | None = None

    @property
    def share(self) -> float:
        """How much of it is left, from 0 to 1; of one of unknown size, all, or nothing."""
        return min(1.0, self.left / self.of) if self.of else float(self.left > 0)


def scarcest(quotas: Iterable[Quota]) -> Quota | None:
    """Give the limit of which the least is left."""
    return min(quotas, key=lambda quota: quota.share, default=None)


def closed_ms(quotas: Iterable[Quota]) -> int:
    """Say for how many ms the next call would be refused: until all that is used up is whole.

    That is no loss: a limit that is filled up bit by bit is not full before.
    """
    used_up = (quota for quota in quotas if not quota.left and quota.name in _OF_ALL_CALLS)
    return max((quota.resets_ms or 0 for quota in used_up), default=0)
