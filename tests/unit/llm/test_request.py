from __future__ import annotations

from typing import Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from celery_lanes.llm.messages import Message
from celery_lanes.llm.request import Request, Schema, Tool, ToolName

ASK = (Message(role="user", content="hi"),)


class Leg(BaseModel):
    length: float
    default: str = "left"


class Animal(BaseModel):
    kind: Literal["cat", "dog"]
    legs: list[Leg] = []
    name: str | None = None


def request(**options) -> Request:
    return Request(model="m", messages=ASK, **options)


def test_a_request_travels_as_json():
    asked = request(
        tools=(Tool(name="look"),),
        tool_choice=ToolName(name="look"),
        output=Schema.of(Animal),
        effort="low",
        max_tokens=5,
        temperature=0.5,
        stop="END",
        params={"logit_bias": {"1": 2}},
    )

    assert Request.model_validate_json(asked.model_dump_json()) == asked
    assert asked.stop == ("END",)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"max_tokens": "9"},
        {"max_tokens": 1.5},
        {"temperature": -1},
        {"top_p": 1.5},
        {"effort": "extreme"},
        {"tool_choice": "perhaps"},
        {"tools": [{"name": "no spaces"}]},
        {"temprature": 1},
    ],
    ids=str,
)
def test_a_wrong_option_is_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        request(**wrong)


def test_a_tool_may_be_written_as_openai_does():
    tool = {"type": "function", "function": {"name": "look", "description": "see"}}
    choice = {"type": "function", "function": {"name": "look"}}

    asked = request(tools=[tool], tool_choice=choice)

    assert asked.tools == (Tool(name="look", description="see"),)
    assert asked.tool_choice == ToolName(name="look")


def test_what_the_system_says_is_apart_from_the_turns():
    says = Message(role="system", content="a"), Message(role="developer", content="b")
    asked = Request(model="m", messages=(says[0], *ASK, says[1]))

    assert asked.system == "a\n\nb"
    assert asked.turns == ASK


def test_a_models_schema_is_closed_and_all_of_it_is_required():
    schema = Schema.of(Animal)

    assert schema.is_strict
    assert schema.json_schema["additionalProperties"] is False
    assert schema.json_schema["required"] == ["kind", "legs", "name"]
    leg = schema.json_schema["$defs"]["Leg"]
    assert leg["required"] == ["length", "default"]
    assert leg["additionalProperties"] is False
    assert "default" not in schema.json_schema["properties"]["name"]


def test_nothing_stands_beside_a_reference_in_a_models_schema():
    class Stable(BaseModel):
        horse: Animal = Field(description="the only one")

    assert Schema.of(Stable).json_schema["properties"]["horse"] == {"$ref": "#/$defs/Animal"}


def test_a_json_schema_is_taken_as_it_is():
    given = {"type": "object", "properties": {"a": {}}}

    assert Schema.of(given) == Schema(json_schema=given)
    assert Schema.of(Schema.of(Animal).model_dump()) == Schema.of(Animal)
