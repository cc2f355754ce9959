"""What users see of the package: ``lanes.`` in a shell, and what may be imported from its top."""

from __future__ import annotations

import re
from pathlib import Path

from celery import Celery

import celery_lanes
from celery_lanes import Lanes, Settings

DOCS = Path(__file__).parents[2] / "docs"


def test_lanes_shows_its_verbs_and_the_named_parts_and_nothing_else():
    lanes = Lanes(Celery("shop", set_as_current=False), Settings())

    shown = {name for name in dir(lanes) if not name.startswith("_")}

    contents = (DOCS / "verbs/README.md").read_text()
    assert shown == set(re.findall(r"`lanes\.(\w+)`", contents))


def test_what_may_be_imported_from_the_top_is_there_and_a_page_tells_of_it():
    told = "".join(page.read_text() for page in DOCS.rglob("*.md"))

    untold = [name for name in celery_lanes.__all__ if not re.search(rf"\b{name}\b", told)]

    assert untold == []
    assert all(hasattr(celery_lanes, name) for name in celery_lanes.__all__)
