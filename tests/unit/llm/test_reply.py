from __future__ import annotations

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from celery_lanes.llm.assembly import Assembly
from celery_lanes.llm.messages import Message, Reasoning, Text, ToolCall
from celery_lanes.llm.reply import (
    Delta,
    Done,
    ReasoningDelta,
    Reply,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from celery_lanes.llm.request import Request

REQUEST = Request(model="small", messages=(Message(role="user", content="abcd"),))


class Animal(BaseModel):
    kind: str


def put_together(*pieces) -> Reply:
    assembly = Assembly(REQUEST)
    for piece in pieces:
        assembly.add(piece)
    return assembly.reply()


def test_texts_are_joined():
    assert put_together(TextDelta(text="he"), TextDelta(text="llo")).text == "hello"


def test_interleaved_calls_are_told_apart():
    reply = put_together(
        ToolCallDelta(index=1, id="b", name="look"),
        ToolCallDelta(index=0, id="a", name="go", arguments='{"to"'),
        ToolCallDelta(index=1, arguments="{}"),
        ToolCallDelta(index=0, arguments=':"x"}'),
    )

    assert reply.tool_calls == (
        ToolCall(id="a", name="go", arguments={"to": "x"}),
        ToolCall(id="b", name="look"),
    )


@pytest.mark.parametrize("arguments", ['{"to":', "[1]", "7"])
def test_arguments_that_are_no_object_are_kept_as_they_are(arguments):
    (call,) = put_together(ToolCallDelta(index=0, name="go", arguments=arguments)).tool_calls

    assert (call.id, call.arguments) == ("call_0", arguments)


def test_a_signature_ends_a_thought():
    reply = put_together(
        ReasoningDelta(text="h"),
        ReasoningDelta(text="m"),
        ReasoningDelta(signature="s1"),
        ReasoningDelta(signature="s2", is_redacted=True),
    )

    assert reply.reasoning == (
        Reasoning(text="hm", signature="s1"),
        Reasoning(signature="s2", is_redacted=True),
    )


def test_what_is_not_told_is_estimated():
    reply = put_together(
        TextDelta(text="abcd"),
        ReasoningDelta(text="efgh"),
        ToolCallDelta(index=0, name="f", arguments='{"a":1}'),
    )

    assert reply.usage == Usage(input_tokens=1, output_tokens=4, is_estimated=True)
    assert reply.model == "small"


def test_a_reply_travels_as_json_and_a_newer_ones_fields_are_ignored():
    reply = put_together(TextDelta(text="hello"), ToolCallDelta(index=0, name="f"))
    newer = {**reply.model_dump(mode="json"), "mood": "good"}

    assert Reply.model_validate(newer) == reply


def test_a_reply_is_the_next_turn_of_the_conversation():
    reply = put_together(
        TextDelta(text="look"),
        ReasoningDelta(text="hm", signature="s"),
        ToolCallDelta(index=0, id="c", name="f"),
    )

    turn = reply.as_message()

    assert turn.role == "assistant"
    assert [type(part) for part in turn.parts] == [Reasoning, Text, ToolCall]


def test_a_reply_is_read_as_the_model_that_was_asked_for():
    assert put_together(TextDelta(text='{"kind": "cat"}')).parsed(Animal) == Animal(kind="cat")
    with pytest.raises(ValidationError):
        put_together(TextDelta(text='{"kind":')).parsed(Animal)


@pytest.mark.parametrize(
    "delta",
    [
        TextDelta(text="hi"),
        ReasoningDelta(text="hm", signature="s"),
        ToolCallDelta(index=1, id="c", name="f", arguments="{"),
        Done(reply=put_together(TextDelta(text="hi"))),
    ],
    ids=lambda delta: delta.type,
)
def test_a_piece_travels_as_json(delta):
    pieces = TypeAdapter(Delta)

    assert pieces.validate_json(pieces.dump_json(delta)) == delta
