"""What happens to one call: kept in its ledger, told to the observers, written on its errors."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from celery_lanes.errors import ProviderError, StreamInterrupted
from celery_lanes.llm.chains.allowance import Allowance
from celery_lanes.llm.chains.effects import may_be_billed
from celery_lanes.llm.chains.events import FailoverEvent, Kind, tell
from celery_lanes.llm.chains.journey import Journey
from celery_lanes.llm.chains.plan import Plan, Terms, Trial
from celery_lanes.llm.http.hangup import CallCancelled
from celery_lanes.llm.ledger import Attempt
from celery_lanes.llm.reply import Reply
from celery_lanes.llm.request import Request
from celery_lanes.llm.target import Target
from celery_lanes.store.health import Benched

MAX_REASON = 200


class Diary:
    """One call's. ``was_asked``: a target has been, since the call last waited for them."""

    def __init__(
        self, plan: Plan, request: Request, terms: Terms, allowance: Allowance, journey: Journey
    ) -> None:
        self._plan = plan
        self._request = request
        self._terms = terms
        self._allowance = allowance
        self._call_id = journey.call_id
        self._queued_s = terms.leg.queued_s if terms.leg else 0.0
        self.was_asked = journey.was_asked
        self.ledger = list(journey.ledger)

    def passed_by(self, target: Target, why: str, reason: str) -> None:
        """Enter a target that is not asked."""
        entry = Attempt(target=str(target), lane=target.lane, error_class=why, reason=reason)
        self.ledger.append(entry)

    def failed(self, trial: Trial, error: BaseException) -> None:
        """Enter an attempt that failed, and write on its error whose call it was."""
        entry = Attempt(
            **self._of(trial),
            error_class=type(error).__name__,
            reason=_reason(trial.target, error),
            status=getattr(error, "status", None),
            retry_after_s=getattr(error, "retry_after_s", None),
            request_id=getattr(error, "request_id", None),
            tokens=_tokens_lost(error),
            possibly_billed=may_be_billed(error),
        )
        self.ledger.append(entry)
        self.was_asked = True
        self.sign(error, str(trial.target))

    def answered(self, trial: Trial, reply: Reply) -> None:
        """Enter the attempt that was answered."""
        entry = Attempt(
            **self._of(trial),
            request_id=reply.request_id,
            tokens=reply.usage.input_tokens + reply.usage.output_tokens,
            possibly_billed=True,
        )
        self.ledger.append(entry)

    def sign(self, error: BaseException, model: str) -> None:
        """Write on an error whose call it was, and what was done for it."""
        replace(self._terms.info, model=model).attach_to(error)
        if isinstance(error, (ProviderError, CallCancelled)):
            error.attempts = [attempt.model_dump(mode="json") for attempt in self.ledger]

    def lost_at(self, target: Target) -> int:
        """Count the attempts at a target that failed and may have to be paid for."""
        return sum(entry.possibly_billed and entry.target == str(target) for entry in self.ledger)

    def spent_at(self, target: Target) -> float:
        """Add up the seconds that attempts at a target have taken, and the pauses before them."""
        there = (entry for entry in self.ledger if entry.target == str(target))
        return sum(entry.waited_s + entry.ran_s for entry in there)

    def last_of(self, target: str) -> Attempt | None:
        """Find what last became of a target."""
        return next((entry for entry in reversed(self.ledger) if entry.target == target), None)

    def tell_of(
        self,
        kind: Kind,
        trial: Trial,
        error: BaseException | None = None,
        *,
        benched: Benched | None = None,
    ) -> None:
        """Tell the observers of an attempt."""
        self.tell(
            kind,
            trial.target,
            attempt=self._attempts_at(trial.target),
            error_class=type(error).__name__ if error else None,
            status=getattr(error, "status", None),
            retry_after_s=getattr(error, "retry_after_s", None),
            bench_until=time.time() + benched.left_s if benched else None,
            possibly_billed=error is not None and may_be_billed(error),
            is_overload=isinstance(error, ProviderError) and error.is_overload,
        )

    def tell(self, kind: Kind, target: Target | None, **seen: Any) -> None:
        """Tell the observers."""
        own = self._terms.observer
        observers = (*self._plan.observers, *((own,) if own else ()))
        if not observers:
            return
        following = self._plan.after(target) if target else None
        event = FailoverEvent(
            kind=kind,
            ts=time.time(),
            call_id=self._call_id,
            run_id=self._terms.info.run_id,
            caller=self._terms.info.caller,
            spec=self._plan.spec,
            target=str(target) if target else None,
            next_target=str(following) if following else None,
            elapsed_s=self._allowance.spent_s,
            messages=self._request.messages if self._plan.config.persist_prompts else None,
            **seen,
        )
        tell(observers, event)

    def _of(self, trial: Trial) -> dict[str, Any]:
        """Give what an entry says of any attempt."""
        queued_s, self._queued_s = self._queued_s, 0.0
        return {
            "target": str(trial.target),
            "lane": trial.target.lane,
            "queued_s": queued_s + trial.queued_s,
            "waited_s": trial.waited_s,
            "ran_s": time.monotonic() - trial.began_at,
        }

    def _attempts_at(self, target: Target) -> int:
        return sum(entry.was_asked and entry.target == str(target) for entry in self.ledger)


def _reason(target: Target, error: BaseException) -> str:
    said = str(error).removeprefix(f"{target} ") or type(error).__name__
    return said[:MAX_REASON]


def _tokens_lost(error: BaseException) -> int | None:
    usage = error.usage if isinstance(error, StreamInterrupted) else None
    return usage["input_tokens"] + usage["output_tokens"] if usage else None
