"""The command line's frame: dispatch, `--config` anywhere, exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

from modelux import __version__
from modelux.cli.main import EXIT_USAGE, WORDS, help_text, main, take_config


def test_config_is_taken_from_wherever_it_stands() -> None:
    assert take_config(["routes", "set", "--config", "a.toml", "x", "y.json"]) == (
        Path("a.toml"),
        ["routes", "set", "x", "y.json"],
    )
    assert take_config(["serve", "--config=a.toml"]) == (Path("a.toml"), ["serve"])
    assert take_config(["serve"]) == (None, ["serve"])


def test_what_follows_two_dashes_is_left_alone() -> None:
    assert take_config(["logs", "--", "--config", "a"]) == (
        None,
        ["logs", "--", "--config", "a"],
    )


@pytest.mark.parametrize("words", [["--config"], ["--config", "--json"], ["--config="]])
def test_config_without_a_file_is_a_usage_error(words: list[str]) -> None:
    assert main(["serve", *words]) == EXIT_USAGE


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert printed == help_text()
    assert all(f"\n  {name} " in printed for name in WORDS)


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"modelux {__version__}\n"


def test_an_unknown_command_names_the_nearest_known_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["rotues"]) == EXIT_USAGE
    assert "`rotues`; did you mean `modelux routes`?" in capsys.readouterr().err


def test_an_unknown_command_cannot_write_escapes_to_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["\x1b[31m"]) == EXIT_USAGE
    assert "\x1b" not in capsys.readouterr().err


def test_no_command_at_all_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == EXIT_USAGE
    assert "usage: modelux" in capsys.readouterr().err


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "modelux.cli.main", "--version"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_reader_that_leaves_early_is_no_failure() -> None:
    """The help goes to a pipe that nobody reads: no traceback, no complaint at exit."""
    command = f"{sys.executable} -m modelux.cli.main --help"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; (trap '' PIPE; {command}) | true"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == b""
