"""What the Rust compiler does not say: files out of use, and lints that are switched off."""

import re
from collections.abc import Iterator
from typing import Final

from tests.tidy.tree import Tree, committed

ALLOW: Final = re.compile(r"#!?\[allow\(")
MAPPED_MEMORY: Final = ("rust/core/src/mapped.rs", "rust/core/src/ledger/env.rs")


def unused_faults(tree: Tree) -> Iterator[str]:
    """Yield source files that no `mod` line of their crate names."""
    for path in tree.under("rust/", suffix=".rs"):
        crate, found, rest = path.partition("/src/")
        stem = rest.removesuffix(".rs").rpartition("/")[2]
        if not found or rest in {"lib.rs", "main.rs"} or rest.startswith("bin/"):
            continue
        name = rest.split("/")[-2] if stem == "mod" else stem
        inside = tree.under(f"{crate}/src/", suffix=".rs").values()
        if not any(re.search(rf"\bmod {name}\b", text) for text in inside):
            yield f"{path}: no `mod {name}` names it"


def allow_faults(tree: Tree) -> Iterator[str]:
    """Yield lints switched off with `allow`: `expect` complains when it is needed no more."""
    for path, text in tree.under("rust/", suffix=".rs").items():
        for line, words in enumerate(text.splitlines(), 1):
            if ALLOW.search(words):
                yield f"{path}:{line}: {words.strip()}"


def unsafe_faults(tree: Tree) -> Iterator[str]:
    """Yield `unsafe` in the core outside the two files that map memory."""
    for path, text in tree.under("rust/core/src/", suffix=".rs").items():
        code = re.sub(r"//.*", "", text)
        if path not in MAPPED_MEMORY and re.search(r"\bunsafe\s*(\{|fn|impl)", code):
            yield path


def test_every_rust_file_is_compiled() -> None:
    assert list(unused_faults(committed())) == []


def test_lints_are_expected_not_allowed() -> None:
    assert list(allow_faults(committed())) == []


def test_only_mapped_memory_is_unsafe() -> None:
    assert list(unsafe_faults(committed())) == []


def test_a_rust_file_out_of_use_is_found() -> None:
    tree = Tree({"rust/core/src/lib.rs": "pub mod head;", "rust/core/src/old.rs": ""})
    assert list(unused_faults(tree)) == ["rust/core/src/old.rs: no `mod old` names it"]


def test_a_lint_that_is_allowed_is_found() -> None:
    assert list(allow_faults(Tree({"rust/core/src/a.rs": "#[allow(clippy::all)]"})))


def test_unsafe_code_is_found() -> None:
    assert list(unsafe_faults(Tree({"rust/core/src/head.rs": "let x = unsafe { y };"})))
    assert list(unsafe_faults(Tree({"rust/core/src/head.rs": "// unsafe { no }"}))) == []
