"""Lanes for LLM calls under Celery: capped across the cluster, fair between callers, attributed."""

from celery_lanes.app import Lanes
from celery_lanes.callinfo import CallInfo, call_context
from celery_lanes.config.settings import Settings
from celery_lanes.errors import LanesError, Preempted
from celery_lanes.position import Position
from celery_lanes.publish.submission import Submission

__all__ = [
    "CallInfo",
    "Lanes",
    "LanesError",
    "Position",
    "Preempted",
    "Settings",
    "Submission",
    "call_context",
]
