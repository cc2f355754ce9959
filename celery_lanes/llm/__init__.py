"""LLM calls: what is asked and answered, and who serves ``provider/model``."""

from celery_lanes.llm.capabilities import Capabilities
from celery_lanes.llm.chains.chain import Chain
from celery_lanes.llm.chains.effects import ChainConfig, Effect, effect_of
from celery_lanes.llm.chains.events import FailoverEvent
from celery_lanes.llm.environment import Environment
from celery_lanes.llm.ledger import Attempt
from celery_lanes.llm.messages import File, Image, Message, Reasoning, Text, ToolCall, ToolResult
from celery_lanes.llm.provider import Provider
from celery_lanes.llm.providers.fake import FakeProvider
from celery_lanes.llm.registry import Registry
from celery_lanes.llm.reply import Done, ReasoningDelta, Reply, TextDelta, ToolCallDelta, Usage
from celery_lanes.llm.request import Request, Schema, Tool, ToolName
from celery_lanes.llm.stream import Stream
from celery_lanes.llm.target import Target
from celery_lanes.store.health import HealthConfig, HealthStore
from celery_lanes.store.memory.health import MemoryHealth
from celery_lanes.store.quota import Quota

__all__ = [
    "Attempt",
    "Capabilities",
    "Chain",
    "ChainConfig",
    "Done",
    "Effect",
    "Environment",
    "FailoverEvent",
    "FakeProvider",
    "File",
    "HealthConfig",
    "HealthStore",
    "Image",
    "MemoryHealth",
    "Message",
    "Provider",
    "Quota",
    "Reasoning",
    "ReasoningDelta",
    "Registry",
    "Reply",
    "Request",
    "Schema",
    "Stream",
    "Target",
    "Text",
    "TextDelta",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolName",
    "ToolResult",
    "Usage",
    "effect_of",
]
