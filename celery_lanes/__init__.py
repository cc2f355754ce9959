"""Lanes for LLM calls under Celery: capped across the cluster, fair between callers, attributed.

A name is imported when it is first asked for: every ``celery`` command of an environment with this
package in it imports the package, to list its commands, and most of them have no lanes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery_lanes.app import Lanes
    from celery_lanes.callinfo import CallInfo, call_context
    from celery_lanes.config.settings import Settings
    from celery_lanes.errors import LanesError, Preempted
    from celery_lanes.position import Position
    from celery_lanes.publish.submission import Submission

__all__ = [
    "CallInfo",
    "Lanes",
    "LanesError",
    "Position",
    "Preempted",
    "Settings",
    "Submission",
    "call_context",
]

_HOMES = {
    "CallInfo": "callinfo",
    "Lanes": "app",
    "LanesError": "errors",
    "Position": "position",
    "Preempted": "errors",
    "Settings": "config.settings",
    "Submission": "publish.submission",
    "call_context": "callinfo",
}


if not TYPE_CHECKING:  # a type checker would believe any name of a module that has this

    def __getattr__(name: str) -> Any:
        if (home := _HOMES.get(name)) is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
