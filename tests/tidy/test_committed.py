"""What may not stand in the tree: registries, places and papers that a reader does not have."""

import re
import tomllib
from collections.abc import Iterator
from typing import Final

import pytest

from tests.tidy.tree import Tree, committed

# Builds take packages from wherever a machine is set up to take them.
REGISTRY: Final = re.compile(
    r"pypi\.org|pythonhosted\.org|crates\.io|npmjs\.(org|com)|proxy\.golang\.org"
    r"|repo1?\.maven|deb\.debian\.org|--(extra-)?index-url|--find-links|--trusted-host"
)
# Words about how a change came to be belong to its commit; they are stale the day after.
ORIGIN: Final = re.compile(
    r"/tmp/(wt|v)/|/work/|\bworktree\b|\bworkplace\b|\bissue #?\d+|\bthis session\b"
    r"|\b(FIXME|XXX)\b|\bTODO(?!\(#\d+\))"
)
PAPER: Final = re.compile(r"[\w./-]*\b[\w-]+\.md\b")
LOCKS: Final = ("locks/requirements.txt", "locks/requirements-dev.txt", "locks/Cargo.lock")
THIS: Final = "tests/tidy/test_committed.py"


def registry_faults(tree: Tree) -> Iterator[str]:
    """Yield each line that names a package registry or where to find one."""
    for path, text in tree.texts.items():
        if path != THIS:
            for line, words in enumerate(text.splitlines(), 1):
                if REGISTRY.search(words) and "--no-emit" not in words:
                    yield f"{path}:{line}: {words.strip()[:80]}"


def origin_faults(tree: Tree) -> Iterator[str]:
    """Yield each line about the making of a change, or with a path of somebody's machine."""
    for path, text in tree.texts.items():
        if path != THIS and not path.startswith("tests/corpus/"):
            for line, words in enumerate(text.splitlines(), 1):
                if ORIGIN.search(words):
                    yield f"{path}:{line}: {words.strip()[:80]}"


def paper_faults(tree: Tree) -> Iterator[str]:
    """Yield each mention of a Markdown file that the tree does not hold."""
    names = {path.rpartition("/")[2] for path in tree.texts}
    for path, text in tree.texts.items():
        if path.startswith(("tests/tidy/", "tests/docs/")):
            continue  # Samples of what is wrong.
        for line, words in enumerate(text.splitlines(), 1):
            for paper in PAPER.findall(words):
                if paper.rpartition("/")[2] not in names | {".md"}:
                    yield f"{path}:{line}: {paper}"


def lock_faults(tree: Tree) -> Iterator[str]:
    """Yield pins without a hash, and Rust packages with a source or without a checksum."""
    for path in LOCKS[:2]:
        for pin in re.split(r"\n(?=\S)", tree.texts[path].strip()):
            if "--hash=sha256:" not in pin:
                yield f"{path}: {pin[:60]}"
    for package in tomllib.loads(tree.texts[LOCKS[2]])["package"]:
        ours = package["name"].startswith("modelux-")
        if "source" in package or ours == ("checksum" in package):
            yield f"{LOCKS[2]}: {package['name']}"


def test_the_tree_names_no_registry() -> None:
    assert list(registry_faults(committed())) == []


def test_the_tree_says_nothing_about_its_making() -> None:
    assert list(origin_faults(committed())) == []


def test_every_paper_that_is_named_exists() -> None:
    assert list(paper_faults(committed())) == []


def test_every_locked_package_is_checked_by_hash() -> None:
    assert list(lock_faults(committed())) == []


@pytest.mark.parametrize("text", ["https://pypi" + ".org/simple", "pip --index-url x"])
def test_a_registry_is_found(text: str) -> None:
    assert list(registry_faults(Tree({"docs/a.md": text})))


@pytest.mark.parametrize(
    "text", ["see issue #3", "# FIXME later", "# TODO: x", "cd /work/main"]
)
def test_words_about_the_making_are_found(text: str) -> None:
    assert list(origin_faults(Tree({"modelux/a.py": text})))


def test_a_paper_that_is_gone_is_found() -> None:
    assert list(paper_faults(Tree({"modelux/a.py": "# see docs/gone.md"})))
    assert list(paper_faults(Tree({"README.md": "see docs/a.md", "docs/a.md": ""}))) == []


def test_an_unchecked_pin_is_found() -> None:
    rust = 'version = 4\n[[package]]\nname = "x"\nversion = "1.0.0"\n'
    tree = Tree(dict(zip(LOCKS, ("a==1", "b==1 --hash=sha256:00", rust), strict=True)))
    assert len(list(lock_faults(tree))) == 2
