"""The commands that steer lanes, and take calls off them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from celery_lanes.cli import callers, control
from celery_lanes.cli.context import lanes_of
from celery_lanes.cli.params import Rate, Slots, Weight


@click.command(name="set")
@click.argument("lane")
@click.option("--max", "--max-concurrent", "slots", metavar="N|default", type=Slots(),
              help="Calls at once, cluster-wide.")  # fmt: skip
@click.option("--rate", metavar="RATE|none|default", type=Rate(),
              help='Limit in calls, such as "60/m".')  # fmt: skip
@click.option("--tokens", metavar="RATE|none|default", type=Rate(),
              help='Limit in cost, such as "100k/m".')  # fmt: skip
@click.option("--caller", metavar="NAME", help="Change this caller's weight and rate instead.")
@click.option("--weight", metavar="W|default", type=Weight(), help="Share of the caller.")
@click.pass_context
def set_command(ctx: click.Context, /, lane: str, caller: str | None, **_: Any) -> None:
    """Change limits of LANE, or of one caller in it, for all workers.

    At once, for what waits already, too; "default" goes back to the file's.
    """
    found, given = lanes_of(ctx), _given(ctx)
    lines = _CALLER_CHANGES if caller is not None else _LANE_CHANGES
    if not given or not given.keys() <= lines.keys():
        raise click.UsageError(
            "expected --max, --rate or --tokens, or with --caller: --weight or --rate"
        )
    whose = (lane,) if caller is None else (lane, caller)
    for name, value in given.items():
        click.echo(lines[name](found, *whose, value))


_LANE_CHANGES: dict[str, Callable[..., str]] = {
    "slots": control.set_slots,
    "rate": control.set_rate,
    "tokens": control.set_tokens,
}
_CALLER_CHANGES: dict[str, Callable[..., str]] = {
    "weight": callers.set_weight,
    "rate": callers.set_rate,
}


def _given(ctx: click.Context) -> dict[str, Any]:
    """Give the options that stand on the command line; "default" is one, and is ``None``."""
    by_user = click.core.ParameterSource.COMMANDLINE
    changes = {*_LANE_CHANGES, *_CALLER_CHANGES}
    return {
        n: v
        for n, v in ctx.params.items()
        if n in changes and ctx.get_parameter_source(n) is by_user
    }


@click.command(name="pause")
@click.argument("lane")
@click.option("--caller", metavar="NAME", help="Pause only this caller's calls.")
@click.pass_context
def pause_command(ctx: click.Context, /, lane: str, caller: str | None) -> None:
    """Start no more calls of LANE.

    Those that run go on, and new ones are accepted.
    """
    found = lanes_of(ctx)
    if caller is None:
        click.echo(control.pause(found, lane))
    else:
        click.echo(callers.pause(found, lane, caller))


@click.command(name="resume")
@click.argument("lane")
@click.option("--caller", metavar="NAME", help="Resume this caller, which was paused.")
@click.pass_context
def resume_command(ctx: click.Context, /, lane: str, caller: str | None) -> None:
    """Start calls of LANE again."""
    found = lanes_of(ctx)
    if caller is None:
        click.echo(control.resume(found, lane))
    else:
        click.echo(callers.resume(found, lane, caller))


@click.command(name="cancel")
@click.argument("task_id", required=False)
@click.option("--caller", help="Cancel all that waits of this caller instead.")
@click.option("--anonymous", is_flag=True, help="Cancel all that waits without a caller instead.")
@click.pass_context
def cancel_command(
    ctx: click.Context, /, task_id: str | None, caller: str | None, *, anonymous: bool
) -> None:
    """Take a waiting call off its lane; its result becomes REVOKED."""
    if (task_id is not None) + (caller is not None) + anonymous != 1 or caller == "":
        raise click.UsageError("expected a TASK_ID, --caller NAME, or --anonymous")
    if task_id is not None:
        click.echo(control.cancel(lanes_of(ctx), task_id))
    else:
        click.echo(control.cancel_caller(lanes_of(ctx), caller or ""))


@click.command(name="stop")
@click.argument("task_id")
@click.option("--drain", is_flag=True, help="Tell its readers, but let the provider end.")
@click.pass_context
def stop_command(ctx: click.Context, /, task_id: str, *, drain: bool) -> None:
    """End a call with stream=True; one that waits is cancelled.

    Its provider is cut off, and its result is what had come, on every pool.
    """
    click.echo(control.stop(lanes_of(ctx), task_id, drain=drain))
