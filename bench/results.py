"""The lines of `bench/results/*.jsonl`: written by the harness only, read by the report."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "bench" / "results"
FORMAT: Final = 1
REQUEST_BYTES: Final = 1_200
"""About what a chat with a system prompt and two turns weighs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a figure depends on besides the code; on every line, so that each stands alone."""

    run: str
    started: str
    machine: str
    cpus: int
    memory_gib: float
    kernel: str
    python: str
    nginx: str
    commit: str
    is_dirty: bool
    seed: int
    command: str
    is_quick: bool
    load_average: float
    """Before the run: what others did on the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One scenario against one target in one round.

    `is_checked` says that every answer was compared with the expected bytes and was right.
    """

    scenario: str
    target: str
    round: int
    is_checked: bool
    values: Mapping[str, float]
    histograms: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


def write_row(path: Path, context: Context, row: Row) -> None:
    """Append one line; what was measured before a crash is kept."""
    line = {"format": FORMAT, **asdict(row), "context": asdict(context)}
    with path.open("a", encoding="utf-8") as out:
        out.write(json.dumps(line, separators=(",", ":")) + "\n")


def read_rows(path: Path) -> tuple[Context, list[Row]]:
    """Read a results file.

    Raises:
        ValueError: It is empty, of another format, or mixes runs.
    """
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if not lines:
        raise ValueError(f"{path} is empty")
    contexts = [Context(**line["context"]) for line in lines]
    if any(line["format"] != FORMAT for line in lines):
        raise ValueError(f"{path} has lines of another format than {FORMAT}")
    if any(context != contexts[0] for context in contexts):
        raise ValueError(f"{path} mixes runs")
    rows = [
        Row(**{name: line[name] for name in Row.__dataclass_fields__ if name in line})
        for line in lines
    ]
    return contexts[0], rows


def latest(paths: Iterable[Path]) -> Path | None:
    """Return the newest file, a full run before a quick one; names begin with the date."""
    ordered = sorted(paths, key=lambda path: ("quick" not in path.name, path.name))
    return ordered[-1] if ordered else None


def cpu_model() -> str:
    """Return the processor's name."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def memory_gib() -> float:
    """Return the machine's memory."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return round(pages / 2**30, 1)


def git_commit() -> tuple[str, bool]:
    """Return the commit and whether the tree differs from it; ("unknown", True) without git."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        # Results are written while we run: they do not make the code another one.
        dirty = _git("status", "--porcelain", "--", ".", ":!bench/results", ":!docs")
    except (OSError, subprocess.CalledProcessError):
        return "unknown", True
    return commit, bool(dirty)


def _git(*words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
