"""What a model can be asked for at all."""

from __future__ import annotations

from celery_lanes.llm.messages import File, Image
from celery_lanes.llm.request import Request
from celery_lanes.llm.value import Value


class Capabilities(Value):
    """What the provider's way to ask has a place for; whether the model can is its own matter.

    Attributes:
        tools: functions that it may ask to have called.
        tool_choice: that it must call one, or a certain one.
        output: a JSON schema for the reply.
        images: pictures, as bytes.
        image_urls: pictures that the provider fetches.
        files: documents, as bytes.
        file_urls: documents that the provider fetches.
    """

    tools: bool = True
    tool_choice: bool = True
    output: bool = True
    images: bool = True
    image_urls: bool = True
    files: bool = True
    file_urls: bool = True

    def missing(self, request: Request) -> list[str]:
        """Name what the request needs and is not there, in alphabetical order."""
        return sorted(need for need in _needs(request) if not getattr(self, need))


def _needs(request: Request) -> set[str]:
    blobs = [p for m in request.messages for p in m.parts if isinstance(p, (Image, File))]
    needs = {f"{blob.type}_urls" if blob.url else f"{blob.type}s" for blob in blobs}
    asked = {
        "tools": bool(request.tools),
        "tool_choice": request.tool_choice not in {None, "auto", "none"},
        "output": request.output is not None,
    }
    return needs | {need for need, is_asked in asked.items() if is_asked}
