"""The README, word for word: its code in a fresh folder, its commands, and nothing else."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from celery_lanes.testing.embedded import EmbeddedValkey
from celery_lanes.testing.llm_stub import Answer, LLMStub
from celery_lanes.testing.workers import WorkerProcess

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


class Folder:
    """A user's folder: the README's first block is shop.py, its second a script that asks."""

    def __init__(self, path: Path, server: EmbeddedValkey, *, ollama: str, openai: str) -> None:
        self.path = path
        scripts = Path(sys.executable).parent
        self.env = {
            **{name: value for name, value in os.environ.items() if "LANES" not in name},
            "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
            "LLM_OLLAMA": ollama,
            "LLM_OPENAI": openai,
        }
        shop, ask = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
        for db in (0, 1):
            assert f'"redis://localhost/{db}"' in shop
            shop = shop.replace(f"redis://localhost/{db}", server.url(db))
        (path / "shop.py").write_text(shop)
        (path / "ask.py").write_text(ask)
        (path / "config").mkdir()
        shutil.copy(ROOT / "config/lanes.toml", path / "config/lanes.toml")

    @contextmanager
    def worker(self) -> Iterator[None]:
        worker = WorkerProcess("shop", [], env=self.env, cwd=self.path)
        worker.command = command("worker")
        with ExitStack() as exits:
            exits.push(worker)
            worker.spawn()  # nobody needs to wait for it: calls do
            yield

    def run(self, words: Sequence[str]) -> str:
        ran = subprocess.run(
            words, cwd=self.path, env=self.env, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert (ran.returncode, ran.stderr) == (0, "")
        return ran.stdout


@pytest.fixture
def ollama() -> Iterator[LLMStub]:
    with LLMStub() as stub:
        yield stub


@pytest.fixture
def openai() -> Iterator[LLMStub]:
    with LLMStub() as stub:
        yield stub


@pytest.fixture
def folder(tmp_path: Path, ollama: LLMStub, openai: LLMStub) -> Iterator[Folder]:
    with EmbeddedValkey() as server:
        yield Folder(tmp_path, server, ollama=ollama.dsn, openai=openai.dsn)


def command(word: str) -> list[str]:
    """Find ``celery -A shop WORD ...`` in the README."""
    (line,) = re.findall(rf"^    (celery -A shop {word}.*?)(?:  +#.*)?$", README, re.MULTILINE)
    return shlex.split(line)


def idle_after_work(lane: str, cap: int) -> str:
    """Write a line of ``lanes status`` where calls have ended or moved on; none runs or waits."""
    return rf"(?m)^ *{lane} +{cap} +0 +0 +- +0 +[1-9]\d*( +1)? *$"


def test_the_first_model_answers_and_when_it_has_died_the_second_does(folder, ollama, openai):
    def die(_asked: dict[str, object]) -> float:
        ollama.__exit__()
        return 0.0

    with folder.worker():
        alive = folder.run([sys.executable, "ask.py"])
        ollama.service = die
        dead = folder.run([sys.executable, "ask.py"])
        status = folder.run(command("lanes status"))

    assert alive == "Say hi (llama3.1:8b, in lane ollama)\n"  # as the stubs answer
    assert dead == "Say hi (gpt-5-mini, in lane openai)\n"
    assert [record.status for record in ollama.log] == [200, None]
    assert [record.prompt for record in openai.log] == ["Say hi"]
    assert re.search(idle_after_work("ollama", 3), status), status
    assert re.search(idle_after_work("openai", 16), status), status


@pytest.mark.parametrize(
    ("code", "lane", "error"),
    [
        (400, "ollama", "answered 400: no such luck"),  # so would the second
        (500, "openai", "openai/gpt-5-mini answered 500: no such luck"),
    ],
    ids=["refused", "broken"],
)
def test_the_readmes_error_says_whose_call_it_was(folder, ollama, openai, code, lane, error):
    refusal = Answer(status=code, body={"error": {"message": "no such luck"}})
    for stub in (ollama, openai):
        stub.script(refusal, refusal)  # what may pass is tried once more

    with folder.worker():
        said = folder.run([sys.executable, "ask.py"])

    assert said.startswith("CallInfo(caller='alice', run_id='run-17', model='")
    assert f"lane='{lane}'" in said
    assert error in said
