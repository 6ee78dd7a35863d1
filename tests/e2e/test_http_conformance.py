"""HTTP/1.1 as callers may and may not speak it: no answer too many, no request smuggled."""

import email.utils
from collections.abc import Iterator
from typing import Final

import pytest

from tests.e2e.harness import (
    HOST,
    PROJECT,
    Ending,
    Gateway,
    RawClient,
    Reply,
    Simulator,
    provider_table,
    serve,
)
from tests.e2e.http_probes import LEGIT, PROBES, SMUGGLED, Probe

LIMITS: Final = """\
client_header_timeout_s = 1
client_body_timeout_s = 1
client_keepalive_s = 5
"""

LAST: Final = f"GET /healthz HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()
"""What shows that a connection is still in step."""


@pytest.fixture(scope="module")
def gateway(
    shared_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    config = PROJECT + provider_table("sim", shared_simulator.base_url())
    with serve(tmp_path_factory.mktemp("http"), config, server=LIMITS) as running:
        yield running
        assert "Traceback" not in running.child.said()


def _is_well_formed(reply: Reply, *, method: str) -> None:
    """The head of an answer has what it must and nothing twice."""
    names = [name for name, _ in reply.headers]
    for name in ("content-length", "transfer-encoding", "date", "content-type", "connection"):
        assert names.count(name) <= 1, reply.headers
    assert not {"content-length", "transfer-encoding"} <= set(names)
    date = email.utils.parsedate_to_datetime(reply.header("date") or "")
    assert date.tzinfo is not None
    assert reply.header("x-modelux-request-id")
    assert not {"keep-alive", "upgrade", "trailer", "te", "server"} & set(names)
    assert reply.ending is Ending.WHOLE
    if method == "HEAD":
        assert reply.body == b""


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_a_probe_gets_its_answers_and_nothing_else_happens(
    gateway: Gateway, simulator: Simulator, probe: Probe
) -> None:
    with RawClient(gateway.port) as client:
        client.send(probe.wire)
        replies = [client.read_reply(method=probe.method) for _ in probe.answers]
        assert tuple(reply.status for reply in replies) == probe.answers
        if probe.kept:
            client.send(LAST)
            last = client.read_reply(method="GET")
            assert (last.status, last.json()) == (200, {"status": "ok"})
            replies.append(last)
        assert replies[-1].header("connection") == "close"
        assert client.read_end() == (b"", Ending.FIN)
    for reply in replies:
        _is_well_formed(reply, method="GET" if reply is not replies[0] else probe.method)
    for name, value in probe.fields.items():
        assert replies[0].header(name) == value
    if probe.code is not None:
        assert replies[0].error()["code"] == probe.code
    models = [each["model"].partition("?")[0] for each in simulator.requests()]
    assert models == [LEGIT] * probe.calls
    assert SMUGGLED not in models
