"""The store of a configuration in a folder of the test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelux.config.versions import ControlDb


@pytest.fixture
def db(tmp_path: Path) -> Iterator[ControlDb]:
    db = ControlDb(tmp_path / "data")
    yield db
    db.close()
