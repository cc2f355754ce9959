"""Which lanes and queues have a worker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celery_lanes.cli.command import celery_command
from celery_lanes.cli.findings import Finding, error, warning

if TYPE_CHECKING:
    from celery_lanes.app import Lanes
    from celery_lanes.store.base import Snapshot

MOST_NAMED = 3
"""Queues in one hint."""


def check_served(lanes: Lanes, *, timeout_s: float) -> Iterator[Finding]:
    """Compare the queues that workers consume with the lanes and queues that there are."""
    _reach_broker(lanes)
    answers = lanes.app.control.inspect(timeout=timeout_s).active_queues()
    consumed = consumed_queues(answers or {})
    used = lanes.parts.store.lanes()
    if not answers:
        yield warning(f"no worker answered within {timeout_s:g} s: no lane and no queue is served")
    unserved = [
        lanes.parts.store.snapshot(lane)
        for lane in sorted({*lanes.settings.lanes, *used})
        if lanes.settings.queue(lane) not in consumed
    ]
    yield from _unserved_calls(lanes, [now for now in unserved if now.waiting])
    if answers:
        yield from _unserved_lanes(lanes, [now.lane for now in unserved if not now.waiting])
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
            yield warning(f"queue {queue}: nobody consumes it: {_worker([queue])}")


def _unserved_calls(lanes: Lanes, unserved: Iterable[Snapshot]) -> Iterator[Finding]:
    for now in unserved:
        worker = _worker([lanes.settings.queue(now.lane)])
        yield error(f"lane {now.lane}: {now.waiting} waiting and no worker: {worker}")


def _unserved_lanes(lanes: Lanes, unserved: Sequence[str]) -> Iterator[Finding]:
    """Say it in one line: most set-ups serve a few of the lanes that they name."""
    queues = [lanes.settings.queue(lane) for lane in unserved]
    if len(unserved) == 1:
        yield warning(f"lane {unserved[0]}: no worker serves it: {_worker(queues)}")
    elif unserved:
        yield warning(
            f"{len(unserved)} lanes have no worker, and nothing waits in them:"
            f" {', '.join(unserved)}; to serve them: {_worker(queues)}"
        )


def _worker(queues: Sequence[str]) -> str:
    more = ",..." if len(queues) > MOST_NAMED else ""
    return f"{celery_command()} worker -Q {','.join(queues[:MOST_NAMED])}{more}"


def _reach_broker(lanes: Lanes) -> None:
    """Fail at once if the broker is away, instead of trying for minutes."""
    with lanes.app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
