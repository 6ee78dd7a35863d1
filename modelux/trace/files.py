"""Where the trace store keeps what, and how old a file is by its name alone.

```
data_dir/traces/2026-01-31.db            records, tags, rollups of one UTC day (SQLite, WAL)
data_dir/traces/bodies/2026-01-31T13.7   bodies of one UTC hour, part 7 (append-only)
data_dir/spill/spill.S.G.N               what ring S.G could not take
```
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

from modelux.units import US_PER_S, UnixUs

SECONDS_A_DAY: Final = 86_400
US_A_DAY: Final = SECONDS_A_DAY * US_PER_S
US_AN_HOUR: Final = 3_600 * US_PER_S
US_A_MINUTE: Final = 60 * US_PER_S

_DAY_FILE: Final = re.compile(r"\d{4}-\d{2}-\d{2}\.db", re.ASCII)
_BODY_FILE: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}\.\d{1,9}", re.ASCII)
_EPOCH: Final = date(1970, 1, 1)


@dataclass(frozen=True, slots=True, order=True)
class BodyPart:
    """One body file: orders as it was made."""

    hour: int
    """Hours since 1970."""
    part: int

    def name(self) -> str:
        """Return the file's name."""
        at = datetime.fromtimestamp(self.hour * 3_600, UTC)
        return f"{at:%Y-%m-%dT%H}.{self.part}"


@dataclass(frozen=True, slots=True)
class TraceFiles:
    """The files of one store."""

    root: Path

    @property
    def bodies(self) -> Path:
        """The directory of the body files."""
        return self.root / "bodies"

    def day_path(self, day: int) -> Path:
        """Return the path of a day's database; `day` counts from 1970."""
        return self.root / f"{_EPOCH + timedelta(days=day):%Y-%m-%d}.db"

    def days(self) -> list[int]:
        """Return the days that have a database, ascending."""
        try:
            names = [path.name for path in self.root.iterdir()]
        except FileNotFoundError:
            return []
        found = [_day_of_name(name) for name in names if _DAY_FILE.fullmatch(name)]
        return sorted(day for day in found if day is not None)

    def body_path(self, part: BodyPart) -> Path:
        """Return the path of a body file."""
        return self.bodies / part.name()

    def body_parts(self) -> list[BodyPart]:
        """Return the body files that exist, oldest first."""
        try:
            names = [path.name for path in self.bodies.iterdir()]
        except FileNotFoundError:
            return []
        found = [_part_of_name(name) for name in names if _BODY_FILE.fullmatch(name)]
        return sorted(part for part in found if part is not None)


def trace_files(data_dir: Path) -> TraceFiles:
    """Return the files of the store in `data_dir`."""
    return TraceFiles(data_dir / "traces")


def spill_dir(data_dir: Path) -> Path:
    """Return where spill files lie."""
    return data_dir / "spill"


def day_of(ts_us: int) -> int:
    """Return the UTC day of an instant, counted from 1970."""
    return ts_us // US_A_DAY


def hour_of(ts_us: UnixUs) -> int:
    """Return the UTC hour of an instant, counted from 1970."""
    return ts_us // US_AN_HOUR


def _day_of_name(name: str) -> int | None:
    try:
        return (date.fromisoformat(name.removesuffix(".db")) - _EPOCH).days
    except ValueError:
        return None


def _part_of_name(name: str) -> BodyPart | None:
    hour, _, part = name.partition(".")
    try:
        at = datetime.strptime(hour, "%Y-%m-%dT%H").replace(tzinfo=UTC)
    except ValueError:
        return None
    return BodyPart(int(at.timestamp()) // 3_600, int(part))
