"""One message on its way into the store, instead of the broker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from kombu import serialization
from kombu.compression import compress
from kombu.utils.functional import retry_over_time

from celery_lanes.busy import refused
from celery_lanes.callinfo import CallInfo
from celery_lanes.envelope import Envelope
from celery_lanes.errors import StoreUnavailable
from celery_lanes.eta import due_ms
from celery_lanes.parts import Parts
from celery_lanes.publish.outgoing import Outgoing
from celery_lanes.publish.unheard import Unheard
from celery_lanes.store.calls import Busy, Call, Verdict

RETRIES = 3
"""How often a publish is tried again whose policy does not say so; as Celery's own."""


class Admission:
    """Admits one message; the producer calls it with what Celery would have published."""

    def __init__(self, parts: Parts, unheard: Unheard, outgoing: Outgoing, info: CallInfo) -> None:
        self._parts, self._unheard = parts, unheard
        self._outgoing, self._info = outgoing, info
        wait_s = outgoing.max_wait_s
        self._max_wait_ms = None if wait_s is None else round(wait_s * 1000)

    def __call__(
        self,
        body: Any,
        *,
        headers: dict[str, Any],
        serializer: str,
        compression: str | None = None,
        retry: bool = False,
        retry_policy: Mapping[str, Any] | None = None,
        **properties: Any,
    ) -> bool:
        """Admit; False if the store is away and the settings say to use the broker then.

        Raises ``LaneBusy`` if the call would wait longer than it may.
        """
        call = self._call(_pack(body, headers, serializer, compression, properties))
        try:
            verdict = self._admit(call, (retry_policy or {}) if retry else None)
        except StoreUnavailable:
            if self._bypasses:
                return False
            self._unheard.forget_later(call.task_id)
            raise
        if isinstance(verdict, Busy):
            self._unheard.forget(call.task_id)
            raise refused(self._info.lane, verdict, self._outgoing.max_wait_s or 0)
        if not headers.get("ignore_result"):  # it listens for its own as well
            self._unheard.catch_up()
        return True

    def _admit(self, call: Call, policy: Mapping[str, Any] | None) -> Verdict:
        """Repeat as the publish retry policy says; the nonce makes a repeated admit harmless."""
        admit = partial(self._admit_once, call)
        return admit() if policy is None else _repeated(admit, policy, self._retries(policy))

    def _retries(self, policy: Mapping[str, Any]) -> int | None:
        """Say how often to try again; not for ever where the broker takes what the store cannot."""
        most: int | None = policy.get("max_retries", RETRIES)
        return RETRIES if most is None and self._bypasses else most

    @property
    def _bypasses(self) -> bool:
        return self._parts.settings.store.on_store_down == "bypass"

    def _admit_once(self, call: Call) -> Verdict:
        lane, wait_ms = self._info.lane, self._max_wait_ms
        if (tell := self._outgoing.tell) is None:
            return self._parts.admit(lane, [call], max_wait_ms=wait_ms)[0]
        verdict, standing = self._parts.place(lane, call, max_wait_ms=wait_ms)
        if standing is not None:
            tell(standing)
        return verdict

    def _call(self, envelope: bytes) -> Call:
        info, meta = self._info, self._outgoing.meta
        return Call(
            id=info.nonce,
            task_id=str(meta["id"]),
            task=self._outgoing.name,
            caller=info.caller,
            priority=info.priority or 0,
            cost=1.0 if info.cost is None else info.cost,
            due_ms=due_ms(meta.get("eta")),
            preemptible=bool(info.preemptible),
            envelope=envelope,
        )


def _repeated(
    admit: Callable[[], Verdict], policy: Mapping[str, Any], retries: int | None
) -> Verdict:
    verdict: Verdict = retry_over_time(
        admit,
        StoreUnavailable,
        max_retries=retries,
        interval_start=policy.get("interval_start", 0),
        interval_step=policy.get("interval_step", 0.2),
        interval_max=policy.get("interval_max", 1),
    )
    return verdict


_NOT_PROPERTIES = (
    "exchange", "routing_key", "declare", "timeout", "confirm_timeout", "mandatory", "immediate",
    "exchange_type",
)  # fmt: skip


def _pack(
    body: Any,
    headers: dict[str, Any],
    serializer: str,
    compression: str | None,
    properties: dict[str, Any],
) -> bytes:
    payload: str | bytes
    content_type, content_encoding, payload = serialization.dumps(body, serializer)
    if compression:
        payload, headers["compression"] = compress(payload, compression)
    for key in _NOT_PROPERTIES:
        properties.pop(key, None)
    return Envelope(
        body=payload,
        content_type=content_type,
        content_encoding=content_encoding,
        headers=headers,
        properties=properties,
    ).pack()
