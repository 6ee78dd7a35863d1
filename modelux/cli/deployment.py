"""What the commands on routes, keys and audit share: which deployment they are about.

A command works on `control.db` whether a server runs or not: a running one notices the change
by itself. What is changed is checked against the configuration that was applied last, which is
the one the server runs, and not against a file that it has not loaded yet.
"""

import argparse
import getpass
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from modelux.config.database import FILE_NAME, Who
from modelux.config.file import config_from_declaration, data_dir_of, find_config, load_config
from modelux.config.model import Config
from modelux.config.versions import ControlDb
from modelux.log import printable
from modelux.supervisor.configuration import ollama_models
from modelux.units import US_PER_S, UnixUs

DEFAULT_PROJECT: Final = "default"
_AGO_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGO_COUNT_MAX: Final = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One data directory, and who asks."""

    path: Path | None
    """The configuration file; None for built-in defaults."""
    environ: dict[str, str]
    data_dir: Path
    db: ControlDb

    def config(self) -> Config:
        """Return the configuration that was applied last, or else the file, without secrets.

        Raises:
            ConfigError: Nothing was applied yet and the file cannot be used.
        """
        applied = self.db.declaration()
        if applied is not None:
            return config_from_declaration(applied, self.environ)
        return load_config(self.path, self.environ, probe=ollama_models, with_secrets=False)

    def who(self, command: str, why: str = "") -> Who:
        """Return who asks, for the audit log."""
        return Who(
            actor=f"cli:{login()}", source=f"{command} on {os.uname().nodename}", why=why
        )


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """Declare `--data-dir`, for a server that was started with one."""
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="as given to `modelux serve`, if it was"
    )


@contextmanager
def open_deployment(args: argparse.Namespace, *, is_reading: bool) -> Iterator[Deployment]:
    """Open the deployment that the arguments name.

    Args:
        args: With `config`, `environ` and `data_dir`.
        is_reading: Whether nothing is changed: then nothing is made where nothing was kept.

    Raises:
        ConfigError: A configuration file is named that cannot be read.
        StoreError: `control.db` cannot be used.
    """
    path = find_config(args.config, args.environ)
    data_dir = args.data_dir.resolve() if args.data_dir else data_dir_of(path)
    is_kept = (data_dir / FILE_NAME).exists()
    db = ControlDb(data_dir if is_kept or not is_reading else None)
    try:
        yield Deployment(path=path, environ=args.environ, data_dir=data_dir, db=db)
    finally:
        db.close()


def login() -> str:
    """Return the operator's login name, or the number where it has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


def parse_since(text: str, now: UnixUs) -> UnixUs:
    """Read `1h`, `30m`, `7d` ago, a date, or a date and time (UTC without an offset).

    Raises:
        ValueError: It is none of these; the message has the fix.
    """
    count, unit = text[:-1], text[-1:]
    if unit in _AGO_UNITS and count.isascii() and count.isdecimal():
        ago_s = min(int(count), _AGO_COUNT_MAX) * _AGO_UNITS[unit]
        return UnixUs(now - ago_s * US_PER_S)
    return parse_instant(text)


def parse_instant(text: str) -> UnixUs:
    """Read a date, or a date and time; without an offset it is UTC.

    Raises:
        ValueError: It is neither; the message has the fix.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f'"{printable(text)}" is neither a time ago, as 1h or 7d, nor a date, as 2027-01-31'
        ) from None
    instant = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    since = instant - datetime(1970, 1, 1, tzinfo=UTC)
    return UnixUs((since.days * 86_400 + since.seconds) * US_PER_S + since.microseconds)


def instant_text(at: UnixUs) -> str:
    """Return an instant as ISO 8601 in UTC, to the second."""
    seconds = at // US_PER_S
    try:
        instant = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return str(at)
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")


def write(*lines: str) -> None:
    """Print lines; what a terminal could obey in them is escaped."""
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))


def remark(line: str) -> None:
    """Say something beside the result, on stderr."""
    sys.stderr.write(f"{printable(line)}\n")


def table_lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table with aligned columns."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def write_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with aligned columns."""
    write(*table_lines(head, rows))


def write_json(value: object) -> None:
    """Print a value as JSON on several lines."""
    # Everything that a terminal could obey is escaped by JSON itself.
    sys.stdout.write(f"{json.dumps(value, indent=2)}\n")
