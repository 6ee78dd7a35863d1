"""Renew the tables in `docs/reference/` that are made from declarations in the code.

A page is prose with places for tables, `<!-- made: NAME -->` to `<!-- end -->`; only what lies
between is replaced. `tests/docs/` compares, so a declaration and its page cannot part.

Usage: python scripts/make_reference.py
"""

import argparse
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from modelux._native import (
    RULE_DEPTH_MAX,
    RULE_FUNCTIONS,
    RULE_NODES_MAX,
    RULE_TEXT_BYTES_MAX,
    RULE_VARIABLES,
)
from modelux.cli.main import WORDS
from modelux.config.model import reference
from modelux.control.metrics import METRICS
from modelux.errors import ROWS

FOLDER: Final = Path(__file__).resolve().parent.parent / "docs" / "reference"
VECTORS: Final = FOLDER.parent.parent / "tests" / "vectors" / "rules.json"
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


def rule_limits() -> str:
    """Return what bounds a rule."""
    return table(
        ("limit", "most"),
        [
            ("bytes of text", f"{RULE_TEXT_BYTES_MAX:,}"),
            ("values, variables, operators and calls", f"{RULE_NODES_MAX:,}"),
            ("depth: parentheses, lists, arguments, `!` and `-`, choices", f"{RULE_DEPTH_MAX}"),
            ("an integer", "2^53"),
        ],
    )


def rule_variables() -> str:
    """Return every variable of rules."""
    answers = {True: "answers", False: ""}
    return table(
        ("variable", "type", "only in rules about", "meaning"),
        [
            (f"`{name}`", kind, answers[in_answers], meaning)
            for name, kind, in_answers, meaning in RULE_VARIABLES
        ],
    )


def rule_functions() -> str:
    """Return every function of rules."""
    return table(
        ("function", "gives"), [(f"`{form}`", meaning) for form, meaning in RULE_FUNCTIONS]
    )


def rule_examples() -> str:
    """Return those of the vectors that say why, by topic."""
    vectors = json.loads(VECTORS.read_text("utf-8"))
    parts = []
    for topic, title in vectors["topics"].items():
        rows = []
        for case in vectors["cases"]:
            if case["topic"] == topic and "why" in case:
                # A list is two numbers between which the value lies.
                given = [
                    f"`{name}` {'between' if isinstance(value, list) else '='} "
                    + " and ".join(
                        f"`{json.dumps(part, ensure_ascii=False)}`"
                        for part in (value if isinstance(value, list) else [value])
                    )
                    for name, value in case["values"].items()
                ]
                says = json.dumps(case["says"]).strip('"')
                rows.append((f"`{case['text']}`", ", ".join(given), says, case["why"]))
        parts.append(f"\n### {title}\n\n{table(('rule', 'with', 'says', 'for'), rows)}")
    return "".join(parts)


def rule_faults() -> str:
    """Return some of the vectors that are no rules."""
    vectors = json.loads(VECTORS.read_text("utf-8"))
    return table(
        ("text", "line, column", "said of it"),
        [
            (
                f"`{' ⏎ '.join(fault['text'].splitlines())}`",
                f"{fault['line']}, {fault['column']}",
                fault["message"],
            )
            for fault in vectors["faults"]
            if "shown" in fault
        ],
    )


TABLES: Final[Mapping[str, Callable[[], str]]] = {
    "errors": errors,
    "commands": commands,
    "config": config,
    "metrics": metrics,
    "rule_limits": rule_limits,
    "rule_variables": rule_variables,
    "rule_functions": rule_functions,
    "rule_examples": rule_examples,
    "rule_faults": rule_faults,
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
