"""Bodies of traces: compressed frames in append-only files, one an hour and part.

A body is written once, read seldom, and gone after a day: dropping an hour is one `unlink`,
which no database can match. A row of the day's database names part, offset and length. The
file is written first and the row committed after it: killed in between, the frame is behind
every row and costs only room. Each process writes files of its own, so offsets never clash.

Frame: one zstd frame with checksum; inside, the length of the request (4 bytes, little
endian), the request, the response.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import zstandard

from modelux.limits import TRACE_BODY_BYTES_MAX
from modelux.trace.files import BodyPart, TraceFiles

PART_BYTES_MAX: Final = 256 * 1024 * 1024
"""A part beyond this is followed by the next, so that `trace_max_bytes` can bite by parts."""

_LENGTH_BYTES: Final = 4
_FRAME_BYTES_MAX: Final = _LENGTH_BYTES + 2 * TRACE_BODY_BYTES_MAX
_FILE_MODE: Final = 0o600
_LEVEL: Final = 1  # 3 KB in about 10 µs; higher levels gain little on texts this short.


@dataclass(frozen=True, slots=True)
class BodyPlace:
    """Where the bodies of one trace lie."""

    part: BodyPart
    offset: int
    length: int


class BodyWriter:
    """Appends bodies to the file of the current hour; owned by one process."""

    def __init__(self, files: TraceFiles, part_bytes_max: int = PART_BYTES_MAX) -> None:
        self._files = files
        self._part_bytes_max = part_bytes_max
        self._compress: Callable[[bytes], bytes] = zstandard.ZstdCompressor(
            level=_LEVEL, write_checksum=True
        ).compress
        self._part: BodyPart | None = None
        self._fd = -1
        self._end = 0

    def append(self, hour: int, bodies: list[tuple[bytes, bytes]]) -> list[BodyPlace]:
        """Write the bodies of one batch in one go and return where each lies.

        Raises:
            OSError: Nothing of the batch counts as written.
        """
        part = self._open(hour)
        start = offset = self._end
        frames = []
        places = []
        for request, response in bodies:
            head = len(request).to_bytes(_LENGTH_BYTES, "little")
            frame = self._compress(b"".join((head, request, response)))
            frames.append(frame)
            places.append(BodyPlace(part, offset, len(frame)))
            offset += len(frame)
        try:
            _write_all(self._fd, b"".join(frames), start)
        except OSError:
            # What is half written lies where the next batch goes.
            self.close()
            raise
        self._end = offset
        return places

    def current(self) -> BodyPart | None:
        """Return the part that is being written."""
        return self._part

    def close(self) -> None:
        """End the current part; the next batch begins another."""
        if self._part is not None:
            os.close(self._fd)
            self._part = None

    def _open(self, hour: int) -> BodyPart:
        if self._part is not None:
            if self._part.hour == hour and self._end < self._part_bytes_max:
                return self._part
            self.close()
        self._files.bodies.mkdir(mode=0o700, parents=True, exist_ok=True)
        taken = [part.part for part in self._files.body_parts() if part.hour == hour]
        number = max(taken, default=-1) + 1
        while True:
            part = BodyPart(hour, number)
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                self._fd = os.open(self._files.body_path(part), flags, _FILE_MODE)
            except FileExistsError:
                number += 1  # Another process was quicker.
            else:
                self._part, self._end = part, 0
                return part


def load_bodies(files: TraceFiles, place: BodyPlace) -> tuple[bytes, bytes] | None:
    """Return request and response, or None where they are gone or were never fully written."""
    try:
        fd = os.open(files.body_path(place.part), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        frame = os.pread(fd, place.length, place.offset)
    finally:
        os.close(fd)
    try:
        raw = zstandard.ZstdDecompressor().decompress(frame, max_output_size=_FRAME_BYTES_MAX)
    except zstandard.ZstdError:
        return None
    end = _LENGTH_BYTES + int.from_bytes(raw[:_LENGTH_BYTES], "little")
    return raw[_LENGTH_BYTES:end], raw[end:]


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written
