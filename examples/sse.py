"""Replies in the browser as they come: FastAPI, server-sent events, and a reader who comes back.

    celery -A examples.sse worker -Q lanes.ollama -c 2
    uvicorn examples.sse:web --port 8000
    python examples/sse.py

The last asks, loses its connection, and reads on where it was: as a browser's EventSource does, by
the header ``Last-Event-ID``. $SSE_URL names another server.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

import httpx
from celery import Celery
from fastapi import FastAPI, Header, HTTPException
from fastapi.responses import StreamingResponse

from celery_lanes import Lanes
from celery_lanes.streams import Reader
from celery_lanes.tasks import generate

app = Celery("sse", broker="redis://localhost/0", backend="redis://localhost/1")
app.set_current()  # generate is a shared task: it belongs to the current app
lanes = Lanes(app, "config/lanes.toml")
web = FastAPI()

PING_S = 15.0
"""Some proxies cut a connection that is silent for longer."""


@web.post("/replies")
async def ask(prompt: str, caller: str) -> dict[str, str]:
    """Publish a call; its reply is read at ``/replies/ID``."""
    publish = generate.s("ollama/llama3.1:8b", prompt).set(stream=True, caller=caller)
    return {"id": (await asyncio.to_thread(publish.apply_async)).id}


@web.get("/replies/{task_id}")
async def read(
    task_id: str, last_event_id: Annotated[str | None, Header()] = None
) -> StreamingResponse:
    """Send what comes; who comes back with the last event's id is sent what followed it."""
    try:
        stream = lanes.stream(task_id, after=last_event_id or None, timeout=PING_S)
    except ValueError as error:
        raise HTTPException(400, str(error)) from None
    return StreamingResponse(events(stream), media_type="text/event-stream")


@web.delete("/replies/{task_id}")
async def stop(task_id: str) -> None:
    """Stop writing: the provider is cut off, and what had come is the result."""
    await asyncio.to_thread(lanes.stop, task_id)


async def events(stream: Reader) -> AsyncIterator[str]:
    """Write server-sent events: each with its id, its type, and its JSON."""
    async with stream:
        while True:
            try:
                event = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError:
                yield ": still here\n\n"
                continue
            yield f"id: {event.id}\nevent: {event.type}\ndata: {event.data}\n\n"


def main() -> None:
    """Ask, lose the connection after the first words, and read the rest."""
    url = os.environ.get("SSE_URL", "http://localhost:8000")
    with httpx.Client(base_url=url, timeout=60) as client:
        asked = client.post("/replies", params={"prompt": "Count to three", "caller": "ann"})
        place = f"/replies/{asked.json()['id']}"
        last_id = ""
        for event_id, kind, data in received(client, place):
            print(f"{kind}: {data}")
            last_id = event_id
            if kind == "text":
                break
        print("-- lost, and back --")
        for _, kind, data in received(client, place, last_id):
            print(f"{kind}: {data}")


def received(client: httpx.Client, place: str, last_id: str = "") -> Iterator[tuple[str, str, str]]:
    """Read server-sent events: id, type, data."""
    headers = {"Last-Event-ID": last_id} if last_id else {}
    with client.stream("GET", place, headers=headers) as response:
        fields: dict[str, str] = {}
        for line in response.iter_lines():
            name, _, value = line.partition(": ")
            if name:
                fields[name] = value
            elif "id" in fields:
                yield fields["id"], fields["event"], fields["data"]
                fields = {}


if __name__ == "__main__":
    main()
