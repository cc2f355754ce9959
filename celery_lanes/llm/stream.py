"""A reply that comes piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, islice
from types import TracebackType
from typing import final

from celery_lanes.errors import ProviderError, StreamInterrupted
from celery_lanes.llm.assembly import Assembly
from celery_lanes.llm.reply import Done, Piece, Reply
from celery_lanes.store.quota import Quota


@final
class Stream(Iterator[Piece | Done]):
    """The pieces of one reply; the last is ``Done``, or an error is raised in its place.

    To be closed, best by ``with``: that closes the connection, and the provider stops writing.
    It closes itself when it ends or fails. Read and closed by one thread.
    """

    def __init__(
        self, deltas: Iterator[Piece | Done], assembly: Assembly, close: Callable[[], None]
    ) -> None:
        self._deltas = deltas
        self._assembly = assembly
        self._close = close
        self._is_open = True

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __next__(self) -> Piece | Done:
        """Wait for the next piece. Raises ``ProviderError``, ``StreamInterrupted`` in mid-reply."""
        if not self._is_open:
            raise StopIteration
        try:
            return next(self._deltas)
        except BaseException:
            self.close()
            raise

    @property
    def partial(self) -> Reply:
        """What came so far; its usage is estimated until the provider has told it."""
        return self._assembly.reply()

    @property
    def quotas(self) -> tuple[Quota, ...]:
        """What is left of the account's limits, as the provider said when the stream began."""
        return self._assembly.quotas

    def relayed(self, deltas: Iterator[Piece | Done], closed: Callable[[], None]) -> Stream:
        """Give it as what ``deltas`` makes of its pieces; ``closed`` is called once, at its end."""

        def close() -> None:
            self.close()
            closed()

        return Stream(deltas, self._assembly, close)

    def begun(self) -> Stream:
        """Wait for its first piece, and give it again with all pieces. Raises what that may."""
        first = list(islice(self, 1))
        return self.relayed(chain(first, self), lambda: None)

    def close(self) -> None:
        """Stop the provider, if it is still writing. May be repeated."""
        was_open, self._is_open = self._is_open, False
        if was_open:
            self._close()


def interrupted(error: ProviderError, assembly: Assembly) -> StreamInterrupted:
    """Say that a failure came in mid-reply."""
    interruption = StreamInterrupted(
        f"{error} (in mid-reply)",
        error.status,
        error.retry_after_s,
        error.request_id or assembly.request_id,
        usage=assembly.reply().usage.model_dump(),
    )
    interruption.given_s = error.given_s
    return interruption
