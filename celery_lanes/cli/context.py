"""The app that ``celery -A`` names, as the commands find it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from celery_lanes.cli.exits import USAGE, CommandFailed

if TYPE_CHECKING:
    from celery_lanes.app import Lanes


def lanes_of(ctx: click.Context) -> Lanes:
    """Give the app's lanes, all its task modules being imported."""
    app = ctx.obj.app
    found: Lanes | None = getattr(app, "lanes", None)
    if found is None:
        name = getattr(app, "main", None) or "default"
        raise CommandFailed(
            f"the Celery app {name!r} has no lanes; name one that has: celery -A shop lanes",
            USAGE,
        )
    app.loader.import_default_modules()
    app.finalize()
    return found
