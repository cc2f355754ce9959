"""The targets that a spec names, asked as one."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2s
from typing import final, overload

from celery_lanes.callinfo import CallInfo, current_call
from celery_lanes.errors import ProviderError, StreamInterrupted, TransientError
from celery_lanes.llm.capabilities import Capabilities
from celery_lanes.llm.chains.events import Observer
from celery_lanes.llm.chains.failover import Failover
from celery_lanes.llm.chains.journey import Leg
from celery_lanes.llm.chains.plan import Plan, Terms, Trial
from celery_lanes.llm.http.hangup import hangup_here
from celery_lanes.llm.provider import IDLE_S, Provider
from celery_lanes.llm.reply import Done, Piece, Reply
from celery_lanes.llm.request import Request, checked_request
from celery_lanes.llm.spec import canonical
from celery_lanes.llm.stream import Stream
from celery_lanes.llm.target import Target


@dataclass(frozen=True, slots=True)
class _Begun:
    stream: Stream
    first: Piece | Done


@final
class Chain(Sequence[Target]):
    """Asks its targets in turn until one answers; a sequence of them. Made by ``Registry.parse``.

    One of several is gone on from, by what its error means (``ChainConfig.classify``); targets
    that are benched are passed by. Safe to share between threads, and to fork.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __str__(self) -> str:
        return self._plan.spec

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(str, self))})"

    def __len__(self) -> int:
        return len(self._plan.targets)

    @overload
    def __getitem__(self, index: int) -> Target: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Target, ...]: ...
    def __getitem__(self, index: int | slice) -> Target | tuple[Target, ...]:
        """Give one of the targets, or several."""
        return self._plan.targets[index]

    def served_by(self, provider_of: Callable[[Target], Provider]) -> Chain:
        """Give the same chain, with other providers of the same names; made when they are asked."""
        targets = tuple(replace(one, opens=partial(provider_of, one)) for one in self)
        return Chain(replace(self._plan, targets=targets))

    @property
    def capabilities(self) -> Capabilities:
        """What can be asked for: what the first target can do, those after it may do less.

        Raises ``ConfigError`` if its provider cannot be opened.
        """
        first = self._plan.targets[0]
        return first.provider.capabilities(first.model)

    def generate(
        self,
        request: Request,
        *,
        timeout_s: float | None = None,
        attempt_timeout_s: float | None = None,
        idempotency_key: str | None = None,
        info: CallInfo | None = None,
        observer: Observer | None = None,
        leg: Leg | None = None,
    ) -> Reply:
        """Ask, whatever model the request names; the reply has the ledger, ``attempts``.

        Args:
            request: what is asked.
            timeout_s: for all of it; by default each target has the time that its provider is
                given, for all attempts at it together.
            attempt_timeout_s: for one attempt; by default what is left, so that a target that
                hangs may leave no time for the next one.
            idempotency_key: a name for the call, by default a new one; each target is told it with
                a digest of its own, so that all attempts at a target, and no others, bear the same.
            info: whose call it is; by default the ``call_context``'s.
            observer: is told of this call, beside those that are registered.
            leg: the part of the call that is done here, if it goes from lane to lane; what ends
                that early comes from it.

        Raises ``ChainExhausted`` with a reason for each target (of a lone one that was asked, its
        own error); at once what would fail everywhere, such as ``BadRequest``. All of them have
        ``attempts`` and a ``CallInfo``. ``TypeError`` for what is no ``Request``.
        """
        terms = _terms(idempotency_key, info, timeout_s, attempt_timeout_s, observer, leg)
        failover = Failover(self._plan, checked_request(request), terms)

        def ask(target: Target, left_s: float) -> Reply:
            return target.generate(request, timeout_s=left_s, idempotency_key=_key(target, terms))

        trial, reply = failover.run(ask)
        failover.begun(reply.quotas)
        return failover.answered(trial, reply)

    def stream(
        self,
        request: Request,
        *,
        timeout_s: float | None = None,
        attempt_timeout_s: float | None = None,
        idle_s: float = IDLE_S,
        idempotency_key: str | None = None,
        info: CallInfo | None = None,
        observer: Observer | None = None,
        leg: Leg | None = None,
    ) -> Stream:
        """Ask for a stream, likewise; returns when the first piece has come.

        Until then another target may be asked. Afterwards a failure is the stream's own, such as
        ``StreamInterrupted``: what came has been read. ``idle_s`` bounds each silence.
        """
        terms = _terms(idempotency_key, info, timeout_s, attempt_timeout_s, observer, leg)
        failover = Failover(self._plan, checked_request(request), terms)

        def ask(target: Target, left_s: float) -> _Begun:
            stream = target.stream(
                request, timeout_s=left_s, idle_s=idle_s, idempotency_key=_key(target, terms)
            )
            return _Begun(stream, _next(target, stream, TransientError))

        trial, begun = failover.run(ask)
        failover.begun(begun.stream.quotas)
        return begun.stream.relayed(_relay(failover, trial, begun), failover.leave)


def _terms(
    idempotency_key: str | None,
    info: CallInfo | None,
    timeout_s: float | None,
    attempt_timeout_s: float | None,
    observer: Observer | None,
    leg: Leg | None,
) -> Terms:
    journey = leg.journey if leg else None
    return Terms(
        call_id=journey.call_id if journey else idempotency_key or uuid.uuid4().hex,
        info=info or current_call() or CallInfo(),
        timeout_s=timeout_s,
        attempt_timeout_s=attempt_timeout_s,
        observer=observer,
        leg=leg,
    )


def _key(target: Target, terms: Terms) -> str:
    """Name what is asked of a target, the same in all lanes and workers, and for it alone.

    Its place in the chain is no such name: workers may know another spec by the same alias.
    """
    asked = f"{canonical(target.name)}/{target.model}"
    return f"{terms.call_id}-{blake2s(asked.encode(errors='replace'), digest_size=8).hexdigest()}"


def _relay(failover: Failover, trial: Trial, begun: _Begun) -> Iterator[Piece | Done]:
    piece = begun.first
    while not isinstance(piece, Done):
        yield piece
        try:
            hangup_here().check()
            piece = _next(trial.target, begun.stream, StreamInterrupted)
        except BaseException as error:
            failover.broke(trial, error)
            raise
    yield Done(reply=failover.answered(trial, piece.reply))


def _next(target: Target, stream: Stream, kind: type[ProviderError]) -> Piece | Done:
    """Give the next piece; a provider of one's own may forget to say that it was the last."""
    if (piece := next(stream, None)) is None:
        raise kind(f"{target} ended its stream without Done")
    return piece
