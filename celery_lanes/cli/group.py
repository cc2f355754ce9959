"""``celery -A shop lanes``: the group of commands that Celery finds by its entry point."""

from __future__ import annotations

from typing import Any

import click

from celery_lanes.cli.exits import EXIT_CODES, LanesGroup
from celery_lanes.cli.repairs import dead_command, health_command
from celery_lanes.cli.steering import (
    cancel_command,
    pause_command,
    resume_command,
    set_command,
    stop_command,
)
from celery_lanes.cli.views import (
    callers_command,
    check_command,
    route_command,
    status_command,
    where_command,
)

COMMANDS = (
    callers_command,
    cancel_command,
    check_command,
    dead_command,
    health_command,
    pause_command,
    resume_command,
    route_command,
    set_command,
    status_command,
    stop_command,
    where_command,
)


@click.group(cls=LanesGroup, epilog=EXIT_CODES)
def lanes(**_: Any) -> None:
    """See and steer the lanes of an app: celery -A shop lanes status."""


for command in COMMANDS:
    lanes.add_command(command)
