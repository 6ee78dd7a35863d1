"""What rots silently in Python: late imports, shared state, broad excepts, files out of use."""

import ast
from collections.abc import Iterator
from typing import Final

import pytest

from tests.tidy.tree import PACKAGE, Tree, committed, imports_of, sample

# Four places may catch everything, because nothing above them could: each counts or logs it.
BROAD_EXCEPTS: Final = frozenset(
    {
        "modelux.control.app.errors_in_our_shape.answer",
        "modelux.proxy.resumable.Resumable._run",
        "modelux.supervisor.process.Supervisor._turn",
        "modelux.writer.loop.TraceWriter._store_all",
    }
)

MUTABLE_CALLS: Final = frozenset(
    {"list", "dict", "set", "bytearray", "defaultdict", "deque", "Counter", "OrderedDict"}
)
MUTATORS: Final = frozenset(
    {
        "append", "extend", "insert", "remove", "pop", "clear", "add", "discard", "update",
        "setdefault", "popitem", "appendleft", "popleft", "sort", "reverse",
    }
)  # fmt: skip
FORBIDDEN_NAMES: Final = frozenset(
    {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}
)
FORBIDDEN_WORDS: Final = (
    "Manager", "Handler", "Helper", "Util", "Utils", "Base", "Abstract", "Impl", "Data",
    "Info", "V2", "Modelux",
)  # fmt: skip


def late_import_faults(tree: Tree) -> Iterator[str]:
    """Yield each import inside a function."""
    for name, module in tree.modules.items():
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Import | ast.ImportFrom):
                        yield f"{name}:{inner.lineno}: import inside `{node.name}`"


def state_faults(tree: Tree) -> Iterator[str]:
    """Yield module-level state: what is not `Final`, and what a function changes."""
    for name, module in tree.modules.items():
        shared: set[str] = set()
        for node in module.body:
            match node:
                case ast.Assign(targets=[ast.Name(id=target)], value=value):
                    if _is_mutable(value) and target != "__all__":
                        shared.add(target)
                        yield f"{name}:{node.lineno}: `{target}` is mutable and not `Final`"
                case ast.AnnAssign(target=ast.Name(id=target), value=value, annotation=note):
                    if value is not None and _is_mutable(value):
                        shared.add(target)
                        if not ast.unparse(note).startswith("Final"):
                            yield f"{name}:{node.lineno}: `{target}` is mutable, not `Final`"
                case _:
                    pass
        for inner in ast.walk(module):
            match inner:
                case ast.Global():
                    yield f"{name}:{inner.lineno}: `global`"
                case ast.Subscript(value=ast.Name(id=target), ctx=ast.Store() | ast.Del()):
                    if target in shared:
                        yield f"{name}:{inner.lineno}: `{target}` is changed"
                case ast.Call(func=ast.Attribute(value=ast.Name(id=target), attr=verb)):
                    if target in shared and verb in MUTATORS:
                        yield f"{name}:{inner.lineno}: `{target}` is changed"
                case _:
                    pass


def _is_mutable(value: ast.expr) -> bool:
    match value:
        case ast.List() | ast.Dict() | ast.Set() | ast.ListComp() | ast.DictComp():
            return True
        case ast.SetComp():
            return True
        case ast.Call(func=ast.Name(id=maker)):
            return maker in MUTABLE_CALLS
        case _:
            return False


def broad_excepts(tree: Tree) -> Iterator[str]:
    """Yield `module.function` for each handler that catches everything."""
    for name, module in tree.modules.items():
        yield from _broad_in(module, name)


def _broad_in(node: ast.AST, where: str) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        inner = where
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{where}.{child.name}"
        if isinstance(child, ast.ExceptHandler) and _catches_all(child):
            yield where
        yield from _broad_in(child, inner)


def _catches_all(handler: ast.ExceptHandler) -> bool:
    # One that tidies up and raises again hides nothing.
    if isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None:
        return False
    if handler.type is None:
        return True
    return any(
        isinstance(node, ast.Name | ast.Attribute)
        and ast.unparse(node).rpartition(".")[2]
        in {"BaseException", "Exception", "PanicException"}
        for node in ast.walk(handler.type)
    )


def name_faults(tree: Tree) -> Iterator[str]:
    """Yield modules and classes with a name that says nothing."""
    for name, module in tree.modules.items():
        if name.rpartition(".")[2] in FORBIDDEN_NAMES:
            yield f"{name}: says nothing about what is in it"
        for node in ast.walk(module):
            if isinstance(node, ast.ClassDef) and (
                node.name.endswith(FORBIDDEN_WORDS)
                or node.name.startswith(("Base", "Abstract"))
            ):
                # The public client carries the product's name: it is what users type.
                if node.name in {"Modelux", "AsyncModelux"}:
                    continue
                yield f"{name}:{node.lineno}: class `{node.name}`"


