"""One call's way from target to target: one deadline, one retry budget, one ledger."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from celery_lanes.errors import ChainExhausted, Unreachable
from celery_lanes.llm.diary import Diary
from celery_lanes.llm.effects import Action, effect_of
from celery_lanes.llm.plan import Plan, Terms, Trial
from celery_lanes.llm.reply import Reply
from celery_lanes.llm.request import Request
from celery_lanes.llm.target import Target
from celery_lanes.store.health import Benched, Pass

INLINE_WAIT_S = 5.0
"""The longest Retry-After for which the same target is waited for and asked again."""

MAX_PAUSE_S = 8.0
_SHORTEST_S = 0.001

Answer = TypeVar("Answer")
Ask = Callable[[Target, float], Answer]
"""Asks a target, which may take so many seconds."""


class Failover:
    """Asks one target after the other, until one answers or the call is not to go on."""

    def __init__(self, plan: Plan, request: Request, terms: Terms) -> None:
        self._plan = plan
        self._terms = terms
        self._diary = Diary(plan, request, terms)
        self._retries_left = plan.config.retry_budget
        self._ends_at = time.monotonic() + terms.whole_s(plan)
        self._free_in_s: list[float] = []
        self._error: BaseException | None = None
        self._open: Trial | None = None

    def run(self, ask: Ask[Answer]) -> tuple[Trial, Answer]:
        """Ask until there is an answer; to be followed by ``answered``, ``broke`` or ``leave``.

        Raises what a target raised, if it is not to be followed by another, or ``ChainExhausted``.
        """
        for target, leave in self._admitted():
            if (found := self._asked(target, leave, ask)) is not None:
                return found
        raise self._exhausted()

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

    def _admitted(self) -> Iterator[tuple[Target, Pass]]:
        """Give the targets that may be asked; ones that others try only if there is nobody else."""
        tried_by_others = []
        for target in self._plan.targets:
            found = self._enter(target, is_alone=len(self._plan.targets) == 1)
            if isinstance(found, Pass):
                yield target, found
            elif found is not None and found.is_probed:
                tried_by_others.append(target)
        for target in () if self._error else tried_by_others:
            if isinstance(found := self._enter(target, is_alone=True), Pass):
                yield target, found

    def _enter(self, target: Target, *, is_alone: bool) -> Pass | Benched | None:
        if self._left_s() <= 0:
            self._diary.passed_by(target, "OutOfTime", "was not asked: the time was up")
            return None
        probe_s = self._attempt_s(target)
        found = self._plan.health.enter(str(target), probe_s=probe_s, is_alone=is_alone)
        if isinstance(found, Benched):
            self._pass_by(target, found)
        elif found.probes:
            self._diary.tell("probe", target)
        return found

    def _pass_by(self, target: Target, benched: Benched) -> None:
        why = "is being tried by another call" if benched.is_probed else "is benched"
        self._diary.passed_by(target, "Benched", f"{why} for {benched.left_s:.3g} s")
        self._diary.tell("skip_benched", target, bench_until=time.time() + benched.left_s)
        self._free_in_s.append(benched.left_s)

    def _asked(self, target: Target, leave: Pass, ask: Ask[Answer]) -> tuple[Trial, Answer] | None:
        """Ask a target, again if that may help; ``None`` if the next one is to be asked."""
        trial = Trial(target=target, leave=leave, began_at=time.monotonic())
        while True:
            self._open = trial
            try:
                return trial, ask(target, self._attempt_s(target))
            except BaseException as error:
                action = self._failed(trial, error)
                self._tell_of(action, trial, error)
                if action in {"stop", "fail"}:
                    raise
                if action == "advance":
                    return None
                pause_s = self._pause_s(trial, error)
            time.sleep(pause_s)
            self._retries_left -= 1
            trial = replace(
                trial, number=trial.number + 1, waited_s=pause_s, began_at=time.monotonic()
            )

    def _failed(self, trial: Trial, error: BaseException) -> Action:
        """Enter a failure everywhere, and say what follows."""
        self._open, self._error = None, error
        self._diary.failed(trial, error)
        known = effect_of(error)  # who gave up is not left to the user's judgement
        effect = known if known.action == "stop" else self._plan.config.classify(error)
        benched = self._plan.health.report(
            trial.leave, effect.health, retry_after_s=_asked_s(error)
        )
        if effect.action == "stop":
            return "stop"
        self._diary.tell_of("attempt_failed", trial, error)
        if benched is not None:
            self._free_in_s.append(benched.left_s)
            self._diary.tell_of("bench", trial, error, benched=benched)
        if effect.action == "retry" and (benched or not self._may_retry(trial, error)):
            return "advance"
        if effect.action == "fail" and self._plan.config.advance_on_permanent:
            return "advance"
        return effect.action

    def _tell_of(self, action: Action, trial: Trial, error: BaseException) -> None:
        match action:
            case "fail":
                self._diary.tell_of("fail_fast", trial, error)
            case "retry":
                self._diary.tell_of("retry", trial, error)
            case "advance" if self._plan.after(trial.target) is not None:
                self._diary.tell_of("advance", trial, error)

    def _may_retry(self, trial: Trial, error: BaseException) -> bool:
        """Say whether the same target is asked again; what may be charged is not lost twice."""
        asked_s = _asked_s(error) or 0.0
        return (
            trial.number <= self._plan.config.transient_retries
            and self._retries_left > 0
            and self._diary.lost_at(trial.target) <= 1
            and asked_s <= INLINE_WAIT_S
            and max(asked_s, self._longest_pause_s(trial)) < self._left_s()
        )

    def _pause_s(self, trial: Trial, error: BaseException) -> float:
        """Spread the load of those who failed together; where nothing was sent, there is none."""
        if isinstance(error, Unreachable):
            return 0.0
        spread_s = random.uniform(0.0, self._longest_pause_s(trial))  # noqa: S311 # no secret
        return max(spread_s, _asked_s(error) or 0.0)

    def _longest_pause_s(self, trial: Trial) -> float:
        return min(MAX_PAUSE_S, self._plan.config.backoff_s * 2.0 ** min(trial.number - 1, 10))

    def _attempt_s(self, target: Target) -> float:
        return max(_SHORTEST_S, min(self._left_s(), self._terms.attempt_s(target)))

    def _left_s(self) -> float:
        return self._ends_at - time.monotonic()

    def _exhausted(self) -> BaseException:
        """Make the error of a call that nobody answered; a lone target's own says it better."""
        again_s = min(self._free_in_s, default=None)
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


def _asked_s(error: BaseException) -> float | None:
    asked_s: float | None = getattr(error, "retry_after_s", None)
    return asked_s
