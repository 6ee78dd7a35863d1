"""What the documents name exists, and what the code shows to the outside is documented."""

import re
from collections.abc import Iterator
from typing import Final

from modelux.cli.main import WORDS
from tests.tidy.tree import ROOT, Tree, committed

LINK: Final = re.compile(r"\]\((?!\w+:)([^)#\s]+)(?:#[^)]*)?\)")
# In a byte string the name may stand right behind the `n` of a line end.
HEADER: Final = re.compile(r"x-modelux-[a-z][a-z-]*[a-z]", re.IGNORECASE)
COMMAND: Final = re.compile(r"(?:`|bin/|^)modelux ([a-z]+)\b", re.MULTILINE)
TARGET: Final = re.compile(r"(?:`|^)make ([a-z]+)\b", re.MULTILINE)
METRIC: Final = re.compile(r"\bmodelux_[a-z_]+\b")
CODE: Final = ("modelux/", "rust/core/src/", "rust/py/src/")
# How the record is written: a method named for the kind of value, then the field's name.
FIELD: Final = re.compile(r'\.\w+\(\s*(?:key!\(\s*)?"([a-z]\w+)"')
# Said in words: what may never be passed on, and a family of headers.
PLACEHOLDERS: Final = frozenset({"modelux_core", "modelux_native", "modelux_bench"})


def pages(tree: Tree) -> dict[str, str]:
    """Return the documents by path."""
    return tree.under("README", "ARCHITECTURE", "CHANGELOG", "docs/", suffix=".md")


def link_faults(tree: Tree) -> Iterator[str]:
    """Yield each relative link that leads nowhere."""
    for path, text in pages(tree).items():
        for link in LINK.findall(text):
            folder = (ROOT / path).parent
            if not (folder / link).resolve().exists():
                yield f"{path}: {link}"


def headers_in(texts: dict[str, str]) -> set[str]:
    """Return every header of ours that the texts name, in lower case."""
    return {name.lower() for text in texts.values() for name in HEADER.findall(text)}


def test_every_link_leads_somewhere() -> None:
    assert list(link_faults(committed())) == []


def test_a_dead_link_is_found() -> None:
    assert list(link_faults(Tree({"README.md": "[x](docs/gone.md)"})))
    assert (
        list(link_faults(Tree({"docs/a.md": "[x](../README.md#why) [y](https://e.x)"}))) == []
    )


def test_every_command_in_the_documents_exists() -> None:
    named = {word for text in pages(committed()).values() for word in COMMAND.findall(text)}
    assert named <= set(WORDS)


def test_every_make_target_in_the_documents_exists() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    named = {word for text in pages(committed()).values() for word in TARGET.findall(text)}
    assert named <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def test_the_page_of_headers_names_those_of_the_code() -> None:
    tree = committed()
    in_code = headers_in(tree.under(*CODE, suffix=".py") | tree.under(*CODE, suffix=".rs"))
    on_page = headers_in(tree.under("docs/reference/headers.md"))
    assert on_page == in_code


def test_the_page_of_metrics_names_those_of_the_code() -> None:
    tree = committed()
    code = tree.under("modelux/control/", "modelux/writer/", suffix=".py")
    in_code = {name for text in code.values() for name in METRIC.findall(text)} - PLACEHOLDERS
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text("utf-8")
    assert set(METRIC.findall(page)) == in_code


def test_the_page_of_the_trace_names_every_field_of_the_record() -> None:
    record = (ROOT / "rust" / "core" / "src" / "record.rs").read_text("utf-8")
    page = (ROOT / "docs" / "reference" / "trace.md").read_text("utf-8")
    fields = set(FIELD.findall(record))
    assert len(fields) > 40, fields
    assert fields - set(re.findall(r"`(\w+)`", page)) == set()
