"""`modelux init`: a commented file that loads as it is."""

from itertools import combinations
from pathlib import Path

import pytest

from modelux.cli.init import file_text, write_file
from modelux.config.file import STARTERS, load_config
from modelux.errors import RefusedError
from tests.unit.cli.conftest import FILE, Operator

VARIABLES = [variable for variable, _ in STARTERS.values()]


@pytest.mark.parametrize(
    "variables",
    [chosen for count in (0, 1, 2, 3) for chosen in combinations(VARIABLES, count)],
)
@pytest.mark.parametrize("local", [(), ("llama3.2",), ('odd"name',)])
def test_what_is_written_loads(
    tmp_path: Path, variables: tuple[str, ...], local: tuple[str, ...]
) -> None:
    env = dict.fromkeys(variables, "sk-x")
    if not variables and not local:
        with pytest.raises(RefusedError, match="no provider: none of OPENAI_API_KEY"):
            file_text(env, local)
        return
    path = tmp_path / "modelux.toml"
    path.write_text(file_text(env, local), "utf-8")

    config = load_config(path, env)

    assert len(config.providers) == len(variables) + len(local)
    assert [route.slug for route in config.routes] == ["production"]
    assert len(config.routes[0].config.targets) == len(config.providers)
    assert config.makes_default_key
    assert "sk-x" not in path.read_text()


def test_commented_lines_load_too(tmp_path: Path) -> None:
    """Goal: an operator takes a `#` away and it works."""
    text = file_text({"OPENAI_API_KEY": "x"}, ())
    uncommented = "\n".join(
        line.removeprefix("# ") if "=" in line or line.startswith("# [") else line
        for line in text.splitlines()
    )
    path = tmp_path / "modelux.toml"
    path.write_text(uncommented)

    config = load_config(path, {}, with_secrets=False)

    assert {provider.name for provider in config.providers} == {*STARTERS, "vllm"}
    assert len(config.projects[0].keys) == 2
    assert len(config.prices) == 1


def test_a_file_that_is_there_is_replaced_only_by_force(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")

    done = operator.run("init")

    assert done.code == 1
    assert "is there already" in done.err
    assert (operator.folder / "modelux.toml").read_text() == FILE
    assert operator.run("init", "--force").code == 0
    assert "env:OPENAI_API_KEY" in (operator.folder / "modelux.toml").read_text()
    assert operator.run("check").code == 0


def test_the_file_goes_where_config_says(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "x")

    assert operator.run("init", "--config", "other.toml").code == 0
    assert operator.run("check", "--config", "other.toml").code == 0


def test_a_replaced_file_leaves_no_draft_behind(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_file(path, "one", is_replacing=False)
    write_file(path, "two", is_replacing=True)

    assert path.read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]
