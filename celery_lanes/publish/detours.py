"""A publish with a ``max_wait`` whose task asks several models: it may begin with a later one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from celery_lanes.callinfo import HEADER, CallInfo
from celery_lanes.errors import LaneBusy, SpecError
from celery_lanes.journeys.journey import STAGE, stage_in
from celery_lanes.llm.chains.journey import Journey
from celery_lanes.llm.ledger import Attempt
from celery_lanes.parts import Parts
from celery_lanes.publish.admission import Admission
from celery_lanes.publish.outgoing import Outgoing
from celery_lanes.publish.unheard import Unheard

ASKS_IN_LANES = "asks_in_lanes"
"""The attribute of a task that goes on in its models' lanes by ``leg=lanes.leg(self.request)``."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A model of a spec, as it is written, and its lane."""

    model: str
    lane: str


def stops_of(parts: Parts, outgoing: Outgoing, lane: str) -> tuple[Stop, ...]:
    """List the models that a call may go on to, if it may not wait and has only begun."""
    if outgoing.max_wait_s is None or not getattr(outgoing.task, ASKS_IN_LANES, False):
        return ()
    if stage_in(outgoing.header) is not None:
        return ()
    spec = parts.router.spec(outgoing.args, outgoing.kwargs, outgoing.task)
    stops = _stops(parts, spec)
    return stops if stops and stops[0].lane == lane else ()


def _stops(parts: Parts, spec: str) -> tuple[Stop, ...]:
    """List a spec's models with their lanes; none if the spec is for the task to refuse."""
    try:
        names = map("/".join, parts.registry.names(spec))
    except SpecError:
        return ()
    return tuple(Stop(model, parts.settings.lane_for(model).lane) for model in names)


class Detours:
    """Admits one message to the first of its models' lanes in which it need not wait too long.

    The models of the lanes before it are in the call's ledger, and are not asked any more.
    """

    def __init__(
        self,
        parts: Parts,
        unheard: Unheard,
        outgoing: Outgoing,
        infos: Iterable[CallInfo],
        stops: Sequence[Stop],
    ) -> None:
        self._stops, self._max_wait_s = stops, outgoing.max_wait_s
        self._retry_budget = parts.registry.chain_config.retry_budget
        self._admissions = [(info, Admission(parts, unheard, outgoing, info)) for info in infos]

    def __call__(self, body: Any, *, headers: dict[str, Any], **properties: Any) -> bool:
        """Admit. Raises ``LaneBusy``, of the lane with the shortest wait, if all are too busy."""
        busy: dict[str, LaneBusy] = {}
        for info, admit in self._admissions:
            header = {**info.to_header(), STAGE: self._journey(info, busy)}
            try:
                is_in = admit(body, headers={**headers, HEADER: header}, **properties)
            except LaneBusy as error:
                busy[info.lane] = error
            else:
                if is_in or not busy:
                    return is_in
                break  # the broker would take it to the lane that is busy
        raise min(busy.values(), key=lambda error: error.eta_s or 0.0)

    def _journey(self, info: CallInfo, busy: dict[str, LaneBusy]) -> dict[str, Any]:
        ledger = tuple(
            Attempt(
                target=stop.model,
                lane=stop.lane,
                error_class=LaneBusy.__name__,
                reason=str(busy[stop.lane]),
            )
            for stop in self._stops
            if stop.lane in busy
        )
        to_come = tuple(stop.model for stop in self._stops if stop.lane not in busy)
        journey = Journey(
            call_id=info.nonce,
            ledger=ledger,
            to_come=to_come,
            retries_left=self._retry_budget,
            max_wait_s=self._max_wait_s,
        )
        return journey.model_dump(mode="json")
