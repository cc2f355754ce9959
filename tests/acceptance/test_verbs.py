"""``docs/verbs``: the pages' code as it stands, in one process; their signatures are the code's."""

from __future__ import annotations

import inspect
import re
import runpy
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from celery_lanes import Lanes
from celery_lanes.control import CancellableResult
from celery_lanes.lane import Lane, LaneCaller
from celery_lanes.slots.slot import Slot
from celery_lanes.task import LaneTask
from celery_lanes.testing.memory import serving

FOLDER = Path(__file__).parents[2] / "docs/verbs"
PAGES = {page.stem: page.read_text() for page in sorted(FOLDER.glob("*.md"))}
SHOP = PAGES.pop("README")
OWNERS = {
    "lanes": Lanes,
    "lane": Lane,
    "caller": LaneCaller,
    "slot": Slot,
    "self": LaneTask,
    "result": CancellableResult,
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The shop of the examples, with a worker: one for all pages, as it takes seconds to stop."""
    folder = tmp_path_factory.mktemp("verbs")
    (folder / "shop.py").write_text(code_of(SHOP))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.delitem(sys.modules, "shop", raising=False)
        patch.setattr("celery._state._tls.current_app", None)  # the shop's, until it closes
        shop = import_module("shop")
        with serving(shop.app):
            yield shop
        shop.app.close()
    del sys.modules["shop"]


@pytest.mark.parametrize("page", PAGES)
def test_a_pages_example_does_what_it_says_and_leaves_nothing_behind(shop, tmp_path, page):
    example = tmp_path / f"{page}.py"
    example.write_text(code_of(PAGES[page]))

    runpy.run_path(str(example))

    for lane in shop.LANES:
        left = shop.lanes.parts.store.snapshot(lane)
        assert (left.waiting, left.delayed, left.paused) == (0, 0, False)


@pytest.mark.parametrize("page", PAGES)
def test_a_pages_signatures_are_those_of_the_code(page):
    block = re.search(r"```py\n(.*?)```", PAGES[page], re.DOTALL)[1]
    lines = re.sub(r"\n +", " ", block).splitlines()

    assert lines == [written(*re.match(r"(\w+)\.(\w+)\(", line).groups()) for line in lines]


def written(owner: str, verb: str) -> str:
    """Write a method's signature as the pages do: without self, its types without quotes."""
    signature = inspect.signature(getattr(OWNERS[owner], verb))
    bound = signature.replace(parameters=list(signature.parameters.values())[1:])
    return f"{owner}.{verb}{bound}".replace("'", "")


def code_of(page: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    return code
