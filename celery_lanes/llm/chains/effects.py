"""What a failure means for the models that come next, and for the health of this one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from billiard.exceptions import SoftTimeLimitExceeded

from celery_lanes import errors
from celery_lanes.store.health import Health

Action = Literal["stop", "fail", "advance", "retry"]
"""What a chain does: end at once without a word, fail, ask the next, or the same once more."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What is to be done after a failure."""

    action: Action
    health: Health


Classifier = Callable[[BaseException], Effect]

OnAllBenched = Literal["wait", "raise", "force"]
"""What a call does whose targets are all benched or busy; see ``ChainConfig``."""

_UNKNOWN = Effect("retry", "count")
_A_BUG = Effect("fail", "none")
_GIVEN_UP = Effect("stop", "none")
_GIVEN_UP_BY_GATEWAYS = {408, 502, 504}

_EFFECTS: Mapping[type[BaseException], Effect] = {
    errors.RateLimited: Effect("advance", "bench"),
    errors.Unreachable: Effect("retry", "count_provider"),
    errors.StreamInterrupted: Effect("fail", "count"),  # what came has been read already
    errors.TransientError: Effect("retry", "count"),
    errors.QuotaExhausted: Effect("advance", "bench_provider"),
    errors.ModelNotFound: Effect("advance", "none"),
    errors.Unsupported: Effect("advance", "none"),
    errors.LaneBusy: Effect("advance", "none"),
    errors.AuthenticationFailed: Effect("fail", "none"),
    errors.BadRequest: Effect("fail", "none"),  # also too long, and refused for its content
    errors.ConfigError: Effect("fail", "none"),
    errors.StoreError: Effect("fail", "none"),
    errors.ChainExhausted: Effect("fail", "none"),  # everybody has been asked
    errors.Preempted: _GIVEN_UP,
    errors.WaitCancelled: _GIVEN_UP,  # the caller's wait for a slot: no provider had part in it
    SoftTimeLimitExceeded: _GIVEN_UP,
    # Python's own complaints about code, ours or the user's: no provider had part in it
    AssertionError: _A_BUG,
    AttributeError: _A_BUG,
    ImportError: _A_BUG,
    LookupError: _A_BUG,
    NameError: _A_BUG,
    NotImplementedError: _A_BUG,
    TypeError: _A_BUG,
    Exception: _UNKNOWN,
}


def effect_of(error: BaseException) -> Effect:
    """Say what a failure means; what is no ``Exception`` is someone who gave up."""
    found = (_EFFECTS[kind] for kind in type(error).__mro__ if kind in _EFFECTS)
    return next(found, _GIVEN_UP)


def asked_s(error: BaseException) -> float | None:
    """Give how many seconds the provider asked to wait, if it did."""
    seconds: float | None = getattr(error, "retry_after_s", None)
    return seconds


def may_be_billed(error: BaseException) -> bool:
    """Say whether the provider may charge for a failed attempt: it may have worked on it."""
    match error:
        case errors.Unreachable() | errors.RateLimited():
            return False
        case errors.StreamInterrupted() | errors.Preempted():
            return True
        case errors.TransientError() | errors.ContentFiltered():
            return error.status is None or error.status in _GIVEN_UP_BY_GATEWAYS
    return not isinstance(error, errors.LanesError)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainConfig:
    """How a chain goes from model to model.

    Attributes:
        transient_retries: how often the same model is asked again; 0 for never.
        retry_budget: how often one call may do so with all of its models together.
        backoff_s: the longest pause before it, doubled each time up to 8 s.
        advance_on_permanent: whether it goes on after what would fail everywhere, too.
        classify: what a failure means; is not asked of an end that comes from without.
        persist_prompts: whether observers are shown the messages.
        on_all_benched: what a call does whose targets are all benched, or only busy. "wait": in a
            lane's task it comes again when the first is free, at its place; elsewhere
            ``ChainExhausted`` says when that is. "raise": ``ChainExhausted`` there as well.
            "force": if it has asked nobody yet, it asks the one that is free first, at once.
    """

    transient_retries: int = 1
    retry_budget: int = 3
    backoff_s: float = 0.5
    advance_on_permanent: bool = False
    classify: Classifier = effect_of
    persist_prompts: bool = False
    on_all_benched: OnAllBenched = "wait"

    def __post_init__(self) -> None:
        """Refuse numbers below 0, and another way than there is."""
        if self.on_all_benched not in (ways := get_args(OnAllBenched)):
            raise errors.ConfigError(
                f"expected on_all_benched to be {', '.join(ways)}, got {self.on_all_benched!r:.100}"
            )
        for name in ("transient_retries", "retry_budget", "backoff_s"):
            if not getattr(self, name) >= 0:
                raise errors.ConfigError(
                    f"expected {name} to be 0 or more, got {getattr(self, name)}"
                )
