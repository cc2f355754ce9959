"""``celery -A shop lanes``: the group of commands that Celery finds by its entry point."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from celery_lanes.cli import callers, control, dead, health, status, where
from celery_lanes.cli.check import check_app
from celery_lanes.cli.exits import EXIT_CODES, REFUSED, USAGE, CommandFailed, LanesGroup
from celery_lanes.cli.findings import exit_code, lines
from celery_lanes.cli.route import route_of
from celery_lanes.config import durations
from celery_lanes.store.checks import MAX_SLOTS, check_weight
from celery_lanes.store.memory.leases import DEAD_LETTERS

if TYPE_CHECKING:
    from celery_lanes.app import Lanes


class Slots(click.ParamType[int | None]):
    """A number of slots, or "default" for what the file says."""

    name = "N|default"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        """Read it; ``None`` is the default."""
        if value == "default":
            return None
        if str(value).isascii() and str(value).isdigit() and 1 <= int(value) <= MAX_SLOTS:
            return int(value)
        return self.fail(f'expected a positive integer or "default", got {value!r}', param, ctx)


class Weight(click.ParamType[float | None]):
    """A weight, or "default" for what the file says."""

    name = "W|default"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | None:
        """Read it; ``None`` is the default."""
        if value == "default":
            return None
        try:
            check_weight("", weight := float(value))
        except ValueError:
            self.fail(f'expected a number, 0.001 to 1000, or "default", got {value!r}', param, ctx)
        return weight


class Rate(click.ParamType[str | None]):
    """A rate, "none", or "default" for what the file says."""

    name = "RATE|none|default"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | None:
        """Read it; ``None`` is the default, "" is none."""
        if value in {"default", "none"}:
            return None if value == "default" else ""
        try:
            durations.bucket(value)
        except ValueError:
            words = 'a rate such as "60/m", "none" or "default"'
            self.fail(f"expected {words}, got {value!r}", param, ctx)
        return str(value)


@click.group(cls=LanesGroup, epilog=EXIT_CODES)
def lanes(**_: Any) -> None:
    """See and steer the lanes of an app: celery -A shop lanes status."""


@lanes.command(name="status")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of objects.")
@click.pass_context
def _status(ctx: click.Context, /, *, as_json: bool) -> None:
    """Show cap, running and waiting calls of each lane."""
    snapshots = status.read(_lanes(ctx))
    if as_json:
        click.echo(status.to_json(snapshots))
    else:
        status.print_table(status.table(snapshots), is_plain=ctx.obj.no_color)


@lanes.command(name="route")
@click.argument("model")
@click.option("--task", metavar="NAME", help="For a call of this task; it may name its lane.")
@click.pass_context
def _route(ctx: click.Context, /, model: str, task: str | None) -> None:
    """Say which lane serves MODEL (provider/model), and by which rule."""
    route = route_of(_lanes(ctx), model, task)
    if route is None:
        where = f" in a call of {task}" if task else ""
        raise CommandFailed(f"{model!r}{where} is routed to no lane", REFUSED)
    click.echo(f"lane   {route.lane}\nqueue  {route.queue}\nby     {route.reason}")


@lanes.command(name="set")
@click.argument("lane")
@click.option("--max", "slots", metavar="N|default", type=Slots(),
              help="Calls at once, cluster-wide.")  # fmt: skip
@click.option("--rate", metavar="RATE|none|default", type=Rate(),
              help='Limit in calls, such as "60/m".')  # fmt: skip
@click.option("--tokens", metavar="RATE|none|default", type=Rate(),
              help='Limit in cost, such as "100k/m".')  # fmt: skip
@click.option("--caller", metavar="NAME", help="Change this caller's weight and rate instead.")
@click.option("--weight", metavar="W|default", type=Weight(), help="Share of the caller.")
@click.pass_context
def _set(ctx: click.Context, /, lane: str, caller: str | None, **_: Any) -> None:
    """Change the limits of LANE, or of one caller in it, for all workers.

    At once, for what waits already, too; "default" goes back to the file's.
    """
    found, given = _lanes(ctx), _given(ctx)
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


@lanes.command(name="pause")
@click.argument("lane")
@click.option("--caller", metavar="NAME", help="Pause only this caller's calls.")
@click.pass_context
def _pause(ctx: click.Context, /, lane: str, caller: str | None) -> None:
    """Start no more calls of LANE.

    Those that run go on, and new ones are accepted.
    """
    found = _lanes(ctx)
    if caller is None:
        click.echo(control.pause(found, lane))
    else:
        click.echo(callers.pause(found, lane, caller))


@lanes.command(name="resume")
@click.argument("lane")
@click.option("--caller", metavar="NAME", help="Resume this caller, which was paused.")
@click.pass_context
def _resume(ctx: click.Context, /, lane: str, caller: str | None) -> None:
    """Start calls of LANE again."""
    found = _lanes(ctx)
    if caller is None:
        click.echo(control.resume(found, lane))
    else:
        click.echo(callers.resume(found, lane, caller))


@lanes.command(name="callers")
@click.argument("lane")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of objects.")
@click.pass_context
def _callers(ctx: click.Context, /, lane: str, *, as_json: bool) -> None:
    """Show weight, rate and waiting calls of the callers of LANE.

    Those that the file names, and those that something was set of.
    """
    found = callers.read(_lanes(ctx), lane)
    if as_json:
        click.echo(callers.to_json(found))
    else:
        status.print_table(callers.table(found), is_plain=ctx.obj.no_color)


@lanes.command(name="cancel")
@click.argument("task_id", required=False)
@click.option("--caller", help="Cancel all that waits of this caller instead.")
@click.option("--anonymous", is_flag=True, help="Cancel all that waits without a caller instead.")
@click.pass_context
def _cancel(
    ctx: click.Context, /, task_id: str | None, caller: str | None, *, anonymous: bool
) -> None:
    """Take a waiting call off its lane; its result becomes REVOKED."""
    if (task_id is not None) + (caller is not None) + anonymous != 1 or caller == "":
        raise click.UsageError("expected a TASK_ID, --caller NAME, or --anonymous")
    if task_id is not None:
        click.echo(control.cancel(_lanes(ctx), task_id))
    else:
        click.echo(control.cancel_caller(_lanes(ctx), caller or ""))


@lanes.command(name="where")
@click.argument("task_id")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_context
def _where(ctx: click.Context, /, task_id: str, *, as_json: bool) -> None:
    """Say where a call stands in its lane, when it starts, and why it waits."""
    position = _lanes(ctx).position(task_id)
    click.echo(where.to_json(position) if as_json else "\n".join(where.lines(position)))


@lanes.command(name="dead")
@click.argument("lane")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, DEAD_LETTERS),
              help="Show so many, the youngest first.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of objects.")
@click.option("--retry", "task_id", metavar="TASK_ID|all", help="Let these calls wait again.")
@click.pass_context
def _dead(
    ctx: click.Context, /, lane: str, limit: int, task_id: str | None, *, as_json: bool
) -> None:
    """Show the calls of LANE that were given up after max_leases lost leases.

    The youngest 1,000 are kept, for 7 days. A call that is tried again may run a second time: what
    took its workers down may have come after its work was done.
    """
    found = _lanes(ctx)
    if task_id is not None:
        click.echo(dead.retry(found, lane, task_id))
    elif as_json:
        click.echo(dead.to_json(dead.read(found, lane, limit)))
    else:
        letters = dead.read(found, lane, limit)
        status.print_table(dead.table(letters), is_plain=ctx.obj.no_color, width=dead.MIN_WIDTH)


@lanes.command(name="health")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of objects.")
@click.option("--clear", "name", metavar="TARGET", help="End its bench, and forget its failures.")
@click.pass_context
def _health(ctx: click.Context, /, name: str | None, *, as_json: bool) -> None:
    """Show the LLM targets that have failed of late, and those that are benched.

    TARGET is provider/model, or a provider: what all its models share, such as a used-up quota.
    """
    found = _lanes(ctx)
    if name is not None:
        click.echo(health.clear(found, name))
    elif as_json:
        click.echo(health.to_json(health.read(found)))
    else:
        status.print_table(health.table(health.read(found)), is_plain=ctx.obj.no_color)


@lanes.command(name="check")
@click.option("--strict", is_flag=True, help="Exit with 1 on warnings, too.")
@click.option("--timeout", default=1.0, show_default=True, help="Seconds to wait for workers.")
@click.pass_context
def _check(ctx: click.Context, /, *, strict: bool, timeout: float) -> None:
    """Look for what would break a promise.

    In the configuration, the store, the tasks' limits and the workers. Exit code 0 without errors
    (there may be warnings), 1 with.
    """
    findings = check_app(_lanes(ctx), timeout_s=timeout)
    for line in lines(findings):
        click.echo(line)
    ctx.exit(exit_code(findings, is_strict=strict))


def _lanes(ctx: click.Context) -> Lanes:
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
