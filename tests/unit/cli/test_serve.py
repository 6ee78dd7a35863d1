"""`modelux serve` before it serves: flags, limits, and what it refuses."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from modelux.cli.main import EXIT_CONFIG, EXIT_USAGE, main
from modelux.cli.serve import configure, flags_of, serve_options
from modelux.config.model import Address, Server


def flags(*words: str) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    configure(parser)
    return flags_of(parser.parse_args(words))


def test_flags_stand_for_the_options_of_the_same_name() -> None:
    assert flags() == {}
    assert flags("--listen", "[::1]:80", "--workers", "0") == {
        "listen": Address(host="::1", port=80),
        "workers": 0,
    }
    assert flags("--data-dir", "here")["data_dir"] == Path("here").resolve()


@pytest.mark.parametrize(
    "words", [["--listen", "80"], ["--workers", "-1"], ["--workers", "65"], ["--work", "1"]]
)
def test_a_flag_that_makes_no_sense_is_a_usage_error(words: list[str]) -> None:
    assert main(["serve", *words]) == EXIT_USAGE


def test_a_file_that_is_not_there_is_a_bad_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "none.toml"
    assert main(["serve", "--config", str(missing)]) == EXIT_CONFIG
    assert str(missing) in capsys.readouterr().err


def test_every_process_logs_as_the_options_say() -> None:
    server = Server(log_level="error", log_format="json")
    options = serve_options(server, {})
    for given in (options.worker_options, options.writer_options, options.control_options):
        assert (given["log_level"], given["log_format"]) == ("error", "json")
    assert options.workers >= 1


def test_it_refuses_to_run_without_asserts() -> None:
    done = subprocess.run(
        [sys.executable, "-O", "-m", "modelux.cli.main", "serve"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "python -O" in done.stderr
