"""A group of commands that are imported when they are used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """A group that costs next to nothing to import, as every ``celery`` command does.

    Args:
        homes: "module:command" of each command, by its name.
        options: what ``click.Group`` takes.
    """

    def __init__(self, *, homes: Mapping[str, str], **options: Any) -> None:
        super().__init__(**options)
        self._homes = homes

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name them all."""
        return sorted({*super().list_commands(ctx), *self._homes})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Give a command by its name, ``None`` if there is none."""
        if (home := self._homes.get(cmd_name)) is None:
            return super().get_command(ctx, cmd_name)
        module, _, command = home.partition(":")
        found: click.Command = getattr(import_module(module), command)
        return found
