"""Replies that come piece by piece from a worker to readers anywhere: ``lanes.stream(result)``."""

from celery_lanes.llm.reply import ReasoningDelta, TextDelta, ToolCallDelta
from celery_lanes.streams.events import Began, Cancelled, Event, Failed, Finished, Gap
from celery_lanes.streams.reader import Reader

__all__ = [
    "Began",
    "Cancelled",
    "Event",
    "Failed",
    "Finished",
    "Gap",
    "Reader",
    "ReasoningDelta",
    "TextDelta",
    "ToolCallDelta",
]
