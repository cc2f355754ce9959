"""A Django producer: publishes a good and a bad call, and tells how they end."""

from __future__ import annotations

import json

import django

from celery_lanes import CallInfo


def main() -> dict[str, object]:
    django.setup()
    from tests.integration import shop

    good = shop.echo.delay("ollama/x", 1)
    bad = shop.fail.apply_async(("ollama/x",), caller="alice")
    value = good.get(timeout=20)
    error = bad.get(timeout=20, propagate=False)
    info = CallInfo.from_error(error)
    return {"value": value, "error": repr(error), "caller": info and info.caller}


if __name__ == "__main__":
    print(json.dumps(main()))  # noqa: T201 # the test reads it
