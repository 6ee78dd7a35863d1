"""Numbers for worker generations that are never given twice, over restarts and kills.

Ring and spill files are named by them, so a number that came back would mix the traces of two
workers. A block of numbers is written to the disk as used up before the first of them is given:
a kill loses numbers, never repeats one.
"""

import os
from pathlib import Path
from typing import Final, final

from modelux.errors import StoreError
from modelux.store.layout import GENERATIONS_FILE

BLOCK_COUNT: Final = 1_000


@final
class Generations:
    """Gives the numbers; one instance a `data_dir`, under its lock."""

    __slots__ = ("_last", "_path", "_used_up")

    def __init__(self, data_dir: Path, *, at_least: int = 0) -> None:
        self._path = data_dir / GENERATIONS_FILE
        self._last = max(self._read(), at_least)
        self._used_up = self._last

    def next(self) -> int:
        """Return a number larger than all that were given before for this `data_dir`."""
        if self._last == self._used_up:
            self._used_up += BLOCK_COUNT
            self._write(self._used_up)
        self._last += 1
        return self._last

    def _read(self) -> int:
        if not self._path.exists():
            return 0
        text = self._path.read_text(encoding="ascii").strip()
        if not text.isdecimal():
            raise StoreError(
                f"{self._path}: is damaged; write a number into it that is larger than that of "
                "any ring or spill file"
            )
        return int(text)

    def _write(self, number: int) -> None:
        fresh = self._path.with_suffix(".new")
        with fresh.open("w", encoding="ascii") as file:
            file.write(f"{number}\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
