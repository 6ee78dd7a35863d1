"""The examples of the pages on strategies: each a routing config as it stands in the file."""

import re
from dataclasses import dataclass
from typing import Final

from tests.tidy.tree import ROOT

FOLDER: Final = ROOT / "docs" / "guide" / "strategies"

_BLOCK: Final = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SLUG: Final = re.compile(r"^\[routes\.([\w-]+)\]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Example:
    """One block of TOML on a page."""

    page: str
    slug: str
    toml: str

    def __str__(self) -> str:
        return f"{self.page}:{self.slug}"


def _examples() -> tuple[Example, ...]:
    return tuple(
        Example(path.name, _SLUG.findall(block)[0], block)
        for path in sorted(FOLDER.glob("*.md"))
        for block in _BLOCK.findall(path.read_text("utf-8"))
    )


EXAMPLES: Final = _examples()
