"""Renew the tables in `docs/reference/` that are made from declarations in the code.

A page is prose with places for tables, `<!-- made: NAME -->` to `<!-- end -->`; only what lies
between is replaced. `tests/docs/` compares, so a declaration and its page cannot part.

Usage: python scripts/make_reference.py
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

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


TABLES: Final[Mapping[str, Callable[[], str]]] = {"errors": errors}


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
