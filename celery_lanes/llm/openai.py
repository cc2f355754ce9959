"""Chat completions in OpenAI's format, which most providers and local servers speak."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from celery_lanes.errors import BadRequest, ConfigError, ProviderError, TransientError
from celery_lanes.llm.base import Reply, Request, Usage, estimate_input, estimate_tokens
from celery_lanes.llm.dsn import Dsn
from celery_lanes.llm.http import HttpClient, Transport

PATH = "/chat/completions"

MAX_TOKENS_FIELD = "max_tokens_field"
"""The DSN option that names the field for ``max_tokens``; see ``_default_field``."""

_OURS = frozenset({"model", "messages", "stream"})


class OpenAIProvider:
    """One account at one OpenAI-compatible server.

    Args:
        name: what stands before the slash in ``provider/model``.
        dsn: its address and key; takes the option ``max_tokens_field``.
        transport: an httpx transport, in tests.
    """

    def __init__(self, name: str, dsn: Dsn, *, transport: Transport | None = None) -> None:
        options = dict(dsn.options)
        self._max_tokens = options.pop(MAX_TOKENS_FIELD, "") or _default_field(dsn.base_url)
        if options:
            unknown = ", ".join(sorted(options))
            raise ConfigError(f"LLM_{name.upper()} knows no {unknown}, only {MAX_TOKENS_FIELD}")
        self._name = name
        self._http = HttpClient(name, dsn, transport=transport)

    def __repr__(self) -> str:
        return f"OpenAIProvider({self._name!r})"

    @property
    def name(self) -> str:
        """What stands before the slash in ``provider/model``."""
        return self._name

    def generate(
        self, request: Request, *, timeout_s: float, idempotency_key: str | None = None
    ) -> Reply:
        """Answer within ``timeout_s`` seconds, without retries. Raises ``ProviderError``.

        Usage that the server leaves out is estimated.
        """
        payload = self._http.post(
            PATH,
            self._body(request),
            model=request.model,
            timeout_s=timeout_s,
            idempotency_key=idempotency_key,
        )
        choice = _first_choice(payload)
        if choice is None:
            raise self._odd(request.model, payload)
        text = _text(choice)
        return Reply(
            text=text,
            usage=_usage(payload, request, text),
            model=_string(payload.get("model")) or request.model,
            finish_reason=_string(choice.get("finish_reason")),
        )

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def _body(self, request: Request) -> dict[str, Any]:
        if taken := sorted(_OURS & request.params.keys()):
            raise BadRequest(f"expected no {' or '.join(taken)} among the parameters")
        given = {self._max_tokens: request.max_tokens, "temperature": request.temperature}
        return {
            "model": request.model,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            **{field: value for field, value in given.items() if value is not None},
            **request.params,
        }

    def _odd(self, model: str, payload: object) -> ProviderError:
        """Name what came in place of a completion; some gateways send errors with status 200."""
        error = payload.get("error") if isinstance(payload, Mapping) else None
        if not error:
            kind = "no choices" if isinstance(payload, Mapping) else "no JSON object"
            return TransientError(f"{self._name}/{model} answered oddly: {kind} in the reply")
        code = error.get("code") if isinstance(error, Mapping) else None
        return self._http.failure(model, payload, status=code if isinstance(code, int) else None)


def _default_field(base_url: str) -> str:
    """OpenAI's newer models refuse ``max_tokens``; most other servers know nothing else."""
    is_openai = urlsplit(base_url).hostname == "api.openai.com"
    return "max_completion_tokens" if is_openai else "max_tokens"


def _first_choice(payload: object) -> Mapping[str, Any] | None:
    choices = payload.get("choices") if isinstance(payload, Mapping) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    is_choice = isinstance(first, Mapping) and isinstance(first.get("message"), Mapping)
    return first if is_choice else None


def _text(choice: Mapping[str, Any]) -> str:
    """Give the reply's text, also if it comes in parts; "" of a refusal or a tool call."""
    content = choice["message"].get("content")
    if not isinstance(content, list):
        return _string(content) or ""
    return "".join(_string(part.get("text")) or "" for part in content if isinstance(part, Mapping))


def _usage(payload: Mapping[str, Any], request: Request, text: str) -> Usage:
    told = payload.get("usage")
    told = told if isinstance(told, Mapping) else {}
    read, written = _count(told.get("prompt_tokens")), _count(told.get("completion_tokens"))
    return Usage(
        estimate_input(request.messages) if read is None else read,
        estimate_tokens(text) if written is None else written,
    )


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if value >= 0 else None


def _string(value: object) -> str | None:
    return value if isinstance(value, str) else None
