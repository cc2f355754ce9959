"""foreman: a private daemon in front of slow local models, which speaks as Ollama does."""

from __future__ import annotations

from celery_lanes.llm.dsn import Dsn
from celery_lanes.llm.http.client import Transport
from celery_lanes.llm.http.remote import HttpProvider
from celery_lanes.llm.providers.ollama import ollama_provider

TIMEOUT_S = 1800.0
"""How long a call may take: it may wait for a model to be loaded, and for those before it."""


def foreman_provider(name: str, dsn: Dsn, *, transport: Transport | None = None) -> HttpProvider:
    """Make a provider of a foreman; the DSN's token goes out as a bearer token."""
    return ollama_provider(name, dsn, timeout_s=TIMEOUT_S, transport=transport)
