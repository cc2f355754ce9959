"""Every error that celery_lanes raises.

::

    LanesError
    ├── ConfigError (ValueError)
    ├── StoreError
    │   ├── StoreUnavailable (kombu.exceptions.OperationalError)
    │   └── LaneNotConfigured
    ├── NotQueued
    │   └── AlreadyStarted
    ├── NotInLane
    ├── LaneBusy
    ├── Preempted
    ├── WaitCancelled
    └── ProviderError
        ├── TransientError
        │   ├── RateLimited
        │   ├── Unreachable
        │   └── StreamInterrupted
        ├── QuotaExhausted
        ├── ModelNotFound
        ├── AuthenticationFailed
        ├── Unsupported
        ├── ChainExhausted
        └── BadRequest
            ├── ContextTooLong
            ├── ContentFiltered
            └── SpecError
                └── AliasCycle

Each can be rebuilt from its ``args`` alone, as Celery's JSON result backends do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kombu.exceptions import OperationalError


class LanesError(Exception):
    """Something in celery_lanes went wrong."""

    def __str__(self) -> str:
        """Give the first argument, or what the class says of itself."""
        return str(self.args[0]) if self.args and self.args[0] else _first_line(type(self))

    def __repr__(self) -> str:
        """Give the class and the message, as they stand in logs; ``args`` have the rest."""
        return f"{type(self).__name__}({str(self)!r})"


class ConfigError(LanesError, ValueError):
    """The configuration is not valid; correct the setting that the message names."""


class StoreError(LanesError):
    """The lane store refused a request."""


class StoreUnavailable(StoreError, OperationalError):  # type: ignore[misc] # kombu is not typed
    """The lane store cannot be reached; nothing was accepted. Check [store] url and the server."""


class LaneNotConfigured(StoreError):
    """The store does not know this lane's settings yet; a worker writes them when it starts."""


class NotQueued(LanesError):
    """The call is not waiting: it is running, has ended, or was never published."""


class AlreadyStarted(NotQueued):
    """The call does not wait any more: it is running, or its result is being written."""


class NotInLane(LanesError):
    """The task does not run in a lane, so it can neither move nor be given back.

    So it is with ``enabled = false``, eager tasks, and those whose queue is no lane's.
    """


class LaneBusy(LanesError):
    """The call would wait longer than ``max_wait``; nothing was published.

    ``args`` are ``(message, position, eta_s, retry_after_s)``: the place it would have had, from 1;
    the seconds that it would have waited; and how many of them are too many.
    """

    def __init__(
        self,
        message: str = "",
        position: int | None = None,
        eta_s: float | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, position, eta_s, retry_after_s)

    @property
    def position(self) -> int | None:
        """Its place in fair order, from 1."""
        place: int | None = self.args[1]
        return place

    @property
    def eta_s(self) -> float | None:
        """How many seconds it would have waited."""
        seconds: float | None = self.args[2]
        return seconds

    @property
    def retry_after_s(self) -> float | None:
        """In how many seconds the wait may be short enough, if nothing more comes."""
        seconds: float | None = self.args[3]
        return seconds


class Preempted(LanesError):
    """The call made room for a more urgent one.

    Raised in a running body that must make room: catch it to save what has been done, and let it
    pass. It is the result in lanes with ``on_preempt = "fail"``; elsewhere the call runs again.
    """


class WaitCancelled(LanesError):
    """The wait for a slot was cancelled, as all that waits of its caller; or the store has lost it.

    Ask again if the slot is still wanted.
    """


class ProviderError(LanesError):
    """The LLM provider did not answer the call.

    ``args`` are ``(message, status, retry_after_s, request_id, attempts)``; the three in the middle
    may be ``None``. ``given_s`` is set where the call was made: how many seconds the provider had,
    if it is those that ran out.
    """

    given_s: float | None = None

    def __init__(
        self,
        message: str = "",
        status: int | None = None,
        retry_after_s: float | None = None,
        request_id: str | None = None,
        attempts: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(message, status, retry_after_s, request_id, attempts)

    @property
    def status(self) -> int | None:
        """The HTTP status, or ``None`` when no answer came."""
        status: int | None = self.args[1]
        return status

    @property
    def is_overload(self) -> bool:
        """Whether the provider is only busy: 429 that is no matter of credit, 503, or 529."""
        return isinstance(self, RateLimited) or self.status in _BUSY

    @property
    def retry_after_s(self) -> float | None:
        """How many seconds the provider asked to wait, if it did."""
        seconds: float | None = self.args[2]
        return seconds

    @property
    def request_id(self) -> str | None:
        """The provider's name for the request, if it gave one."""
        name: str | None = self.args[3]
        return name

    @property
    def attempts(self) -> Sequence[Mapping[str, Any]]:
        """Whom a chain asked or passed by, in order, each as the JSON of ``llm.Attempt``."""
        attempts: Sequence[Mapping[str, Any]] = self.args[4]
        return attempts

    @attempts.setter
    def attempts(self, attempts: Sequence[Mapping[str, Any]]) -> None:
        self.args = (*self.args[:4], attempts, *self.args[5:])


_BUSY = (503, 529)


class TransientError(ProviderError):
    """The provider failed in a way that may pass: 408, 409, 5xx, a timeout, a broken connection."""


class RateLimited(TransientError):
    """The provider answered 429; wait ``retry_after_s`` before the next call."""


class Unreachable(TransientError):
    """The provider's server cannot be reached; nothing was sent. Check its address."""


class StreamInterrupted(TransientError):
    """A reply broke off after it had begun; what came of it has been read, and may be charged.

    ``args`` end with the usage so far, as ``{"input_tokens": ..., ...}``.
    """

    def __init__(
        self,
        message: str = "",
        status: int | None = None,
        retry_after_s: float | None = None,
        request_id: str | None = None,
        attempts: Sequence[Mapping[str, Any]] = (),
        usage: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, status, retry_after_s, request_id, attempts)
        self.args = (*self.args, usage)

    @property
    def usage(self) -> Mapping[str, Any] | None:
        """Tokens so far; estimated, unless the provider had told them."""
        usage: Mapping[str, Any] | None = self.args[5]
        return usage


class QuotaExhausted(ProviderError):
    """The account has no credit or quota left; more calls will not help until it is renewed."""


class ModelNotFound(ProviderError):
    """The provider does not know this model."""


class AuthenticationFailed(ProviderError):
    """The provider refused the key; check the LLM_<NAME> variable."""


class Unsupported(ProviderError):
    """The model, or its provider's API, has no place for what the request needs."""


class ChainExhausted(ProviderError):
    """None of the models that the call names answered; ``attempts`` has a reason for each.

    ``retry_after_s`` is when the first of those that are benched may be asked again.
    """


class BadRequest(ProviderError):
    """The provider refused the request as malformed."""


class ContextTooLong(BadRequest):
    """The prompt does not fit into the model's context window."""


class ContentFiltered(BadRequest):
    """The provider's content policy refused the prompt."""


class SpecError(BadRequest):
    """What names the model is neither "provider/model" nor an alias for it."""


class AliasCycle(SpecError):
    """An alias leads back to itself."""


def _first_line(cls: type) -> str:
    return (cls.__doc__ or cls.__name__).strip().splitlines()[0]
