"""``celery-lanes``: what needs no app."""

from __future__ import annotations

from importlib.metadata import version

import click

from celery_lanes.cli.chaos import chaos
from celery_lanes.errors import StoreUnavailable


@click.group()
@click.version_option(package_name="celery-lanes", message="%(version)s")
def main() -> None:
    """Lanes for LLM calls under Celery; the lanes of an app: celery -A shop lanes."""


@main.command(name="version")
def _version() -> None:
    """Print the version."""
    click.echo(version("celery-lanes"))


@main.command(name="demo")
@click.option("--calls", default=300, show_default=True, type=click.IntRange(20, 10_000),
              help="Calls of the heavy caller.")  # fmt: skip
@click.option("--cap", default=4, show_default=True, type=click.IntRange(1, 64),
              help="Calls at once that the lane allows.")  # fmt: skip
@click.option("--service-ms", default=100, show_default=True, type=click.IntRange(1, 10_000),
              help="How long the stub takes for one call.")  # fmt: skip
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 8),
              help="Worker processes that share the lane.")  # fmt: skip
@click.pass_context
def _demo(ctx: click.Context, calls: int, cap: int, service_ms: int, workers: int) -> None:
    """Show the main job on this machine, within a minute.

    One heavy caller and two light ones on a capped lane, under fair and then under FIFO.

    Starts everything it needs (a Valkey server, an HTTP server in place of an LLM, real worker
    processes) and ends it again. Exit code 1 if the cap was exceeded or a call failed.
    """
    from celery_lanes.demo import DemoOptions, run_demo  # noqa: PLC0415 # every celery command loads this

    options = DemoOptions(calls=calls, cap=cap, service_ms=service_ms, workers=workers)
    try:
        ctx.exit(run_demo(options))
    except StoreUnavailable as error:  # there is no server to start
        raise click.ClickException(str(error)) from error


main.add_command(chaos)
