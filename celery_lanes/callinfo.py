"""Whose call it is: CallInfo, its task header, and the ambient ``call_context``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import Any

from celery_lanes.priority import checked

HEADER = "lanes"
"""The task header that carries attribution; custom Celery headers survive retries."""

_ATTRIBUTE = "__call_info__"


@dataclass(frozen=True, slots=True)
class Held:
    """A call that runs in a lane, as the store knows it: its nonce, and its lease's token."""

    lane: str
    call: str
    token: str


def held_by(request: object) -> Held | None:
    """Read which lease a task's own request runs under; ``None`` outside a lane."""
    header = getattr(request, HEADER, None) or {}
    return Held(header["lane"], header["nonce"], header["token"]) if "token" in header else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallInfo:
    """The attribution of one call, as it rides in the task headers.

    Attributes:
        caller: the fair-share identity (user, tenant, key); "" is one shared bucket.
        run_id: the run this call belongs to, for logs and failover events.
        model: ``provider/model``, if the task has one.
        lane: the lane that serves the call; "" outside a lane.
        attempt: 1 for the first grant; counts up when the call is put back.
        priority: higher first; -1000 to 1000. ``None``: nobody has said; it counts as 0.
        preemptible: a more urgent call may take its slot while it runs. ``None``: nobody has said;
            it may not.
        cost: what the call is estimated to cost, in the lane's unit (1 per call, or tokens).
        nonce: the identity of this publish, stamped by the sender; another one in each lane.
        origin: the nonce that it was published by, if it has come from another lane since.
        wait_s: seconds between publish and grant; ``None`` before the grant.
    """

    caller: str = ""
    run_id: str = ""
    model: str = ""
    lane: str = ""
    attempt: int = 0
    priority: int | None = None
    preemptible: bool | None = None
    cost: float | None = None
    nonce: str = ""
    origin: str = ""
    wait_s: float | None = None

    @property
    def call_id(self) -> str:
        """Name the call in whichever lane it is, as an Idempotency-Key must."""
        return self.origin or self.nonce

    def to_header(self) -> dict[str, Any]:
        """Give the header's value: plain JSON types, defaults left out."""
        said = {name: getattr(self, name) for name in _DEFAULTS}
        return {name: value for name, value in said.items() if value != _DEFAULTS[name]}

    @classmethod
    def from_header(cls, header: object) -> CallInfo:
        """Read a header; what an older or foreign sender wrote wrongly is ignored."""
        if not isinstance(header, Mapping):
            return _NOBODYS
        known: dict[str, Any] = {
            k: v
            for k, v in header.items()
            if k in _TYPES and isinstance(v, _TYPES[k]) and _is_bool(v) == (_TYPES[k] is bool)
        }
        return cls(**known)

    @classmethod
    def from_request(cls, request: object) -> CallInfo | None:
        """Find the attribution of a task request (``self.request``), or ``None``.

        Also takes the request that an errback is given.
        """
        header = getattr(request, HEADER, None)
        if header is None:
            header = (getattr(request, "headers", None) or {}).get(HEADER)
        return cls.from_header(header) if isinstance(header, Mapping) else None

    @classmethod
    def from_error(cls, error: BaseException | None) -> CallInfo | None:
        """Find whose call failed, from the error itself or from one that it was raised from.

        Works on what ``result.get()`` raises and on what ``task_failure`` is given.
        """
        seen: set[int] = set()
        while error is not None and id(error) not in seen:
            if isinstance(info := getattr(error, _ATTRIBUTE, None), cls):
                return info
            seen.add(id(error))
            error = error.__cause__ or error.__context__
        return None

    def attach_to(self, error: BaseException) -> None:
        """Mark an error as this call's; its class, message and args stay as they are."""
        with contextlib.suppress(AttributeError):  # an exception class with __slots__
            setattr(error, _ATTRIBUTE, self)


_NOBODYS = CallInfo()
_DEFAULTS: dict[str, Any] = {f.name: f.default for f in fields(CallInfo)}
_TYPES: dict[str, type | tuple[type, ...]] = {
    **{name: type(default) for name, default in _DEFAULTS.items()},
    "priority": int,
    "preemptible": bool,
    "cost": (int, float),
    "wait_s": (int, float),
}
_ambient: ContextVar[Mapping[str, Any] | None] = ContextVar("celery_lanes_call", default=None)


def _is_bool(value: object) -> bool:
    """Tell true and false from numbers, which they are to ``isinstance``."""
    return isinstance(value, bool)


def said_here() -> Mapping[str, Any]:
    """Give what the ambient ``call_context`` blocks say, by the names of CallInfo's fields."""
    return _ambient.get() or {}


def current_call() -> CallInfo | None:
    """Give the ambient attribution: the innermost ``call_context``, or ``None``."""
    said = _ambient.get()
    return None if said is None else CallInfo(**said)


@contextlib.contextmanager
def call_context(
    *, caller: str | None = None, run_id: str | None = None, priority: int | None = None
) -> Iterator[CallInfo]:
    """Say whose, and how urgent, every task is that is published inside the block.

    What a block leaves out is as in the block around it, else as in the task that runs it; a
    priority is not inherited from a task. Raises ``ValueError`` for what is no priority.
    """
    given = {"caller": caller, "run_id": run_id, "priority": checked(priority, "priority")}
    said = {**said_here(), **{name: value for name, value in given.items() if value is not None}}
    token = _ambient.set(said)
    try:
        yield CallInfo(**said)
    finally:
        _ambient.reset(token)
