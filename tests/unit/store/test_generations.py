"""A worker generation is never given twice."""

from pathlib import Path

import pytest

from modelux.errors import StoreError
from modelux.store.generations import BLOCK_COUNT, Generations
from modelux.store.layout import GENERATIONS_FILE


def test_numbers_only_grow(tmp_path: Path) -> None:
    generations = Generations(tmp_path)
    given = [generations.next() for _ in range(2 * BLOCK_COUNT + 1)]
    assert given == sorted(set(given))


def test_an_instance_that_was_killed_leaves_numbers_unused_never_used_twice(
    tmp_path: Path,
) -> None:
    given: list[int] = []
    for _ in range(5):
        generations = Generations(tmp_path)  # Dropped as it is: a kill leaves no more behind.
        given += [generations.next() for _ in range(BLOCK_COUNT // 2 + 1)]
    assert len(set(given)) == len(given)


def test_numbers_lie_above_those_of_files_that_were_found(tmp_path: Path) -> None:
    assert Generations(tmp_path, at_least=5_000).next() == 5_001


def test_a_damaged_file_is_refused_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / GENERATIONS_FILE).write_text("x")
    with pytest.raises(StoreError, match="write a number"):
        Generations(tmp_path)
