"""The reference pages say what the code declares."""

from pathlib import Path

import pytest

from modelux._native import check_rule
from scripts.make_reference import FOLDER, PLACE, TABLES, renewed, table


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.md")), ids=lambda path: path.name)
def test_a_made_table_is_what_the_code_declares(path: Path) -> None:
    page = path.read_text("utf-8")
    assert page == renewed(page), f"out of date: run scripts/make_reference.py for {path.name}"


def test_every_table_stands_on_a_page() -> None:
    pages = "".join(path.read_text("utf-8") for path in FOLDER.glob("*.md"))
    assert {place[1] for place in PLACE.finditer(pages)} == set(TABLES)


def test_only_what_lies_in_its_place_is_renewed() -> None:
    page = "before\n<!-- made: errors -->\nold\n<!-- end -->\nafter\n"
    assert (
        renewed(page)
        == f"before\n<!-- made: errors -->\n{TABLES['errors']()}<!-- end -->\nafter\n"
    )


def test_a_bar_in_a_cell_does_not_split_it() -> None:
    assert table(("a",), [("x|y",)]) == "| a |\n| --- |\n| x\\|y |\n"


def test_the_rules_on_top_of_their_page_are_sound() -> None:
    page = (FOLDER / "rules.md").read_text("utf-8")
    rules = page.partition("```cel\n")[2].partition("```")[0].splitlines()
    assert len(rules) > 3
    assert [check_rule(rule, answers=False).fault for rule in rules] == [None] * len(rules)
