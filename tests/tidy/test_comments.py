"""A name in backticks in a comment or a docstring exists: prose rots, this part cannot.

What counts as existing is any word of code, string, file name or manifest; whether the comment
is right about it is for the reader. Names that are somebody else's (a kernel's, an RFC's) stand
in `outside_words.txt`, so adding one is a decision.
"""

import builtins
import io
import keyword
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.tidy.tree import Tree, committed

WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
QUOTED: Final = re.compile(r"``?([^`\n]+)``?")
# What looks like a name: one word, or words joined by dots or `::`, perhaps called.
NAME: Final = re.compile(r"[A-Za-z_]\w*(?:(?:\.|::)[A-Za-z_]\w*)*(?:\(\))?")
RUST_COMMENT: Final = re.compile(r"//[/!]?(.*)")
OUTSIDE: Final = Path(__file__).parent / "outside_words.txt"
PROSE: Final = (".md", ".txt", ".http", ".sse")


def python_prose(text: str) -> tuple[list[tuple[int, str]], str]:
    """Split Python into its comments and docstrings, with lines, and all other text."""
    prose: list[tuple[int, str]] = []
    code: list[str] = []
    at_start = True
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT or token.type == tokenize.STRING and at_start:
            prose.append((token.start[0], token.string))
        else:
            code.append(token.string)
        if token.type not in {tokenize.COMMENT, tokenize.NL}:
            at_start = token.type in {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    return prose, " ".join(code)


def rust_prose(text: str) -> tuple[list[tuple[int, str]], str]:
    """Split Rust (or TOML, with `#`) into line comments, with lines, and all other text."""
    prose = [
        (line, found.group(1))
        for line, words in enumerate(text.splitlines(), 1)
        if (found := RUST_COMMENT.search(words))
    ]
    return prose, RUST_COMMENT.sub("", text)


def comment_faults(tree: Tree, outside: frozenset[str]) -> Iterator[str]:
    """Yield each quoted name that stands nowhere in the code."""
    known = set(outside) | set(dir(builtins)) | set(keyword.kwlist)
    prose: dict[str, list[tuple[int, str]]] = {}
    for path, text in tree.texts.items():
        known.update(WORD.findall(path))
        if path.endswith((".py", ".pyi")):
            prose[path], code = python_prose(text)
        elif path.endswith(".rs"):
            prose[path], code = rust_prose(text)
        elif path.endswith(PROSE) or path.startswith("locks/"):
            continue
        else:
            code = re.sub(r"#.*", "", text)
        known.update(WORD.findall(code))
    for path, comments in prose.items():
        if path.startswith("tests/tidy/"):
            continue
        for line, comment in comments:
            for quoted in QUOTED.findall(comment):
                if NAME.fullmatch(quoted) and (gone := set(WORD.findall(quoted)) - known):
                    yield f"{path}:{line}: `{quoted}`: nothing is called {', '.join(gone)}"


def test_names_in_comments_exist() -> None:
    outside = frozenset(WORD.findall(OUTSIDE.read_text("utf-8")))
    assert list(comment_faults(committed(), outside)) == []


def test_a_name_that_is_gone_is_found() -> None:
    python = 'def f():\n    """Call `gone` after `f`."""\n    # see `lost.part()` and `a b`\n'
    rust = "/// As `vanished` does, see [`kept`].\nfn kept() {}\n"
    tree = Tree({"modelux/a.py": python, "rust/core/src/b.rs": rust})
    found = " ".join(comment_faults(tree, frozenset()))
    for name in ("gone", "lost.part()", "vanished"):
        assert f"`{name}`" in found
    assert "`kept`" not in found
    assert "`f`" not in found


def test_an_outside_word_is_not_found() -> None:
    tree = Tree({"modelux/a.py": "# `SO_REUSEPORT`\n"})
    assert list(comment_faults(tree, frozenset({"SO_REUSEPORT"}))) == []
