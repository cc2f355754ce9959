"""The providers that are known by name, and the kinds of API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Builtin:
    """A provider that is known by name.

    Attributes:
        base_url: its public address.
        key_variable: where its key is; ``None`` if it needs none.
        scheme: the kind of API.
    """

    base_url: str
    key_variable: str | None = None
    scheme: str = "openai"


BUILTINS: Mapping[str, Builtin] = MappingProxyType(
    {
        "anthropic": Builtin("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY", "anthropic"),
        "cerebras": Builtin("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
        "deepseek": Builtin("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
        "fake": Builtin("https://fake.invalid", None, "fake"),
        "fireworks": Builtin("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
        "gemini": Builtin(
            "https://generativelanguage.googleapis.com/v1beta", "GEMINI_API_KEY", "gemini"
        ),
        "groq": Builtin("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
        "litellm": Builtin("https://litellm.invalid", None, "litellm"),
        "mistral": Builtin("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
        "ollama": Builtin("http://localhost:11434", None, "ollama"),
        "ollama_cloud": Builtin("https://ollama.com", "OLLAMA_API_KEY", "ollama"),
        "openai": Builtin("https://api.openai.com/v1", "OPENAI_API_KEY"),
        "openrouter": Builtin("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
        "pydantic_ai": Builtin("https://pydantic-ai.invalid", None, "pydantic-ai"),
        "together": Builtin("https://api.together.xyz/v1", "TOGETHER_API_KEY"),
        "xai": Builtin("https://api.x.ai/v1", "XAI_API_KEY"),
    }
)

SCHEMES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(
            (name for name, known in BUILTINS.items() if known.scheme == "openai"),
            "celery_lanes.llm.providers.openai:openai_provider",
        ),
        "anthropic": "celery_lanes.llm.providers.anthropic:anthropic_provider",
        "fake": "celery_lanes.llm.providers.fake:fake_provider",
        "foreman": "celery_lanes.llm.providers.foreman:foreman_provider",
        "gemini": "celery_lanes.llm.providers.gemini:gemini_provider",
        "litellm": "celery_lanes.llm.providers.litellm:litellm_provider",
        "ollama": "celery_lanes.llm.providers.ollama:ollama_provider",
        "pydantic-ai": "celery_lanes.llm.providers.pydantic_ai:pydantic_ai_provider",
    }
)
"""DSN scheme to "module:factory"; these are imported when they are first used."""
