"""A call that says things, and how tests read them."""

from __future__ import annotations

import asyncio
import json

import pytest

from celery_lanes.llm.reply import TextDelta, Usage
from celery_lanes.store.memory.transcripts import MemoryTranscripts
from celery_lanes.store.transcripts import Draft, Entry, Mark
from celery_lanes.streams.events import Began, to_json
from celery_lanes.streams.reader import Reader

USAGE = Usage(input_tokens=1, output_tokens=2)


class Call:
    """A call that says things, and may have a result."""

    def __init__(self):
        self.transcripts = MemoryTranscripts()
        self.ending = ()
        self.stops = []
        self.runs = 0

    def run(self, *batches):
        self.runs += 1
        run, index = self.runs * 10, 0
        for batch in ((Began(attempt=self.runs),), *batches):
            events = [TextDelta(text=one) if isinstance(one, str) else one for one in batch]
            index += len(events)
            entry = Entry(Mark(run, index), self.runs, json.dumps([to_json(e) for e in events]))
            self.transcripts.write([Draft("t1", Mark(run), entry)])

    def keep_from(self, run, index):
        log = self.transcripts._logs["t1"]
        log.entries = [entry for entry in log.entries if entry.last >= Mark(run, index)]

    def reader(self, after=None, timeout_s=5):
        return Reader(
            "t1", self.transcripts, lambda: self.ending, self.stops.append,
            after=after, timeout_s=timeout_s,
        )  # fmt: skip


def in_loop(reader):
    async def read():
        return [event async for event in reader]

    return asyncio.run(read())


WAYS = pytest.mark.parametrize("read", [list, in_loop], ids=["for", "async_for"])


def told(events):
    return [event.text or event.type for event in events]
