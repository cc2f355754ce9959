"""The kinds: ways to run the same tasks, and what their processes read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIG = """
[store]
url = "{url}/2"
[defaults]
intake = "{intake}"
[lanes.bench]
max_concurrent = {slots}
"""


@dataclass(frozen=True)
class Kind:
    """One way to run the same tasks; ``beside`` names the plain one that it is compared with."""

    lanes: bool = False
    results: bool = False
    intake: str = "store"
    beside: str = ""

    @property
    def queue(self) -> str:
        """Where its calls go."""
        return "lanes.bench" if self.lanes else "plain"

    def environment(self, url: str, folder: Path, *, slots: int) -> dict[str, str]:
        """Give what its producer and its workers read, for a server and a lane of so many slots."""
        config = folder / "lanes.toml"
        config.write_text(CONFIG.format(url=url, slots=slots, intake=self.intake))
        return {
            **os.environ,
            "BENCH_SERVER": url,
            "BENCH_LANES": str(int(self.lanes)),
            "BENCH_RESULTS": str(int(self.results)),
            "BENCH_TURNS": str(folder / "turns"),
            "CELERY_LANES_CONFIG": str(config),
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(folder),
        }


KINDS = {
    "plain": Kind(),
    "lanes": Kind(lanes=True, beside="plain"),
    "lanes, broker intake": Kind(lanes=True, intake="broker", beside="plain"),
    "plain, results": Kind(results=True),
    "lanes, results": Kind(lanes=True, results=True, beside="plain, results"),
}
