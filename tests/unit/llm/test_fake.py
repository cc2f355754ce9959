from __future__ import annotations

import pytest

from celery_lanes.errors import RateLimited, StreamInterrupted, TransientError, Unsupported
from celery_lanes.llm.capabilities import Capabilities
from celery_lanes.llm.messages import Message
from celery_lanes.llm.provider import Provider
from celery_lanes.llm.providers.fake import FakeProvider
from celery_lanes.llm.registry import Registry
from celery_lanes.llm.reply import Done, Reply, TextDelta, ToolCallDelta, Usage
from celery_lanes.llm.request import Request, Tool

ASK = Request(model="any", messages=(Message(role="user", content="hello you"),))


def test_it_is_a_provider():
    assert isinstance(FakeProvider(), Provider)


def test_it_echoes_when_its_script_is_over():
    fake = FakeProvider("m1", "first")

    assert [fake.generate(ASK, timeout_s=1).text for _ in range(2)] == ["first", "hello you"]
    assert fake.requests == [ASK, ASK]


def test_a_script_may_hold_replies_and_what_makes_them():
    reply = Reply(text="x", usage=Usage(input_tokens=1, output_tokens=2), model="big")
    fake = FakeProvider("m1", reply)
    fake.script(lambda request: request.model)

    assert fake.generate(ASK, timeout_s=1) == reply
    assert fake.generate(ASK, timeout_s=1).text == "any"


@pytest.mark.parametrize("mode", ["generate", "stream"])
def test_a_script_may_hold_errors(mode):
    fake = FakeProvider("m1", RateLimited("slow down", 429, 7.0))

    with pytest.raises(RateLimited, match="slow down"):
        getattr(fake, mode)(ASK, timeout_s=1)


def test_a_stream_brings_its_pieces_and_the_whole():
    call = ToolCallDelta(index=0, id="c", name="look", arguments="{}")
    fake = FakeProvider("m1", ["he", "llo", call])

    *pieces, done = fake.stream(ASK, timeout_s=1)

    assert pieces == [TextDelta(text="he"), TextDelta(text="llo"), call]
    assert isinstance(done, Done)
    assert (done.reply.text, done.reply.tool_calls[0].name) == ("hello", "look")


def test_a_stream_may_break_in_its_midst():
    stream = FakeProvider("m1", ["he", TransientError("cut")]).stream(ASK, timeout_s=1)

    assert next(stream) == TextDelta(text="he")
    with pytest.raises(StreamInterrupted, match="cut"):
        next(stream)
    assert stream.partial.text == "he"


def test_it_counts_the_streams_that_were_closed():
    fake = FakeProvider("m1")

    with fake.stream(ASK, timeout_s=1) as stream:
        next(stream)

    assert fake.closed_streams == 1


def test_it_can_do_what_it_is_told():
    fake = FakeProvider("m1", capabilities=Capabilities(tools=False))

    with pytest.raises(Unsupported, match="m1/any has no place for tools"):
        fake.generate(ASK.model_copy(update={"tools": (Tool(name="look"),)}), timeout_s=1)


def test_it_is_known_by_name_and_scripted_there():
    registry = Registry({})
    registry.provider("fake").script("hi")

    (target,) = registry.parse("fake/any")

    assert target.generate(ASK).text == "hi"
