from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_lanes.errors import AliasCycle, SpecError
from celery_lanes.llm.spec import MAX_DEPTH, MAX_LENGTH, MAX_TARGETS, Expansion


def targets(spec: object, **aliases: str) -> list[str]:
    return ["/".join(target) for target in Expansion(aliases).targets(spec)]


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("openai/gpt-5-mini", ["openai/gpt-5-mini"]),
        ("m5/qwen3:30b", ["m5/qwen3:30b"]),
        ("ollama/richard/Qwen3-14b:q4_K_M", ["ollama/richard/Qwen3-14b:q4_K_M"]),
        ("My-Box/M", ["My-Box/M"]),
        (" a/x , b/y ", ["a/x", "b/y"]),
        ("a/x,b/y,A/x", ["a/x", "b/y"]),
        ("My-Box/M,my_box/M,my_box/m", ["My-Box/M", "my_box/m"]),
        ("a/x,a/X", ["a/x", "a/X"]),
        ("a/\u6a21\u578b one", ["a/\u6a21\u578b one"]),
    ],
)
def test_a_model_is_what_follows_the_first_slash(spec, found):
    assert targets(spec) == found


@pytest.mark.parametrize(
    "spec",
    ["", "/gpt", "openai/", "a b/c", " / ", None, 7, ["a/b"], "a/x\nb", "a/\x1b[31m", "a/\ud800"],
    ids=repr,
)
def test_what_is_no_target_is_refused_with_an_example(spec):
    with pytest.raises(SpecError, match='"provider/model", such as "openai/gpt-5-mini"'):
        targets(spec)


@pytest.mark.parametrize(("spec", "which"), [("a/x,,b/y", 2), (",a/x", 1), ("a/x,", 2)])
def test_an_empty_element_is_named(spec, which):
    with pytest.raises(SpecError, match=rf"element {which} is empty"):
        targets(spec)


def test_aliases_are_put_in_anywhere_and_at_any_depth():
    aliases = {"deep": "c/z,deeper", "deeper": "d/w,a/x"}

    assert targets("deep,a/x", **aliases) == ["c/z", "d/w", "a/x"]
    assert targets("a/x,deep,b/y", **aliases) == ["a/x", "c/z", "d/w", "b/y"]


def test_a_diamond_is_no_circle():
    assert targets("top", top="left,right", left="end", right="end", end="a/x") == ["a/x"]


@pytest.mark.parametrize(
    ("aliases", "circle"),
    [
        ({"a": "a"}, "a -> a"),
        ({"a": "x/y,b", "b": "c", "c": "a"}, "a -> b -> c -> a"),
        ({"a": "b", "b": "b"}, "a -> b -> b"),
    ],
)
def test_a_circle_is_named(aliases, circle):
    with pytest.raises(AliasCycle, match=circle):
        targets("a", **aliases)


def test_an_unknown_name_is_told_what_is_close():
    with pytest.raises(SpecError, match="did you mean thinking"):
        targets("thinkng", thinking="a/x")
    with pytest.raises(SpecError, match="did you mean openai/gpt-5-mini"):
        targets("openai:gpt-5-mini")


def test_depth_and_length_are_bounded():
    chain = {f"a{n}": f"a{n + 1}" for n in range(MAX_DEPTH + 1)}
    many = ",".join(f"p/m{n}" for n in range(MAX_TARGETS + 1))

    with pytest.raises(SpecError, match=f"deeper than {MAX_DEPTH}"):
        targets("a0", **chain)
    with pytest.raises(SpecError, match=f"up to {MAX_TARGETS} targets"):
        targets(many)
    with pytest.raises(SpecError, match=f"up to {MAX_LENGTH} characters"):
        targets("a", a="p/m," * MAX_LENGTH)


def test_a_resolver_that_never_ends_is_stopped():
    with pytest.raises(SpecError, match="deeper than"):
        Expansion({}, [lambda name: name + "x"]).targets("x")


def test_a_resolver_that_gives_ever_more_targets_is_stopped():
    asked = []

    def doubled(name):
        asked.append(name)
        return f"{name}a,{name}b" if len(name) < MAX_DEPTH - 1 else f"p/{name}"

    with pytest.raises(SpecError, match=f"up to {MAX_TARGETS} targets, got more"):
        Expansion({}, [doubled]).targets("x")
    assert len(asked) < 100  # of 2**30


def test_a_resolver_that_gives_no_spec_is_told_so():
    with pytest.raises(SpecError, match="expected a spec for 'x', got int"):
        Expansion({}, [lambda _: 7]).targets("x")


def test_many_ways_to_one_alias_are_gone_once():
    doubled = {f"a{n}": f"a{n + 1},a{n + 1}" for n in range(MAX_DEPTH - 1)}

    assert targets("a0", **doubled, **{f"a{MAX_DEPTH - 1}": "p/m"}) == ["p/m"]


NAMES = ["a", "b", "c", "d", "e"]
ELEMENTS = st.sampled_from([*NAMES, "p/x", "p/y", "q/x", "q/z:1"])
SPECS = st.lists(ELEMENTS, min_size=1, max_size=5).map(",".join)


def expanded(spec: str, aliases: dict[str, str], path: tuple[str, ...]) -> list[str]:
    """Expand the plain way."""
    found = []
    for element in spec.split(","):
        if "/" in element:
            found.append(element)
        elif element in path:
            raise AliasCycle
        else:
            found += expanded(aliases[element], aliases, (*path, element))
    return found


@given(spec=SPECS, aliases=st.fixed_dictionaries(dict.fromkeys(NAMES, SPECS)))
def test_no_element_is_lost_and_every_circle_is_found(spec, aliases):
    try:
        plain = list(dict.fromkeys(expanded(spec, aliases, ())))
    except AliasCycle:
        with pytest.raises(AliasCycle):
            targets(spec, **aliases)
    else:
        assert targets(spec, **aliases) == plain
