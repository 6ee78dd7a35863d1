"""The committed tree as the tidy tests read it: paths, texts and syntax trees, each read once.

A rule is a plain function from a tree to its faults, so that each can be shown a bad sample.
"""

import ast
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
PACKAGE: Final = "modelux"


@dataclass(frozen=True)
class Tree:
    """Texts by their path from the root of the clone."""

    texts: Mapping[str, str]

    def under(self, *starts: str, suffix: str = "") -> dict[str, str]:
        """Return the files whose path begins with one of `starts` and ends with `suffix`."""
        return {
            p: t for p, t in self.texts.items() if p.startswith(starts) and p.endswith(suffix)
        }

    @cached_property
    def modules(self) -> dict[str, ast.Module]:
        """The syntax tree of each Python module of the package, by its dotted name."""
        files = self.under(f"{PACKAGE}/", suffix=".py")
        return {module_name(path): ast.parse(text, path) for path, text in files.items()}

    @cached_property
    def module_names(self) -> frozenset[str]:
        """Everything that can be imported from the package, packages and `_native` included."""
        return frozenset(self.modules) | {f"{PACKAGE}._native"}


@cache
def committed() -> Tree:
    """Return what git knows of this clone; where there is no git, what a clone would hold."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    texts = {}
    for path in done.stdout.splitlines():
        try:
            texts[path] = (ROOT / path).read_text("utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue  # Recorded bytes of the corpus; a file deleted but not yet committed.
    return Tree(texts)


def module_name(path: str) -> str:
    """Return the dotted name of the module at `path`, a package's own file included."""
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def imports_of(tree: Tree, name: str) -> Iterator[tuple[str, int]]:
    """Yield each module that the module `name` imports, with the line.

    `from package import module` names the module; `from module import thing` the module.
    """
    for node in ast.walk(tree.modules[name]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if inner in tree.module_names else node.module), node.lineno


def sample(**files: str) -> Tree:
    """Return a tree for a self-test: `a__b="..."` is the module `modelux/a/b.py`."""
    return Tree(
        {f"{PACKAGE}/{name.replace('__', '/')}.py": text for name, text in files.items()}
    )
