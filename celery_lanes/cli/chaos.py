"""``celery-lanes chaos``: the options of a chaos run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from celery_lanes.errors import ConfigError, LanesError


@click.command(name="chaos")
@click.option("--broker", metavar="rabbitmq|URL", help="rabbitmq: an embedded one (rabbitmq-server "
              "must be installed). A URL: your own broker, which is cut off but never restarted. "
              "Else an embedded Valkey.")  # fmt: skip
@click.option("--store", metavar="URL", help="Your own store, which is cut off but never "
              "restarted; else an embedded Valkey.")  # fmt: skip
@click.option("--minutes", default=2.0, show_default=True, type=click.FloatRange(0.2, 1440),
              help="How long faults happen; starting and draining come on top.")  # fmt: skip
@click.option("--seed", default=1, show_default=True, help="Gives the same load and plan again.")
@click.option("--calls", type=click.IntRange(1), help="Calls; else the lane is half busy.")
@click.option("--least-ms", default=20, show_default=True, type=click.IntRange(1),
              help="How long a call takes at least.")  # fmt: skip
@click.option("--most-ms", default=200, show_default=True, type=click.IntRange(1),
              help="How long a call takes at most.")  # fmt: skip
@click.option("--cap", default=6, show_default=True, type=click.IntRange(1, 64),
              help="Calls at once that the lane allows.")  # fmt: skip
@click.option("--workers", default=3, show_default=True, type=click.IntRange(1, 32),
              help="Worker processes that share the lane.")  # fmt: skip
@click.option("--processes", default=4, show_default=True, type=click.IntRange(1, 32),
              help="Pool processes of each worker.")  # fmt: skip
@click.option("--intake", default="store", show_default=True,
              type=click.Choice(["store", "broker"]), help="The lane's way in.")  # fmt: skip
@click.option("--lease-ttl", "lease_ttl_s", default=5.0, show_default=True,
              type=click.FloatRange(3, 600), help="Seconds.")  # fmt: skip
@click.option("--kills", type=click.IntRange(0), help="SIGKILLs of workers; else by the minutes.")
@click.option("--stops", type=click.IntRange(0), help="Warm and cold stops of workers.")
@click.option("--pauses", type=click.IntRange(0), help="SIGSTOPs for longer than a lease.")
@click.option("--store-restarts", type=click.IntRange(0), help="Restarts of an embedded store.")
@click.option("--broker-restarts", type=click.IntRange(0), help="Restarts of an embedded broker.")
@click.option("--cuts", type=click.IntRange(0), help="Cuts of all connections to a server.")
@click.option("--losses", type=click.IntRange(0), help="Losses of a server's answers.")
@click.option("--producer-kills", type=click.IntRange(0), help="SIGKILLs of who publishes.")
@click.option("--skew", "skew_s", default=30.0, show_default=True,
              type=click.FloatRange(0, 86400),
              help="Seconds that a worker's clock may be off; 0: all are true.")  # fmt: skip
@click.option("--jumps", type=click.IntRange(0), help="Jumps of workers' clocks.")
@click.option(
    "--json", type=click.Path(dir_okay=False, path_type=Path), help="Write the report here, too."
)
@click.option("--logs", type=click.Path(file_okay=False, path_type=Path),
              help="Keep the workers' logs here.")  # fmt: skip
@click.pass_context
def chaos(ctx: click.Context, /, **options: Any) -> None:
    """Break everything around a lane, and count what becomes of it.

    From outside, and under load. Workers are killed, stopped and paused, servers restarted and cut
    off, answers lost, clocks set wrong, after a plan that the seed reproduces. Exit code 1 if a
    call was lost, ran twice at once, exceeded the cap or ended more than once: docs/chaos.md says
    what each figure means.
    """
    from celery_lanes.chaos import ChaosOptions, run_chaos  # noqa: PLC0415 # every celery command loads this

    try:
        ctx.exit(run_chaos(ChaosOptions(**options)))
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    except LanesError as error:  # there is no server to start
        raise click.ClickException(str(error)) from error
