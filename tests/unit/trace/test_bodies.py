from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelux.trace.bodies import BodyPlace, BodyWriter, load_bodies
from modelux.trace.files import BodyPart, trace_files

HOUR = 500_000


@given(st.lists(st.tuples(st.binary(max_size=300), st.binary(max_size=300)), max_size=8))
def test_bodies_come_back_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, bodies: list[tuple[bytes, bytes]]
) -> None:
    files = trace_files(tmp_path_factory.mktemp("bodies"))
    writer = BodyWriter(files)
    places = writer.append(HOUR, bodies) + writer.append(HOUR, bodies)
    writer.close()
    assert [load_bodies(files, place) for place in places] == bodies * 2


def test_an_hour_or_a_full_part_begins_a_new_file(tmp_path: Path) -> None:
    files = trace_files(tmp_path)
    writer = BodyWriter(files, part_bytes_max=100)
    noise = bytes(range(256))
    parts = [writer.append(HOUR + hour, [(noise, b"")])[0].part for hour in (0, 0, 1, 1)]
    assert parts == [BodyPart(HOUR + hour, part) for hour in (0, 1) for part in (0, 1)]
    assert [path.stat().st_mode & 0o777 for path in files.bodies.iterdir()] == [0o600] * 4


def test_two_writers_never_write_one_file(tmp_path: Path) -> None:
    files = trace_files(tmp_path)
    first, second = BodyWriter(files), BodyWriter(files)
    places = [w.append(HOUR, [(b"r%d" % i, b"")])[0] for i, w in enumerate((first, second))]
    assert places[0].part != places[1].part
    assert [load_bodies(files, place) for place in places] == [(b"r0", b""), (b"r1", b"")]


def test_bodies_that_are_gone_or_damaged_are_none(tmp_path: Path) -> None:
    files = trace_files(tmp_path)
    writer = BodyWriter(files)
    place = writer.append(HOUR, [(b"x" * 500, b"y")])[0]
    path = files.body_path(place.part)
    whole = path.read_bytes()
    for damaged in (whole[:-1], b"\0" * len(whole), b"", whole[:20] + b"?" + whole[21:]):
        path.write_bytes(damaged)
        assert load_bodies(files, place) is None
    path.unlink()
    assert load_bodies(files, place) is None
    assert load_bodies(files, BodyPlace(BodyPart(1, 1), 0, 9)) is None
