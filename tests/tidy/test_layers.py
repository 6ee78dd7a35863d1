"""Imports go down, never up, never across the processes' layer; nothing loads in a circle."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Final

import pytest

from tests.tidy.tree import PACKAGE, Tree, committed, imports_of, sample

LAYERS: Final[Mapping[str, int]] = {
    # 0: words
    "units": 0,
    "limits": 0,
    "errors": 0,
    "domain": 0,
    "clock": 0,
    # 1: pure
    "wire": 1,
    "dialects": 1,
    "policy": 1,
    "pricing": 1,
    "_native": 1,
    # 2: memory
    "store": 2,
    "trace": 2,
    "config": 2,
    "log": 2,
    # 3: shell, one process each
    "proxy": 3,
    "control": 3,
    "writer": 3,
    "replay": 3,
    # 4: program
    "supervisor": 4,
    "cli": 4,
    "simulator": 4,
}
PURE_LAYER_MAX: Final = 1
SHELL_LAYER: Final = 3
# Layers 0 and 1 are told the time, the bytes and the dice; `clock` is the one that asks.
IMPURE: Final = frozenset({"asyncio", "socket", "time", "os", "random", "lmdb", "aiohttp"})
ONLY_IN: Final[Mapping[str, str]] = {"lmdb": "store", "time": "clock"}


def part_of(module: str) -> str:
    """Return the part that a module of the package belongs to; empty for the package itself."""
    return module.removeprefix(PACKAGE).removeprefix(".").partition(".")[0]


def layer_faults(tree: Tree) -> Iterator[str]:
    """Yield each import that goes up or across, or that its layer may not know."""
    for name in tree.modules:
        part = part_of(name)
        if not part:
            continue
        if part not in LAYERS:
            yield f"{name}: `{part}` stands in no layer"
            continue
        for target, line in imports_of(tree, name):
            where = f"{name}:{line}"
            outer = target.partition(".")[0]
            if outer != PACKAGE:
                if LAYERS[part] <= PURE_LAYER_MAX and outer in IMPURE and part != "clock":
                    yield f"{where}: layer {LAYERS[part]} imports `{outer}`"
                if ONLY_IN.get(outer, part) != part:
                    yield f"{where}: only {ONLY_IN[outer]} imports `{outer}`"
                continue
            to = part_of(target)
            if not to or to == part or to not in LAYERS:
                continue  # The package itself has words only; an unknown part is told above.
            if LAYERS[to] > LAYERS[part]:
                yield f"{where}: imports up, `{part}` ({LAYERS[part]}) -> `{to}` ({LAYERS[to]})"
            elif LAYERS[to] == LAYERS[part] == SHELL_LAYER:
                yield f"{where}: imports across, `{part}` -> `{to}`"


def cycle_faults(tree: Tree) -> Iterator[str]:
    """Yield one import cycle, if there is any.

    Imports for the type checker alone count for the layers but not here: two types may name
    each other, but no module may need itself to load.
    """
    graph: dict[str, set[str]] = {}
    for name in tree.modules:
        unneeded = typing_lines(tree, name)
        needed = {target for target, line in imports_of(tree, name) if line not in unneeded}
        graph[name] = (needed & set(tree.modules)) - {name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as cycle:
        yield " -> ".join(reversed(cycle.args[1]))


def typing_lines(tree: Tree, name: str) -> set[int]:
    """Return the lines of a module that only the type checker runs."""
    lines: set[int] = set()
    for node in ast.walk(tree.modules[name]):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            lines.update(inner.lineno for inner in node.body)
    return lines


def test_no_import_goes_up_or_across_a_layer() -> None:
    assert list(layer_faults(committed())) == []


def test_no_module_imports_itself_through_others() -> None:
    assert list(cycle_faults(committed())) == []


@pytest.mark.parametrize(
    ("tree", "fault"),
    [
        (sample(wire__a="import modelux.trace.b", trace__b=""), "imports up"),
        (sample(proxy__a="from modelux.writer import b", writer__b=""), "imports across"),
        (sample(cli__a="", trace__b="from modelux.cli.a import x"), "imports up"),
        (sample(policy__a="import random"), "layer 1 imports `random`"),
        (sample(units="from time import monotonic"), "layer 0 imports `time`"),
        (sample(proxy__a="import lmdb"), "only store imports `lmdb`"),
        (sample(helpers="x = 1"), "stands in no layer"),
        (sample(wire__a="def f():\n    import modelux.proxy"), "imports up"),
    ],
)
def test_a_bad_import_is_found(tree: Tree, fault: str) -> None:
    assert any(fault in found for found in layer_faults(tree))


def test_a_cycle_is_found() -> None:
    tree = sample(
        store__a="import modelux.store.b", store__b="from modelux.store import c", store__c=""
    )
    assert list(cycle_faults(tree)) == []
    closed = sample(
        store__a="import modelux.store.b",
        store__b="from modelux.store import c",
        store__c="from modelux.store.a import x",
    )
    assert len(list(cycle_faults(closed))) == 1


def test_two_types_may_name_each_other() -> None:
    typed = "if TYPE_CHECKING:\n    from modelux.store.a import A"
    tree = sample(store__a="from modelux.store.b import B", store__b=typed)
    assert list(cycle_faults(tree)) == []
