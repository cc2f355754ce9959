"""What all words of an LLM call are: frozen values that travel as JSON."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError


class Value(BaseModel):
    """Something that a caller writes: unknown fields are refused, and errors do not quote it."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Told(BaseModel):
    """Something that a provider told: what a newer version has added is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


def mistakes(error: ValidationError) -> str:
    """Word what was wrong, without what was given: it may be a prompt."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        f"{'.'.join(map(str, one['loc'])) or 'the whole'}: {one['msg'].lower()}" for one in found
    )
