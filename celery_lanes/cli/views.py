"""The commands that show how things stand, and change nothing."""

from __future__ import annotations

import click

from celery_lanes.cli import callers, route, running, status, where
from celery_lanes.cli.check import check_app
from celery_lanes.cli.console import open_console, print_table
from celery_lanes.cli.context import lanes_of
from celery_lanes.cli.exits import REFUSED, CommandFailed
from celery_lanes.cli.findings import exit_code, lines
from celery_lanes.store.checks import MAX_LEASES


@click.command(name="status")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of objects.")
@click.pass_context
def status_command(ctx: click.Context, /, *, as_json: bool) -> None:
    """Show cap, running and waiting calls of each lane."""
    found = lanes_of(ctx)
    snapshots = status.read(found)
    if as_json:
        click.echo(status.to_json(snapshots))
    else:
        console = open_console(is_plain=ctx.obj.no_color)
        status.show(console, snapshots, status.caps(found, snapshots))


@click.command(name="callers")
@click.argument("lane")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of objects.")
@click.pass_context
def callers_command(ctx: click.Context, /, lane: str, *, as_json: bool) -> None:
    """Show weight, rate and waiting calls of the callers of LANE.

    Those with the most calls waiting first; also those that the file names, or that something was
    set of. In a fifo lane all wait in one line, and nobody is shown.
    """
    found = callers.read(lanes_of(ctx), lane)
    if as_json:
        click.echo(callers.to_json(found))
    elif found:
        print_table(callers.table(found), is_plain=ctx.obj.no_color)
        click.echo(callers.rest(found), nl=False)
    else:
        click.echo(f"{lane}: no caller waits by name, nor was anything said or set of one")


@click.command(name="running")
@click.argument("lane")
@click.option("--limit", default=MAX_LEASES, show_default=True, type=click.IntRange(1, MAX_LEASES),
              help="Show so many that hold a slot.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of objects.")
@click.pass_context
def running_command(ctx: click.Context, /, lane: str, limit: int, *, as_json: bool) -> None:
    """Show the running calls of LANE, and who has them.

    Those that have run longest first. What holds a slot outside a task is a "(slot)"; "no slot" is
    a stream that runs on without one.
    """
    lanes = lanes_of(ctx)
    found = running.read(lanes, lane, limit)
    if as_json:
        click.echo(running.to_json(found))
    elif found:
        print_table(running.table(found), is_plain=ctx.obj.no_color)
        click.echo(running.rest(lanes, lane, found), nl=False)
    else:
        click.echo(f"{lane}: nothing runs")


@click.command(name="where")
@click.argument("task_id")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_context
def where_command(ctx: click.Context, /, task_id: str, *, as_json: bool) -> None:
    """Say where a call stands, when it starts, why it waits."""
    position = lanes_of(ctx).position(task_id)
    click.echo(where.to_json(position) if as_json else "\n".join(where.lines(position)))


@click.command(name="route")
@click.argument("model")
@click.option("--task", metavar="NAME", help="For a call of this task; it may name its lane.")
@click.pass_context
def route_command(ctx: click.Context, /, model: str, task: str | None) -> None:
    """Say which lane serves MODEL (provider/model), and by which rule.

    Of several ("a/x,b/y", or an alias) also where it is asked next, if nobody answers there.
    """
    lanes = lanes_of(ctx)
    found = route.route_of(lanes, model, task)
    if found is None:
        raise CommandFailed(route.unrouted(lanes, model, task), REFUSED)
    click.echo(f"lane   {found.lane}\nqueue  {found.queue}\nby     {found.reason}")
    for note in route.notes(lanes, model, found):
        click.echo(note)


@click.command(name="check")
@click.option("--strict", is_flag=True, help="Exit with 1 on warnings, too.")
@click.option("--timeout", default=1.0, show_default=True, help="Seconds to wait for workers.")
@click.pass_context
def check_command(ctx: click.Context, /, *, strict: bool, timeout: float) -> None:
    """Look for what would break a promise.

    In the configuration, the store, the tasks' limits and the workers. Exit code 0 without errors
    (there may be warnings), 1 with.
    """
    findings = check_app(lanes_of(ctx), timeout_s=timeout)
    for line in lines(findings):
        click.echo(line)
    ctx.exit(exit_code(findings, is_strict=strict))
