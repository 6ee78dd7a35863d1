"""Every example of the pages on strategies is a configuration that is accepted."""

from pathlib import Path
from typing import Final

import pytest

from modelux.config.file import load_config
from modelux.config.model import STRATEGIES
from tests.docs.examples import EXAMPLES, FOLDER, Example

PROVIDERS: Final = """
[providers.openai]
vendor = "openai"
api_key = "env:SOME_KEY"

[providers.anthropic]
vendor = "anthropic"
api_key = "env:SOME_KEY"

"""


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_an_example_is_accepted(example: Example, tmp_path: Path) -> None:
    path = tmp_path / "modelux.toml"
    path.write_text(PROVIDERS + example.toml, "utf-8")
    config = load_config(path, {"SOME_KEY": "sk-example-0123456789abcdef"})
    assert [route.slug for route in config.routes] == [example.slug]


def test_each_strategy_has_a_page_with_an_example_of_it() -> None:
    for strategy in STRATEGIES:
        page = f"{strategy.replace('_', '-')}.md"
        assert f'strategy = "{strategy}"' in (FOLDER / page).read_text("utf-8")
        assert any(example.page == page for example in EXAMPLES), page


def test_the_index_leads_to_every_page() -> None:
    index = (FOLDER / "README.md").read_text("utf-8")
    for page in FOLDER.glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index
