"""One call's way from target to target: one deadline, one retry budget, one ledger."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from celery_lanes.errors import ChainExhausted, LaneBusy, ProviderError
from celery_lanes.llm.chains.allowance import Allowance
from celery_lanes.llm.chains.diary import Diary
from celery_lanes.llm.chains.effects import Action, asked_s, effect_of
from celery_lanes.llm.chains.journey import Journey
from celery_lanes.llm.chains.patience import Patience, Wait
from celery_lanes.llm.chains.plan import Plan, Terms, Trial
from celery_lanes.llm.chains.queueing import Queueing, queueing
from celery_lanes.llm.chains.retries import Retries
from celery_lanes.llm.chains.way import Elsewhere, Way
from celery_lanes.llm.reply import Reply
from celery_lanes.llm.request import Request
from celery_lanes.llm.target import Target
from celery_lanes.store.health import Benched, Pass
from celery_lanes.store.quota import Quota

FAIR_SHARE = 0.1
"""The part of the usual time that a target must have had for a time-out to be held against it."""

Answer = TypeVar("Answer")
Ask = Callable[[Target, float], Answer]
"""Asks a target, which may take so many seconds."""


class Failover:
    """Asks one target after the other, until one answers or the call is not to go on.

    With a ``Leg``, only those of its lane: for others the call moves to theirs, and goes on in
    another process from the ``Journey`` that goes with it.
    """

    def __init__(self, plan: Plan, request: Request, terms: Terms) -> None:
        journey = terms.journey or _beginning(plan, terms)
        self._plan, self._terms, self._journey = plan, terms, journey
        self._allowance = Allowance(terms, journey.spent_s)
        self._diary = diary = Diary(plan, request, terms, self._allowance, journey)
        self._patience = Patience(plan, terms.leg, journey, diary)
        self._way = Way(plan, terms.leg, journey, diary, self._allowance, self._patience)
        self._retries = Retries(plan.config, journey.retries_left)
        self._error: BaseException | None = None
        self._open: Trial | None = None

    def run(self, ask: Ask[Answer]) -> tuple[Trial, Answer]:
        """Ask until there is an answer; to be followed by ``answered``, ``broke`` or ``leave``.

        Raises what a target raised, if it is not to be followed by another, or ``ChainExhausted``;
        or whatever the ``Leg`` ends with.
        """
        while (found := self._way.next()) is not None:
            if isinstance(found, Elsewhere):
                self._move(found)
            elif (answer := self._asked(found.target, found.leave, ask)) is not None:
                return answer
        if (wait := self._patience.wait()) is not None:
            self._wait(wait)
        raise self._exhausted()

    def begun(self, quotas: Sequence[Quota]) -> None:
        """Pass on what a target says of its limits as its answer begins."""
        if quotas and self._terms.leg is not None:
            self._terms.leg.forewarned(quotas)

    def answered(self, trial: Trial, reply: Reply) -> Reply:
        """Close the ledger, and give the reply with it."""
        self._open = None
        self._diary.answered(trial, reply)
        if self._plan.health.recover(trial.leave):
            self._diary.tell_of("recovered", trial)
        return reply.model_copy(update={"attempts": tuple(self._diary.ledger)})

    def broke(self, trial: Trial, error: BaseException) -> None:
        """Close the ledger of a call whose answer had begun: nobody else is asked."""
        if self._failed(trial, error) != "stop":
            self._diary.tell_of("fail_fast", trial, error)

    def leave(self) -> None:
        """Give back what a call holds whose answer is not read to its end."""
        trial, self._open = self._open, None
        if trial is not None:
            self._plan.health.report(trial.leave, "none")

    def _asked(self, target: Target, leave: Pass, ask: Ask[Answer]) -> tuple[Trial, Answer] | None:
        """Ask a target, again if that may help; ``None`` if the next one is to be asked."""
        trial = Trial(target=target, leave=leave, began_at=time.monotonic())
        while True:
            self._open, waited = trial, Queueing()
            try:
                with queueing(waited):
                    answer = ask(target, self._attempt_s(trial))
                return trial.after(waited.seconds), answer
            except BaseException as error:
                trial = trial.after(waited.seconds)
                action = self._failed(trial, error)
                self._tell_of(action, trial, error)
                if action in {"stop", "fail"}:
                    raise
                if action == "advance":
                    return None
                pause_s = self._retries.pause_s(trial, error)
            time.sleep(pause_s)
            self._retries.left -= 1
            trial = replace(
                trial, number=trial.number + 1, waited_s=pause_s, began_at=time.monotonic()
            )

    def _failed(self, trial: Trial, error: BaseException) -> Action:
        """Enter a failure everywhere, and say what follows."""
        self._open, self._error = None, error
        self._diary.failed(trial, error)
        known = effect_of(error)  # who gave up is not left to the user's judgement
        effect = known if known.action == "stop" else self._plan.config.classify(error)
        blame = "none" if self._was_hasty(trial, error) else effect.health
        benched = self._plan.health.report(trial.leave, blame, retry_after_s=asked_s(error))
        if effect.action == "stop":
            return "stop"
        self._note_busy(trial.target, benched, error)
        self._diary.tell_of("attempt_failed", trial, error)
        if benched is not None:
            self._diary.tell_of("bench", trial, error, benched=benched)
        if effect.action == "retry" and (benched or not self._may_retry(trial, error)):
            return "advance"
        if effect.action == "fail" and self._plan.config.advance_on_permanent:
            return "advance"
        return effect.action

    def _was_hasty(self, trial: Trial, error: BaseException) -> bool:
        """Say whether a target was hardly given the time to answer: no fault of its own."""
        if (given_s := getattr(error, "given_s", None)) is None:
            return False
        leg = self._terms.leg
        usual_s = min(trial.target.timeout_s, leg.usual_s if leg else math.inf)
        return bool(given_s < FAIR_SHARE * usual_s)

    def _note_busy(self, target: Target, benched: Benched | None, error: BaseException) -> None:
        """Keep when a target may be asked again; a lone one may be even while it is benched."""
        if isinstance(error, ProviderError) and error.is_overload:
            if self._terms.leg is not None:
                self._terms.leg.refused(error.retry_after_s)
            self._patience.note_refusal(target, error.retry_after_s, benched)
        elif benched is not None:
            self._patience.note(target, benched.left_s)

    def _tell_of(self, action: Action, trial: Trial, error: BaseException) -> None:
        match action:
            case "fail":
                self._diary.tell_of("fail_fast", trial, error)
            case "retry":
                self._diary.tell_of("retry", trial, error)
            case "advance" if self._plan.after(trial.target) is not None:
                self._diary.tell_of("advance", trial, error)

    def _may_retry(self, trial: Trial, error: BaseException) -> bool:
        lost = self._diary.lost_at(trial.target)
        left_s = self._allowance.left_at_s(trial.target, self._diary.spent_at(trial.target))
        return self._retries.allow(trial, error, lost=lost, left_s=left_s)

    def _attempt_s(self, trial: Trial) -> float:
        """Give how long an attempt may take, after those before it and the pause for it."""
        spent_s = self._diary.spent_at(trial.target) + trial.waited_s
        return self._allowance.attempt_s(trial.target, spent_s)

    def _move(self, to: Elsewhere) -> None:
        """Go on in another lane; returns if the call would wait there longer than it may."""
        if (leg := self._terms.leg) is None:
            return
        moves = 1 if self._error else self._journey.moves + 1
        state = {
            "was_asked": self._diary.was_asked,
            "free_at": self._patience.free_at,
            "moves": moves,
        }
        try:
            leg.move(to.target, self._travelling(**self._way.state(), **state))
        except LaneBusy as busy:
            self._diary.passed_by(to.target, "LaneBusy", str(busy))
            self._diary.tell("lane_busy", to.target, retry_after_s=busy.retry_after_s)
            self._way.skip()

    def _wait(self, wait: Wait) -> None:
        """Come again, and begin with the first target."""
        if (leg := self._terms.leg) is None:
            return
        self._diary.tell("wait", None, retry_after_s=wait.seconds)
        waits = self._journey.waits + 1
        leg.wait(wait, self._travelling(to_come=self._plan.written, waits=waits))

    def _travelling(self, **state: Any) -> Journey:
        """Say how far the call has come."""
        anew = {
            "tried_by_others": (), "insists": False, "was_asked": False, "free_at": {}, "moves": 0,
        }  # fmt: skip
        now = {
            "retries_left": self._retries.left,
            "spent_s": self._allowance.spent_s,
            "ledger": tuple(self._diary.ledger),
        }
        return self._journey.model_copy(update={**anew, **now, **state}).fitted()

    def _exhausted(self) -> BaseException:
        """Make the error of a call that nobody answered; a lone target's own says it better."""
        again_s = self._patience.free_in_s
        self._diary.tell("exhausted", None, retry_after_s=again_s)
        if len(self._plan.targets) == 1 and self._error is not None:
            return self._error
        said = {entry.target: entry.reason for entry in self._diary.ledger}
        reasons = "; ".join(f"{target} {reason}" for target, reason in said.items())
        what = f"no target of {self._plan.spec!r:.100} answered: {reasons}"
        error = ChainExhausted(what, None, again_s)
        error.__cause__ = self._error
        self._diary.sign(error, self._plan.spec)
        return error


def _beginning(plan: Plan, terms: Terms) -> Journey:
    return Journey(
        call_id=terms.call_id,
        to_come=plan.written,
        retries_left=plan.config.retry_budget,
    )
