"""What the steering commands do; each gives the line that says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_lanes.cli.command import celery_command
from celery_lanes.cli.exits import REFUSED, CommandFailed
from celery_lanes.errors import AlreadyStarted

if TYPE_CHECKING:
    from celery_lanes.app import Lanes


def set_slots(lanes: Lanes, lane: str, slots: int | None) -> str:
    """Change the cap of a lane; ``None`` goes back to the file's."""
    lanes.lane(lane).set_max_concurrent(slots)
    configured = lanes.settings.lane(lane).max_concurrent
    if slots is None:
        return f"{lane}: at most {configured} at once, as configured"
    return f"{lane}: at most {slots} at once (configured: {configured})"


def set_rate(lanes: Lanes, lane: str, rate: str | None) -> str:
    """Change a lane's limit in calls; ``None`` goes back to the file's."""
    lanes.lane(lane).set_rate(rate)
    return f"{lane}: rate {limit_words(rate)}"


def set_tokens(lanes: Lanes, lane: str, tokens: str | None) -> str:
    """Change a lane's limit in cost; ``None`` goes back to the file's."""
    lanes.lane(lane).set_tokens(tokens)
    return f"{lane}: tokens {limit_words(tokens)}"


def limit_words(rate: str | None) -> str:
    """Write a limit as it was given."""
    return "as configured" if rate is None else rate or "none"


def pause(lanes: Lanes, lane: str) -> str:
    """Stop a lane's grants."""
    paused = lanes.lane(lane)
    paused.pause()
    snapshot = paused.stats()
    return f"{lane}: paused; {snapshot.running} still running, {snapshot.waiting} waiting"


def resume(lanes: Lanes, lane: str) -> str:
    """Let a lane grant again."""
    resumed = lanes.lane(lane)
    resumed.resume()
    return f"{lane}: resumed; {resumed.stats().waiting} waiting"


def cancel(lanes: Lanes, task_id: str) -> str:
    """Cancel what waits under a task id, in whichever lanes it is."""
    try:
        found = lanes.cancel(task_id)
    except AlreadyStarted as error:
        raise CommandFailed(f"{error}; {_how_to_end(task_id)}", REFUSED) from error
    return "\n".join(f"{lane}: cancelled {task_id}{_times(n)}" for lane, n in found.items())


def stop(lanes: Lanes, task_id: str, *, drain: bool) -> str:
    """Have a call end that streams; one that waits is cancelled."""
    if not lanes.stop(task_id, drain=drain):
        raise CommandFailed(
            f"{task_id} is in no lane: it has ended, was never published, or is in the broker",
            REFUSED,
        )
    return (
        f"{task_id}: told to end; a call without stream=True does not hear it:"
        f" {celery_command()} control terminate SIGTERM {task_id}"
    )


def cancel_caller(lanes: Lanes, caller: str) -> str:
    """Cancel all that waits of a caller, "" for the calls without one."""
    found = lanes.cancel_caller(caller, anonymous=not caller)
    if found:
        whose = caller or "no caller"
        return "\n".join(f"{lane}: cancelled {_calls(n)} of {whose}" for lane, n in found.items())
    return f"nothing {f'of {caller!r}' if caller else 'without a caller'} waits in any lane"


def _how_to_end(task_id: str) -> str:
    celery = celery_command()
    return (
        f"one that streams is ended by: {celery} lanes stop {task_id}; any, on prefork and gevent,"
        f" by: {celery} control terminate SIGTERM {task_id}"
    )


def _times(count: int) -> str:
    return "" if count == 1 else f" ({_calls(count)} of it)"


def _calls(count: int) -> str:
    return "1 call" if count == 1 else f"{count} calls"
