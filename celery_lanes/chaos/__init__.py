"""The chaos suite: a load on a lane while everything around it breaks, and an observer outside."""

from celery_lanes.chaos.options import ChaosOptions
from celery_lanes.chaos.run import run_chaos

__all__ = ["ChaosOptions", "run_chaos"]
