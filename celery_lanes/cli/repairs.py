"""The commands that show what has gone wrong, and let it be tried again."""

from __future__ import annotations

from collections.abc import Sequence

import click

from celery_lanes.cli import dead, health
from celery_lanes.cli.console import print_table
from celery_lanes.cli.context import lanes_of
from celery_lanes.store.calls import DeadLetter
from celery_lanes.store.memory.leases import DEAD_LETTERS


@click.command(name="dead")
@click.argument("lane")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, DEAD_LETTERS),
              help="Show so many, the youngest first.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of objects.")
@click.option("--retry", "task_id", metavar="TASK_ID|all", help="Let these calls wait again.")
@click.pass_context
def dead_command(
    ctx: click.Context, /, lane: str, limit: int, task_id: str | None, *, as_json: bool
) -> None:
    """Show the calls of LANE that were given up; try them again.

    They have lost max_leases leases. The youngest 1,000 are kept, for 7 days. A call that is tried
    again may run a second time: what took its workers down may have come after its work was done.
    """
    found = lanes_of(ctx)
    if task_id is not None:
        click.echo(dead.retry(found, lane, task_id))
    elif as_json:
        click.echo(dead.to_json(dead.read(found, lane, limit)))
    else:
        _show_dead(ctx, lane, dead.read(found, lane, limit))


def _show_dead(ctx: click.Context, lane: str, letters: Sequence[DeadLetter]) -> None:
    if letters:
        print_table(dead.table(letters), is_plain=ctx.obj.no_color)
    else:
        click.echo(f"{lane} has no dead letters")


@click.command(name="health")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of objects.")
@click.option("--clear", "name", metavar="TARGET", help="End its bench, and forget its failures.")
@click.pass_context
def health_command(ctx: click.Context, /, name: str | None, *, as_json: bool) -> None:
    """Show the LLM targets that have failed of late.

    Those that are benched, too. TARGET is provider/model, or a provider: what all its models share,
    such as a used-up quota.
    """
    found = lanes_of(ctx)
    if name is not None:
        click.echo(health.clear(found, name))
    elif as_json:
        click.echo(health.to_json(health.read(found)))
    elif conditions := health.read(found):
        print_table(health.table(conditions), is_plain=ctx.obj.no_color)
    else:
        click.echo("no LLM target has failed of late")
