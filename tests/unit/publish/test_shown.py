"""What monitors are shown of a call's arguments is what Celery itself would have written."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from celery.utils.saferepr import saferepr
from hypothesis import example, given
from hypothesis import strategies as st

from celery_lanes import Lanes
from celery_lanes.publish.shown import shown_args, shown_kwargs

texts = st.text(st.sampled_from("a Z'\"\\\n\té€😀"), max_size=12)
atoms = texts | st.integers() | st.floats() | st.booleans() | st.none()
values = st.recursive(
    atoms | st.binary(max_size=4) | st.decimals(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
limits = st.integers(1, 60)


@given(st.lists(values, max_size=4).map(tuple), limits)
@example(("it's", 5), 9)
@example(("a b",), 7)
def test_positional_arguments_are_written_as_celery_does_or_not_at_all(args, limit):
    assert shown_args(args, limit) in {None, saferepr(args, limit, maxlevels=3)}


@given(st.dictionaries(texts | st.integers(), values, max_size=4), limits)
@example({"it's": "a b"}, 17)
def test_keyword_arguments_are_written_as_celery_does_or_not_at_all(kwargs, limit):
    assert shown_kwargs(kwargs, limit) in {None, saferepr(kwargs, limit, maxlevels=3)}


@given(st.lists(atoms, max_size=4).map(tuple), st.dictionaries(texts, atoms, max_size=4))
def test_short_and_flat_arguments_are_not_left_to_celery(args, kwargs):
    assert shown_args(args, 10_000) == saferepr(args, 10_000)
    assert shown_kwargs(kwargs, 10_000) == saferepr(kwargs, 10_000)


class Name(str):
    """A text that shows itself in another way."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<a name>"


@pytest.mark.parametrize("args", [(Name("x"),), [1, 2], ([1],), ("long" * 300,), {1}])
def test_what_is_not_short_and_flat_is_left_to_celery(args):
    assert shown_args(args, 1024) is None


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [(("m", 1), {}), ([], {"text": "say 'hi'"}), (([1], {"a": (2,)}), None), (("x" * 2000,), {})],
)
@pytest.mark.parametrize("given", [{}, {"argsrepr": "(secret)", "kwargsrepr": "{secret}"}])
def test_a_message_is_as_without_lanes(args: Any, kwargs: Any, given: dict[str, str]) -> None:
    plain, ours = (Celery(broker="memory://", set_as_current=False) for _ in range(2))
    Lanes(ours)
    messages = [app.amqp.as_task_v2("id", "ask", args, kwargs, **given) for app in (plain, ours)]
    assert messages[0].headers == messages[1].headers
    assert messages[0].body == messages[1].body


def test_arguments_that_are_none_are_refused_as_without_lanes() -> None:
    app = Celery(broker="memory://", set_as_current=False)
    Lanes(app)
    with pytest.raises(TypeError, match="task args must be a list or tuple"):
        app.amqp.as_task_v2("id", "ask", 5)
