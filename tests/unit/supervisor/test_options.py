"""The answer to a reload: numbered, whole, and readable after any accident."""

import json
from pathlib import Path

import pytest

from modelux.store.layout import RELOAD_FILE
from modelux.supervisor.options import last_reload_seq, write_reload
from modelux.units import UnixUs


def test_each_answer_has_the_next_number_and_names_its_faults(tmp_path: Path) -> None:
    assert last_reload_seq(tmp_path) == 0
    assert write_reload(tmp_path, (), UnixUs(5)) == 1
    assert write_reload(tmp_path, ["a", "b"], UnixUs(6)) == 2
    assert json.loads((tmp_path / RELOAD_FILE).read_text()) == {
        "seq": 2,
        "ok": False,
        "faults": ["a", "b"],
        "at_us": 6,
    }


@pytest.mark.parametrize("junk", ["", "[]", "{", '{"seq": "x"}', "{}"])
def test_a_damaged_answer_counts_as_none(tmp_path: Path, junk: str) -> None:
    (tmp_path / RELOAD_FILE).write_text(junk)
    assert last_reload_seq(tmp_path) == 0
    assert write_reload(tmp_path, (), UnixUs(1)) == 1
