"""The command line: ``celery -A shop lanes ...`` and ``celery-lanes``."""

from celery_lanes.cli.group import lanes
from celery_lanes.cli.main import main

__all__ = ["lanes", "main"]
