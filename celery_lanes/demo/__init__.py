"""The demo: one heavy caller and two light ones on a capped lane, under fair and under FIFO."""

from celery_lanes.demo.options import DemoOptions
from celery_lanes.demo.run import run_demo

__all__ = ["DemoOptions", "run_demo"]
