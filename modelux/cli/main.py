"""The command `modelux`: finds the module of the word, reads its arguments, runs it.

Each word lives in its own module with `configure(parser)` and `run(args) -> int`, imported only
when it is used: the start of `serve` must not pay for what `logs` needs. Exit codes: 0 done,
1 failure, 2 usage, 78 bad configuration (the `EX_CONFIG` of BSD's sysexits).
"""

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, cast

from modelux import __version__
from modelux.errors import ConfigError, RefusedError, StoreError
from modelux.log import printable

EXIT_DONE: Final = 0
EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_CONFIG: Final = 78
EXIT_INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Word:
    """One command: where it lives and its line in the help."""

    module: str
    help: str


WORDS: Final[dict[str, Word]] = {
    "serve": Word("modelux.cli.serve", "run the gateway"),
    "init": Word("modelux.cli.init", "write a commented modelux.toml"),
    "check": Word("modelux.cli.check", "validate the configuration, say what would change"),
    "routes": Word("modelux.cli.routes", "list, show, change and roll back routing configs"),
    "keys": Word("modelux.cli.keys", "create, list and revoke keys"),
    "budgets": Word(
        "modelux.cli.budgets", "show what every cap has left; correct with a credit"
    ),
    "providers": Word(
        "modelux.cli.providers", "show health and latency; set back what bills have taught"
    ),
    "logs": Word("modelux.cli.logs", "show traces of requests"),
    "stats": Word("modelux.cli.stats", "report requests, cost and latency over a time span"),
    "audit": Word("modelux.cli.audit", "show who changed what; verify the chain"),
    "simulate": Word("modelux.cli.simulate", "run the stand-in provider"),
}


class CommandModule(Protocol):
    """What the module of a word has."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it; return the exit code.

        Besides what `configure` declared, `args.config` is the file of `--config` (a path or
        None) and `args.environ` the environment as a mapping.
        """


class _Parser(argparse.ArgumentParser):
    """argparse without abbreviations: `--work` must not come to mean another option later."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs["allow_abbrev"] = False
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def error(self, message: str) -> "None":  # type: ignore[override]
        """Exit 2 with the usage, the message, and where to read more."""
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {printable(message)}; see `{self.prog} --help`\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except ConfigError as failure:
        for fault in failure.faults:
            sys.stderr.write(f"{printable(fault)}\n")
        return EXIT_CONFIG
    except (RefusedError, StoreError) as failure:
        sys.stderr.write(f"modelux: {printable(str(failure))}\n")
        return EXIT_FAILURE
    except BrokenPipeError:
        # `modelux logs | head`: the reader has what it wanted. Python would complain once more
        # when it flushes stdout at exit, so that goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


def _run(arguments: list[str]) -> int:
    try:
        config, rest = take_config(arguments)
    except ValueError as failure:
        sys.stderr.write(f"modelux: {failure}\n")
        return EXIT_USAGE
    if not rest:
        sys.stderr.write(help_text())
        return EXIT_USAGE
    name, *words = rest
    if name in {"--version", "-V"}:
        sys.stdout.write(f"modelux {__version__}\n")
        return EXIT_DONE
    if name == "help" and words and words[0] in WORDS:
        name, words = words[0], ["--help"]
    elif name in {"--help", "-h", "help"}:
        sys.stdout.write(help_text())
        return EXIT_DONE
    if name in WORDS:
        return _run_word(name, words, config)
    sys.stderr.write(f"modelux: {_unknown(name)}\n")
    return EXIT_USAGE


def _run_word(name: str, words: Sequence[str], config: Path | None) -> int:
    module = cast("CommandModule", importlib.import_module(WORDS[name].module))
    parser = _Parser(
        prog=f"modelux {name}",
        description=WORDS[name].help.capitalize() + ".",
        epilog="--config FILE may stand anywhere: the configuration file (default: "
        "$MODELUX_CONFIG, then ./modelux.toml, then built-in defaults).",
    )
    module.configure(parser)
    try:
        args = parser.parse_args(words)
    except SystemExit as stop:  # argparse exits by itself after --help or a usage error.
        return stop.code if isinstance(stop.code, int) else EXIT_USAGE
    args.config = config
    # The one place that reads it: everything below is handed a mapping.
    args.environ = dict(os.environ)  # noqa: TID251
    return module.run(args)


def take_config(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Take `--config FILE` out of the arguments, wherever it stands before a `--`.

    Returns:
        The file of the last `--config`, None without one; and the other arguments in order.

    Raises:
        ValueError: `--config` without a file behind it.
    """
    config: Path | None = None
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word == "--config":
            value = next(words, None)
            if not value or value.startswith("-"):
                raise ValueError("`--config` needs a file behind it")
            config = Path(value)
        elif word.startswith("--config="):
            value = word.removeprefix("--config=")
            if not value:
                raise ValueError("`--config=` needs a file behind it")
            config = Path(value)
        else:
            rest.append(word)
    return config, rest


def help_text() -> str:
    """Return what `modelux --help` prints: every command with one line."""
    width = max(map(len, WORDS))
    lines = [f"  {name:<{width}}  {word.help}\n" for name, word in WORDS.items()]
    return (
        "usage: modelux COMMAND [OPTIONS] [--config FILE]\n\n"
        "A self-hosted gateway for LLM traffic: route, cap, trace, replay.\n\n"
        f"commands:\n{''.join(lines)}\n"
        "`modelux COMMAND --help` tells more; `modelux --version` prints the version.\n"
    )


def _unknown(name: str) -> str:
    nearest = difflib.get_close_matches(name, WORDS, n=1, cutoff=0.5)
    hint = f"did you mean `modelux {nearest[0]}`?" if nearest else "see `modelux --help`"
    kind = "option" if name.startswith("-") else "command"
    return f"unknown {kind} `{printable(name)}`; {hint}"


if __name__ == "__main__":
    sys.exit(main())
