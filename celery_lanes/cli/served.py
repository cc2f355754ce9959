"""Which lanes and queues have a worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celery_lanes.cli.findings import Finding, error, warning

if TYPE_CHECKING:
    from celery_lanes.app import Lanes


def check_served(lanes: Lanes, *, timeout_s: float) -> Iterator[Finding]:
    """Compare the queues that workers consume with the lanes and queues that there are."""
    _reach_broker(lanes)
    answers = lanes.app.control.inspect(timeout=timeout_s).active_queues()
    consumed = consumed_queues(answers or {})
    used = lanes.store.lanes()
    if not answers:
        yield warning(f"no worker answered within {timeout_s:g} s: no lane and no queue is served")
    for lane in sorted({*lanes.settings.lanes, *used}):
        if lanes.settings.queue(lane) not in consumed:
            yield from _unserved_lane(lanes, lane, is_one_of_many=bool(answers))
    if answers:
        yield from unserved_queues(lanes, consumed)


def consumed_queues(answers: Mapping[str, Sequence[Mapping[str, Any]]]) -> set[str]:
    """Collect the queues' names from what the workers answered."""
    return {str(queue["name"]) for queues in answers.values() for queue in queues}


def unserved_queues(lanes: Lanes, consumed: set[str]) -> Iterator[Finding]:
    """Find the app's plain queues that nobody consumes."""
    conf = lanes.app.conf
    declared = {conf.task_default_queue, *(queue.name for queue in conf.task_queues or ())}
    plain = (queue for queue in sorted(declared) if lanes.settings.lane_of_queue(queue) is None)
    for queue in plain:
        if queue not in consumed:
            yield warning(f"queue {queue}: nobody consumes it: celery -A ... worker -Q {queue}")


def _unserved_lane(lanes: Lanes, lane: str, *, is_one_of_many: bool) -> Iterator[Finding]:
    waiting = lanes.store.snapshot(lane).waiting
    queue = lanes.settings.queue(lane)
    if waiting:
        yield error(
            f"lane {lane}: {waiting} waiting and no worker: celery -A ... worker -Q {queue}"
        )
    elif is_one_of_many:
        yield warning(f"lane {lane}: no worker serves it: celery -A ... worker -Q {queue}")


def _reach_broker(lanes: Lanes) -> None:
    """Fail at once if the broker is away, instead of trying for minutes."""
    with lanes.app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
