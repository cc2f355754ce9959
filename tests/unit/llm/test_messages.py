from __future__ import annotations

import pytest
from pydantic import ValidationError

from celery_lanes.llm.messages import File, Image, Message, Reasoning, Text, ToolCall, ToolResult

CONVERSATION = [
    Message(role="system", content="be kind"),
    Message(role="user", content=(Text(text="what?"), Image.from_bytes(b"\x00", "image/png"))),
    Message(role="user", content=(File(url="https://x.test/a.pdf", name="a.pdf"),)),
    Message(
        role="assistant",
        content=(
            Reasoning(text="hm", signature="s1"),
            Text(text="let me look"),
            ToolCall(id="c1", name="look", arguments={"at": "it"}),
        ),
    ),
    Message(role="tool", content=(ToolResult(id="c1", name="look", content="a cat"),)),
]


@pytest.mark.parametrize("message", CONVERSATION, ids=lambda message: message.role)
def test_a_message_travels_as_json(message):
    assert Message.model_validate_json(message.model_dump_json()) == message


def test_a_message_cannot_be_changed():
    with pytest.raises(ValidationError):
        CONVERSATION[0].content = "be rude"


def test_the_words_of_a_message_are_those_of_its_parts():
    assert [message.text for message in CONVERSATION] == [
        "be kind",
        "what?",
        "",
        "let me look",
        "",
    ]


@pytest.mark.parametrize(
    ("role", "part", "said"),
    [
        ("system", {"type": "image", "url": "u"}, "only parts of type text of a system"),
        ("user", {"type": "tool_call", "id": "1", "name": "f"}, "text or image or file of a user"),
        ("assistant", {"type": "image", "url": "u"}, "text or reasoning or tool_call"),
        ("tool", {"type": "text", "text": "x"}, "only parts of type tool_result of a tool"),
    ],
)
def test_a_part_that_its_role_cannot_have_is_refused(role, part, said):
    with pytest.raises(ValidationError, match=said):
        Message.model_validate({"role": role, "content": [part]})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "either data or url"),
        ({"data": "AA==", "url": "u", "media_type": "image/png"}, "either data or url"),
        ({"data": "AA=="}, "media_type with data"),
        ({"data": "hunter2!", "media_type": "image/png"}, "data in base64"),
        ({"url": "u", "size": 3}, "size"),
    ],
)
def test_an_image_is_bytes_or_a_url(given, said):
    with pytest.raises(ValidationError, match=said) as caught:
        Image(**given)

    assert "hunter2" not in str(caught.value)


def test_bytes_have_a_url_of_their_own_and_do_not_fill_a_log():
    image = Image.from_bytes(b"\x00\x01", "image/png")

    assert image.as_url == "data:image/png;base64,AAE="
    assert "AAE=" not in repr(image)


def test_what_is_wrong_is_told_without_the_prompt():
    with pytest.raises(ValidationError) as caught:
        Message.model_validate({"role": "usr", "content": "hunter2"})

    assert "hunter2" not in str(caught.value)
