"""Exit codes that scripts can use, and the errors that end a command with them."""

from __future__ import annotations

from typing import IO, Any

import click

from celery_lanes.cli.lazy import LazyGroup
from celery_lanes.errors import ConfigError, LanesError, StoreUnavailable

REFUSED = 1
USAGE = 2
STORE_AWAY = 3

_CHECK = "; look at its server, and at [store] url (or $CELERY_LANES_STORE_URL)"

EXIT_CODES = """\b
Exit codes:
  0  done
  1  refused: the call is not waiting, the model has no lane, `check` found errors
  2  usage: unknown lane or option, broken configuration, an app without lanes
  3  the lane store cannot be reached; to repeat the command does no harm
"""


class CommandFailed(click.ClickException):
    """A command could not do what was asked."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc] # click reads it from the instance

    def show(self, file: IO[Any] | None = None) -> None:
        """Print each line of the message as an error of its own."""
        for line in self.message.splitlines():
            click.echo(f"celery lanes: {line}", err=file is None, file=file)


class LanesGroup(LazyGroup):
    """A group of commands whose errors are one clear line and an exit code, never a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except StoreUnavailable as error:
            raise CommandFailed(f"{str(error).rstrip('.')}{_CHECK}", STORE_AWAY) from error
        except LanesError as error:
            code = USAGE if isinstance(error, ConfigError) else REFUSED
            raise CommandFailed(str(error), code) from error
