"""``celery -A shop lanes``: the group of commands that Celery finds by its entry point."""

from __future__ import annotations

from typing import Any

import click

from celery_lanes.cli.exits import EXIT_CODES, LanesGroup

COMMANDS = {
    "callers": "celery_lanes.cli.views:callers_command",
    "cancel": "celery_lanes.cli.steering:cancel_command",
    "check": "celery_lanes.cli.views:check_command",
    "dead": "celery_lanes.cli.repairs:dead_command",
    "health": "celery_lanes.cli.repairs:health_command",
    "pause": "celery_lanes.cli.steering:pause_command",
    "resume": "celery_lanes.cli.steering:resume_command",
    "route": "celery_lanes.cli.views:route_command",
    "running": "celery_lanes.cli.views:running_command",
    "set": "celery_lanes.cli.steering:set_command",
    "status": "celery_lanes.cli.views:status_command",
    "stop": "celery_lanes.cli.steering:stop_command",
    "where": "celery_lanes.cli.views:where_command",
}


@click.group(cls=LanesGroup, homes=COMMANDS, epilog=EXIT_CODES)
def lanes(**_: Any) -> None:
    """See and steer the lanes of an app: celery -A shop lanes status."""
