"""A folder with a configuration, and the command line run in it as an operator would."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from modelux._native import Cells, Ledger, Live
from modelux.cli.main import main
from modelux.limits import MIB
from modelux.store.layout import CELLS_FILE, LIVE_FILE
from modelux.supervisor.lock import ServeLock

FILE = """\
[server]
data_dir = "data"
[providers.sim]
vendor = "openai_compatible"
base_url = "http://127.0.0.1:9/v1"
models = ["small", "large"]
[routes.production]
strategy = "fallback"
attempts = ["small", { model = "large", timeout_ms = 2000 }]
"""


@dataclass(frozen=True, slots=True)
class Done:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - what a test expects of it, the test says
        """What it printed, as JSON."""
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody at a shell in `folder`."""

    folder: Path
    run: Callable[..., Done]

    def write(self, name: str, content: object) -> str:
        """Write a file; JSON unless it is text."""
        text = content if isinstance(content, str) else json.dumps(content)
        (self.folder / name).write_text(text, "utf-8")
        return name


@pytest.fixture
def operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Operator:
    """An operator whose configuration has been applied once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODELUX_CONFIG", raising=False)
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> Done:
        code = main(words)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    operator = Operator(tmp_path, run)
    operator.write("modelux.toml", FILE)
    assert run("check", "--apply").code == 0
    return operator


@contextmanager
def serving(operator: Operator, content: str) -> Iterator[Live]:
    """Apply a configuration; give the live state of its server, which is this process."""
    places = '[server]\ndata_dir = "data"\nstate_dir = "state"\n'
    operator.write("modelux.toml", content.replace('[server]\ndata_dir = "data"\n', places))
    assert operator.run("check", "--apply").code == 0
    state_dir = operator.folder / "state"
    state_dir.mkdir()
    Ledger.create(state_dir, map_bytes=8 * MIB, stamp="boot").close()
    Cells.create(state_dir / CELLS_FILE, 1)
    lock = ServeLock.take(operator.folder / "data")
    yield Live.open_or_create(state_dir / LIVE_FILE, "boot", 1)
    lock.release()
