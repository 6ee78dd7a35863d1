"""Recorded provider traffic, for tests that must hold for what providers really send.

The recordings are not part of the project: they lie in the directory that `MODELUX_CORPUS`
names, by default `../shared/corpus` beside the repository. Without them the tests that ask for
them are skipped, and say so.
"""

import base64
import gzip
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal, TypeAlias, cast

import pytest

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"

Fidelity: TypeAlias = Literal[
    "wire", "wire-chunked", "reserialized", "rebuilt-sse", "response-only", "mock", "pasted"
]

_ROOT: Final = Path(__file__).resolve().parents[1]
_EXCHANGES: Final = "exchanges.jsonl.gz"
_ERRORS: Final = "errors_pasted.jsonl"
_OPENAI: Final = ("openai", "azure-openai", "openai-compat:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One recorded request and its answer."""

    id: str
    provider: str
    api: str
    method: str
    url_path: str
    fidelity: Fidelity
    request: bytes | None
    """The body as sent; where only its value is known, written anew without white space."""
    status: int
    headers: Mapping[str, str]
    body: bytes
    chunk_lens: tuple[int, ...]
    """Bytes of each read from the network, in order; empty where unknown."""
    streaming: bool
    tags: frozenset[str]

    def is_openai(self, *apis: str) -> bool:
        """Whether a provider of the OpenAI protocol was asked at one of these paths."""
        return self.provider.startswith(_OPENAI) and self.api in apis

    def reads(self) -> Iterator[bytes]:
        """The body as the network delivered it, whole where that is unknown."""
        if sum(self.chunk_lens) != len(self.body):
            yield self.body
            return
        start = 0
        for length in self.chunk_lens:
            yield self.body[start : start + length]
            start += length


@dataclass(frozen=True, slots=True, kw_only=True)
class PastedError:
    """An error answer that somebody pasted into a public thread; headers are mostly missing."""

    provider: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    streaming: bool
    source: str
    note: str


def directory() -> Path:
    """The directory of the recordings; skips the test that asks where there is none."""
    path = Path(os.environ.get("MODELUX_CORPUS") or _ROOT.parent / "shared" / "corpus")
    if not (path / _EXCHANGES).is_file():
        pytest.skip(f"no recorded traffic in {path}; MODELUX_CORPUS names its directory")
    return path


def exchanges() -> tuple[Exchange, ...]:
    """All recordings, in the order of the file."""
    return _load_exchanges(directory())


def openai_exchanges(*apis: str, streaming: bool | None = None) -> list[Exchange]:
    """The recordings of the OpenAI protocol at these paths, whoever answered."""
    return [
        exchange
        for exchange in exchanges()
        if exchange.is_openai(*apis) and streaming in {None, exchange.streaming}
    ]


def pasted_errors() -> tuple[PastedError, ...]:
    """The error answers that no recording holds."""
    return _load_errors(directory())


@cache
def _load_exchanges(path: Path) -> tuple[Exchange, ...]:
    with gzip.open(path / _EXCHANGES, "rt", encoding="utf-8") as lines:
        return tuple(_exchange(record) for record in _records(lines))


@cache
def _load_errors(path: Path) -> tuple[PastedError, ...]:
    with (path / _ERRORS).open(encoding="utf-8") as lines:
        return tuple(_pasted_error(record) for record in _records(lines))


def _records(lines: Iterable[str]) -> Iterator[dict[str, Json]]:
    for line in lines:
        record: Json = json.loads(line)
        assert isinstance(record, dict), line[:80]
        yield record


def _exchange(record: dict[str, Json]) -> Exchange:
    lens = record.get("chunk_lens") or []
    tags = record.get("tags") or []
    assert isinstance(lens, list)
    assert isinstance(tags, list)
    return Exchange(
        id=_text(record, "id"),
        provider=_text(record, "provider"),
        api=_text(record, "api"),
        method=_text(record, "method"),
        url_path=_text(record, "url_path"),
        fidelity=cast("Fidelity", _text(record, "fidelity")),
        request=_request(record),
        status=_status(record),
        headers=_headers(record),
        body=_body(record),
        chunk_lens=tuple(length for length in lens if isinstance(length, int)),
        streaming=record.get("streaming") is True,
        tags=frozenset(str(tag) for tag in tags),
    )


def _pasted_error(record: dict[str, Json]) -> PastedError:
    return PastedError(
        provider=_text(record, "provider"),
        status=_status(record),
        headers=_headers(record),
        body=_body(record),
        streaming=record.get("streaming") is True,
        source=_text(record, "source"),
        note=_text(record, "note"),
    )


def _request(record: dict[str, Json]) -> bytes | None:
    if (encoded := record.get("request_b64")) is not None:
        return base64.b64decode(str(encoded))
    if (text := record.get("request_text")) is not None:
        return str(text).encode()
    if (value := record.get("request_json")) is not None:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return None


def _body(record: dict[str, Json]) -> bytes:
    if (encoded := record.get("response_body_b64")) is not None:
        return base64.b64decode(str(encoded))
    body = record.get("response_body")
    if body is None:
        return b""
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


def _headers(record: dict[str, Json]) -> dict[str, str]:
    headers = record.get("response_headers") or {}
    assert isinstance(headers, dict)
    return {name.lower(): str(value) for name, value in headers.items()}


def _text(record: dict[str, Json], key: str) -> str:
    value = record.get(key)
    return "" if value is None else str(value)


def _status(record: dict[str, Json]) -> int:
    status = record["status"]
    assert isinstance(status, int), status
    return status
