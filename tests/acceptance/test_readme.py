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

    def __init__(self, path: Path, server: EmbeddedValkey, llm: LLMStub) -> None:
        self.path = path
        scripts = Path(sys.executable).parent
        self.env = {
            **{name: value for name, value in os.environ.items() if "LANES" not in name},
            "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
            "LLM_OLLAMA": llm.dsn,
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
def llm() -> Iterator[LLMStub]:
    with LLMStub() as stub:
        yield stub


@pytest.fixture
def folder(tmp_path: Path, llm: LLMStub) -> Iterator[Folder]:
    with EmbeddedValkey() as server:
        yield Folder(tmp_path, server, llm)


def command(word: str) -> list[str]:
    """Find ``celery -A shop WORD ...`` in the README."""
    (line,) = re.findall(rf"^    (celery -A shop {word}.*?)(?:  +#.*)?$", README, re.MULTILINE)
    return shlex.split(line)


def test_the_readmes_code_and_commands_work_in_a_folder_of_their_own(folder, llm):
    with folder.worker():
        said = folder.run([sys.executable, "ask.py"])
        status = folder.run(command("lanes status"))

    assert said == "Say hi\n"  # as the stub answers
    assert [record.prompt for record in llm.log] == ["Say hi"]
    assert re.search(r"^ *ollama +3 +0 +0 +- +0 +2 *$", status, re.MULTILINE), status


@pytest.mark.parametrize(
    ("code", "error"),
    [(400, "answered 400: no such luck"), (500, "answered 500: no such luck")],
    ids=["refused", "broken"],
)
def test_the_readmes_error_says_whose_call_it_was(folder, llm, code, error):
    refusal = Answer(status=code, body={"error": {"message": "no such luck"}})
    llm.script(refusal, refusal)  # what may pass is tried once more

    with folder.worker():
        said = folder.run([sys.executable, "ask.py"])

    assert said.startswith("CallInfo(caller='alice', run_id='run-17', model='ollama/llama3.1:8b'")
    assert "lane='ollama'" in said
    assert said.rstrip().endswith(error)
