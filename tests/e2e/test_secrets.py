"""Keys of callers and providers, planted to be found again: nowhere but where they belong."""

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from modelux.simulator.settings import Fault
from tests.e2e.harness import (
    PROJECT,
    Gateway,
    RawClient,
    Simulator,
    chat_body,
    post,
    provider_table,
    serve,
    until,
)

CALLER_KEY: Final = "mlx_sk_PlantedCallerKey0123456789abc"
WRONG_KEY: Final = "mlx_sk_PlantedWrongKey0123456789abcd"
PROVIDER_KEY: Final = "planted.provider/key+with=signs~0123456789"
"""As no pattern knows it: what is scrubbed of it is scrubbed because it is ours."""

OWN_KEY: Final = "planted.callers.own/provider+key~0123456789"
BODY_KEY: Final = "sk-proj-PlantedInTheBody0123456789abcdef"
TIMEOUT_MS: Final = 250
ANSWER_BYTES_MAX: Final = 256 * 1024
REQUESTS_AT_ONCE: Final = 16

ROUTE: Final = f"""
[routes.planted]
strategy = "single"
model = "sim/m"
timeout_ms = {TIMEOUT_MS}
idle_timeout_ms = {TIMEOUT_MS}
"""


@dataclass(frozen=True, slots=True)
class Place:
    """A gateway with planted keys, and what all of its callers were told."""

    gateway: Gateway
    folder: Path
    answers: list[bytes]


def _ask(gateway: Gateway, settings: str, *, stream: bool, own_key: bool = False) -> bytes:
    """Return all bytes of one answer, or as many as tell."""
    body = chat_body(
        "@planted", stream=stream, metadata={"note": f"my key is {BODY_KEY}"}, user=BODY_KEY
    )
    extra = {"X-Simulate": settings, "X-Trace": "t", "Connection": "close"}
    if own_key:
        extra["X-Modelux-Provider-Key"] = OWN_KEY
    with RawClient(gateway.port) as client, contextlib.suppress(OSError):
        client.send(post(body, key=CALLER_KEY, headers=extra))
        return client.read_some(ANSWER_BYTES_MAX)
    return b""


@pytest.fixture(scope="module")
def place(
    shared_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("secrets")
    config = PROJECT + provider_table("sim", shared_simulator.base_url()) + ROUTE
    env = {"MODELUX_E2E_KEY": CALLER_KEY, "E2E_PROVIDER_KEY": PROVIDER_KEY}
    limits = 'access_log = true\nlog_level = "debug"\n'
    with serve(folder, config, server=limits, env=env) as gateway:
        settings = [f"fault={fault.value}" for fault in Fault]
        settings += [f"status={status}" for status in (400, 401, 402, 403, 404, 429, 500, 529)]
        asked = [(text, stream, False) for text in settings for stream in (False, True)]
        asked += [(f"status={status}", False, True) for status in (200, 400, 401, 500)]
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            answers = list(
                pool.map(
                    lambda each: _ask(gateway, each[0], stream=each[1], own_key=each[2]), asked
                )
            )
        for key in (WRONG_KEY, BODY_KEY, CALLER_KEY):
            with RawClient(gateway.port) as client:
                client.send(post(chat_body(BODY_KEY), key=key))
                answers.append(json.dumps(client.read_reply().json()).encode())
        with RawClient(gateway.port) as client:
            client.send(b"GET /v1/models/%s HTTP/1.1\r\nHost: h\r\n" % BODY_KEY.encode())
            client.send(b"Authorization: Bearer %s\r\n\r\n" % CALLER_KEY.encode())
            answers.append(json.dumps(client.read_reply().json()).encode())
        wanted = len(asked) + 4
        until(lambda: len(gateway.traces()) >= wanted, what=f"{wanted} traces")
        yield Place(gateway, folder, answers)


def _files(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path, path.read_bytes()


@pytest.mark.parametrize("secret", [CALLER_KEY, WRONG_KEY, PROVIDER_KEY, OWN_KEY])
def test_no_key_stands_in_a_log_a_file_or_an_answer(place: Place, secret: str) -> None:
    middle = secret[8:-4].encode()
    for path, data in _files(place.folder):
        assert middle not in data, path
    for answer in place.answers:
        assert middle not in answer, answer[:2000]


def test_no_key_stands_in_a_trace(place: Place) -> None:
    for record in place.gateway.traces():
        shown = json.dumps(record)
        for secret in (CALLER_KEY, WRONG_KEY, PROVIDER_KEY, OWN_KEY, BODY_KEY):
            assert secret[8:-4] not in shown, record


def test_each_request_has_one_trace_with_its_body_redacted(place: Place) -> None:
    records = place.gateway.traces()
    ids = [record["id"] for record in records]
    assert len(ids) == len(set(ids)) == len(place.answers)
    served = next(record for record in records if record["route"] == "@planted")
    shown = place.gateway.run("logs", "--trace", served["id"], "--json").stdout
    assert "my key is [redacted]" in shown
    assert BODY_KEY[8:-4] not in shown
