"""Renew the tables in `docs/reference/` that are made from declarations in the code.

A page is prose with places for tables, `<!-- made: NAME -->` to `<!-- end -->`; only what lies
between is replaced. `tests/docs/` compares, so a declaration and its page cannot part.

Usage: python scripts/make_reference.py
"""

import argparse
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from modelux.cli.main import WORDS
from modelux.config.model import reference
from modelux.control.metrics import METRICS
from modelux.errors import ROWS

FOLDER: Final = Path(__file__).resolve().parent.parent / "docs" / "reference"
PLACE: Final = re.compile(r"(?<=<!-- made: )(\w+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; `|` inside a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    cells = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def errors() -> str:
    """Return every error that modelux answers with, by status."""
    asks = {True: "yes", False: "no", None: ""}
    ordered = sorted(ROWS.items(), key=lambda item: (item[1].status, item[0].value))
    return table(
        ("status", "`type`", "`code`", "when", "retry"),
        [
            (str(row.status), f"`{row.type}`", f"`{c.value}`", row.when, asks[row.should_retry])
            for c, row in ordered
        ],
    )


def commands() -> str:
    """Return every command with its arguments, in the order of `modelux --help`."""
    rows = []
    for name, word in WORDS.items():
        parser = argparse.ArgumentParser(add_help=False)
        importlib.import_module(word.module).configure(parser)
        rows.append((f"`modelux {name}`", f"{word.help[0].upper()}{word.help[1:]}."))
        rows += arguments(f"modelux {name}", parser)
    return table(("command", "does"), rows)


def arguments(words: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Yield the arguments of one command, and those of the commands inside it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            prose = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, inner in action.choices.items():
                yield f"`{words} {name}`", prose.get(name, "")
                yield from arguments(f"{words} {name}", inner)
        elif action.help != argparse.SUPPRESS and action.dest != "help":
            value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
            value = " ".join(value) if isinstance(value, tuple) else value
            longest = sorted(action.option_strings, key=len)[-1:]
            shown = " ".join((*longest, value)).strip()
            optional = not action.option_strings and action.nargs in {"?", "*"}
            said = (action.help or "") % vars(action)
            yield f"… `{f'[{shown}]' if optional else shown}`", said


def metrics() -> str:
    """Return every metric, in the order of `/metrics`."""
    return table(
        ("metric", "kind", "labels", "meaning"),
        [
            (f"`{m.name}`", m.kind.value, ", ".join(f"`{label}`" for label in m.labels), m.help)
            for m in METRICS
        ],
    )


def config() -> str:
    """Return every option of the configuration file, one table for each of its tables."""
    parts = []
    for section in reference():
        rows = []
        for row in section.rows:
            number = row.default[:1].isdigit()
            shown = f"{row.default} {row.unit}".strip() if number else row.default
            kind = f"{row.kind}, {row.unit}" if row.unit else row.kind
            span = f"; {row.range}" if row.range else ""
            cells = (f"`{row.name}`", shown.replace("<", "&lt;"))
            rows.append((*cells, f"{row.prose} ({kind}{span})"))
        parts.append(
            f"\n## `{section.title}`\n\n{table(('option', 'default', 'meaning'), rows)}"
        )
        if section.later:
            names = ", ".join(f"`{name}`" for name in section.later)
            parts.append(f"\nNot in this release, and refused by name: {names}.\n")
    return "".join(parts)


TABLES: Final[Mapping[str, Callable[[], str]]] = {
    "errors": errors,
    "commands": commands,
    "config": config,
    "metrics": metrics,
}


def renewed(page: str) -> str:
    """Return `page` with every made table as the code declares it."""
    return PLACE.sub(lambda place: f"{place[1]}{place[2]}{TABLES[place[1]]()}", page)


def main() -> int:
    """Renew every page; return the exit code."""
    for path in sorted(FOLDER.glob("*.md")):
        path.write_text(renewed(path.read_text("utf-8")), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