def dataclass_faults(tree: Tree) -> Iterator[str]:
    """Yield dataclasses without slots: a misspelt attribute would be stored, not refused."""
    for name, module in tree.modules.items():
        for node in ast.walk(module):
            if not isinstance(node, ast.ClassDef):
                continue
            for decorator in node.decorator_list:
                words = ast.unparse(decorator)
                if "dataclass" in words and "slots=True" not in words:
                    yield f"{name}:{node.lineno}: `{node.name}` has no slots"


def unused_faults(tree: Tree) -> Iterator[str]:
    """Yield modules that nothing imports, runs by name, or declares as a command."""
    used = {target for name in tree.modules for target, _ in imports_of(tree, name)}
    elsewhere = [text for path, text in tree.texts.items() if not path.startswith("tests/")]
    for name in tree.modules:
        if (
            name in used
            or f"{PACKAGE}/{_path(name)}/__init__.py" in tree.texts
            or not _path(name)
        ):
            continue
        # Words of the command line, `python -m` and pyproject.toml name modules in quotes.
        if any(f'"{name}"' in text or f'"{name}:' in text for text in elsewhere):
            continue
        yield f"{name}: nobody imports it"


def _path(name: str) -> str:
    return name.removeprefix(PACKAGE).removeprefix(".").replace(".", "/")


def patch_faults(tree: Tree) -> Iterator[str]:
    """Yield tests that replace a name inside what they test instead of passing a fake."""
    for path, text in tree.under("tests/", "bench/", suffix=".py").items():
        if path == "tests/tidy/test_python.py":
            continue
        for line, words in enumerate(text.splitlines(), 1):
            if (
                "mock.patch" in words
                or "monkeypatch.setattr" in words
                or "import mock" in words
            ):
                yield f"{path}:{line}: patches a name: pass a fake"


def test_imports_stand_at_the_top() -> None:
    assert list(late_import_faults(committed())) == []


def test_modules_hold_no_state() -> None:
    assert list(state_faults(committed())) == []


def test_everything_is_caught_only_in_the_named_places() -> None:
    assert set(broad_excepts(committed())) == BROAD_EXCEPTS


def test_names_say_something() -> None:
    assert list(name_faults(committed())) == []


def test_dataclasses_have_slots() -> None:
    assert list(dataclass_faults(committed())) == []


def test_every_module_is_used() -> None:
    assert list(unused_faults(committed())) == []


def test_tests_patch_nothing() -> None:
    assert list(patch_faults(committed())) == []


@pytest.mark.parametrize(
    "text",
    [
        "cache = {}",
        "seen: list[str] = []",
        "names: Final = set()\ndef f(x):\n    names.add(x)",
        "table: Final = {}\ndef f(x):\n    table[x] = 1",
        "n = 0\ndef f():\n    global n\n    n = 1",
    ],
)
def test_state_is_found(text: str) -> None:
    assert list(state_faults(sample(a=text)))


def test_a_constant_table_is_no_state() -> None:
    assert list(state_faults(sample(a="TABLE: Final = {1: 2}\nNAMES = (1, 2)"))) == []


@pytest.mark.parametrize(
    "handler",
    ["except:", "except Exception:", "except BaseException as e:", "except (A, Exception):"],
)
def test_a_broad_except_is_found_with_its_function(handler: str) -> None:
    text = f"class C:\n  def f(self):\n    try:\n      g()\n    {handler}\n      h()"
    assert list(broad_excepts(sample(proxy__a=text))) == ["modelux.proxy.a.C.f"]


def test_a_narrow_except_is_not_found() -> None:
    text = "try:\n    g()\nexcept (OSError, KeyError):\n    h()"
    assert list(broad_excepts(sample(a=text))) == []


def test_a_handler_that_raises_again_is_not_found() -> None:
    text = "try:\n    g()\nexcept BaseException:\n    h()\n    raise"
    assert list(broad_excepts(sample(a=text))) == []


def test_a_late_import_is_found() -> None:
    assert list(late_import_faults(sample(a="def f():\n    if x:\n        import json")))


def test_an_empty_name_is_found() -> None:
    assert list(name_faults(sample(store__helpers="")))
    assert list(name_faults(sample(store__a="class PoolManager: pass")))


def test_a_dataclass_without_slots_is_found() -> None:
    assert list(dataclass_faults(sample(a="@dataclass(frozen=True)\nclass A: pass")))
    assert list(dataclass_faults(sample(a="@dataclass(slots=True)\nclass A: pass"))) == []


def test_a_module_out_of_use_is_found() -> None:
    tree = sample(a="import modelux.b\nWORD = 'x'\nrun('-m', \"modelux.c\")", b="", c="", d="")
    found = " ".join(unused_faults(tree))
    assert "modelux.d:" in found
    assert "modelux.b" not in found
    assert "modelux.c" not in found


def test_a_patched_name_is_found() -> None:
    text = "def test(monkeypatch):\n    monkeypatch.setattr(a, 'b', 1)\n"
    assert list(patch_faults(Tree({"tests/unit/test_a.py": text})))
