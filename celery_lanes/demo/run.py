"""The demo from start to end: servers, workers, two runs, a summary; everything is ended again."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from celery_lanes.config import Settings
from celery_lanes.demo.figures import Figures
from celery_lanes.demo.load import Run
from celery_lanes.demo.options import DemoOptions
from celery_lanes.demo.screen import CallerReading, Reading, Screen, screen_on
from celery_lanes.demo.shop import MODULE, POLICIES, config, make_app
from celery_lanes.demo.summary import faults, summary
from celery_lanes.testing.embedded import EmbeddedValkey
from celery_lanes.testing.llm_stub import LLMStub
from celery_lanes.testing.workers import READY, WorkerProcess

INTERRUPTED = 130
NARROWEST = 100


@dataclass(frozen=True, slots=True)
class Stage:
    """What a run needs: the producer's app, and the HTTP server that counts."""

    app: Any
    stub: LLMStub
    options: DemoOptions


def run_demo(options: DemoOptions, console: Console | None = None) -> int:
    """Run it; 1 if the cap was exceeded or a call failed, 130 if interrupted."""
    console = console or _console()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with staged(options, console) as stage, screen_on(console) as screen:
            ...
    except KeyboardInterrupt:
        console.print("\n  stopped; all processes are ended")
        return INTERRUPTED
