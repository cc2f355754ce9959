"""Tickets of the memory store: calls that no worker runs, for a process keeps their slot itself.

A *holder* is that process's incarnation; it has an ear, as workers have. Mirrored in
``redis/lua/_tickets.lua``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

TOLD_AT_ONCE = 500
FORGET_AT_MOST = 200


@dataclass(slots=True)
class Tickets:
    """How many tickets wait; when each holder was heard of, by the lease clock; and its news.

    ``news``: which of its tickets have been granted or are gone, until it says that it knows.
    """

    publish: Callable[[str], object]
    waiting: int = 0
    heard_ms: dict[str, int] = field(default_factory=dict)
    news: dict[str, list[str]] = field(default_factory=dict)

    def tell(self, holder: str, call: str) -> None:
        """Have a holder ask about one of its tickets.

        One that has been forgotten would never say that it knows.
        """
        if holder not in self.heard_ms:
            return
        self.keep(holder, [*(told for told in self.news.get(holder, ()) if told != call), call])
        self.publish(holder)

    def keep(self, holder: str, news: list[str]) -> None:
        """Replace a holder's news."""
        self.news.pop(holder, None)
        if news:
            self.news[holder] = news

    def forget_holders(self, before_ms: int, limit: int) -> None:
        """Drop the holders that have not been heard of since, the longest silent ones first."""
        silent = [holder for holder, heard_ms in self.heard_ms.items() if heard_ms <= before_ms]
        for holder in sorted(silent, key=lambda name: (self.heard_ms[name], name))[:limit]:
            del self.heard_ms[holder]
            self.news.pop(holder, None)
