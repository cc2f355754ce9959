"""What lanes, callers, aliases and specs may be called."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from celery_lanes.config.complaints import expected
from celery_lanes.errors import SpecError
from celery_lanes.llm.spec import check_alias
from celery_lanes.store.calls import MAX_CALLER_BYTES

MAX_NAME_BYTES = 100
A_NAME = f"a name of 1 to {MAX_NAME_BYTES} bytes without whitespace, commas or any of {{}}[]*?"
_UNFIT = re.compile(r"[\s\x00-\x1f\x7f-\x9f{}\[\]*?,]")  # braces are the store's hash tags


def is_lane_name(text: object) -> bool:
    """Tell whether the store and every broker can take the name."""
    return (
        isinstance(text, str)
        and 0 < len(text.encode(errors="replace")) <= MAX_NAME_BYTES
        and not _UNFIT.search(text)
    )


@lru_cache(maxsize=1000)
def fit_name(text: str) -> str:
    """Make a lane's name of any text; "" of none."""
    fit = _UNFIT.sub("-", text).encode(errors="replace")[:MAX_NAME_BYTES]
    return fit.decode(errors="ignore")


def _checked_name(name: str) -> str:
    if not is_lane_name(name):
        raise expected(A_NAME)
    return name


def _checked_family(pattern: str) -> str:
    _checked_name(re.sub(r"[\[\]*?]", "-", pattern))
    return pattern


def _checked_caller(caller: str) -> str:
    if len(caller.encode(errors="replace")) > MAX_CALLER_BYTES:
        raise expected(f"a caller's name of up to {MAX_CALLER_BYTES} bytes")
    return caller


def _checked_alias(name: str) -> str:
    try:
        return check_alias(name)
    except SpecError:
        raise expected("a word without / and comma") from None


def _checked_spec(spec: object) -> str:
    if not isinstance(spec, str):
        raise expected('models and aliases, such as "ollama/llama3.1:8b,openai/gpt-5-mini"')
    return spec


Name = Annotated[str, AfterValidator(_checked_name)]
Family = Annotated[str, AfterValidator(_checked_family)]
Caller = Annotated[str, AfterValidator(_checked_caller)]
Alias = Annotated[str, AfterValidator(_checked_alias)]
Spec = Annotated[str, BeforeValidator(_checked_spec)]
