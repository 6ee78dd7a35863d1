"""Trace records for tests, with the fields of the public record."""

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from modelux.trace.record import Trace
from modelux.units import UnixUs

NOON: Final = UnixUs(int(datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()) * 1_000_000)
"""A Saturday noon, far from every edge."""


def trace_id_at(ts_us: int, number: int) -> str:
    """Return the UUIDv7 of that instant with `number` in its random part."""
    millis = ts_us // 1_000
    value = (millis & (2**48 - 1)) << 80 | 7 << 76 | 2 << 62 | number
    return str(uuid.UUID(int=value))


def attempt(index: int = 1, **fields: object) -> dict[str, object]:
    """Return one attempt, served unless told otherwise."""
    return {
        "index": index,
        "target": "gpt-4o-mini",
        "provider": "openai",
        "model": "gpt-4o-mini",
        "role": "serve",
        "outcome": "ok",
        "status": 200,
        "reason": "first in order",
        "started_ms": 0.1,
        "connect_ms": None,
        "ttft_ms": 138.0,
        "total_ms": 238.0,
        "timeout_ms": 3000,
        "usage": {"input_tokens": 247, "output_tokens": 1000, "source": "provider"},
        "cost_usd": "0.002134000",
        **fields,
    }


def record(number: int = 0, **fields: object) -> dict[str, object]:
    """Return one record; `number` tells it from others."""
    ts = fields.get("ts", NOON)
    assert isinstance(ts, int)
    return {
        "id": trace_id_at(ts, number),
        "ts": ts,
        "project": "default",
        "key_id": "key_0123abcd",
        "route": "@production",
        "route_version": 4,
        "pinned": False,
        "config_hash": "ab" * 32,
        "resolved": None,
        "strategy": "fallback",
        "model_requested": "@production",
        "stream": False,
        "status": 200,
        "error": None,
        "provider": "openai",
        "model": "gpt-4o-mini",
        "tags": {},
        "end_user": None,
        "trace_id": None,
        "conversation_id": None,
        "warnings": [],
        "usage": {"input_tokens": 247, "output_tokens": 1000, "source": "provider"},
        "cost": {
            "input_usd": "0.000187000",
            "output_usd": "0.001947000",
            "total_usd": "0.002134000",
            "shadow_usd": None,
            "price_version": "2026-01-01",
        },
        "latency": {"overhead_us": 212, "ttft_ms": 138.2, "total_ms": 238.4},
        "budgets": [],
        "cache": "MISS",
        "decision": {"reason": "primary healthy", "summary": "fallback -> attempt_1"},
        "attempts": [attempt()],
        **fields,
    }


def meta(number: int = 0, **fields: object) -> bytes:
    """Return one record as it stands in a ring."""
    return json.dumps(record(number, **fields)).encode()


def trace(number: int = 0, **fields: object) -> Trace:
    """Return one trace with small bodies."""
    return Trace(meta(number, **fields), b'{"model":"@production"}', b'{"ok":true}', "kept")


def refused(number: int = 0, **fields: object) -> dict[str, object]:
    """Return the record of a request that went nowhere."""
    error: Mapping[str, str] = {
        "type": "invalid_request_error",
        "code": "model_not_found",
        "message": 'unknown model "gpt-4o-mni", nearest "gpt-4o-mini"',
    }
    return record(
        number,
        **{
            "route": None,
            "route_version": None,
            "strategy": None,
            "model_requested": "gpt-4o-mni",
            "status": 400,
            "error": error,
            "provider": None,
            "model": None,
            "usage": None,
            "cost": None,
            "latency": {"overhead_us": 31, "ttft_ms": None, "total_ms": 0.1},
            "decision": {"reason": "model_not_found", "summary": "refused"},
            "attempts": [],
        }
        | fields,
    )
