"""A caller's own provider key: for the provider it was brought for, shown to nobody else."""

from collections.abc import Iterator
from hashlib import sha256
from typing import Final

import pytest

from tests.e2e.harness import (
    PROJECT,
    PROVIDER_KEY,
    Gateway,
    Simulator,
    call,
    chat_body,
    provider_table,
    serve,
)

OWN_KEY: Final = "sk-proj-callers-own-0123456789abcdefTA0A"
OWN: Final = {"X-Modelux-Provider-Key": OWN_KEY}


def _seen(key: str) -> str:
    return "sha256:" + sha256(key.encode()).hexdigest()[:12]


@pytest.fixture(scope="module")
def gateway(
    shared_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    config = (
        PROJECT
        + provider_table("first", shared_simulator.base_url("label=first"))
        + provider_table("other", shared_simulator.base_url("label=other"))
        + '[routes.failing]\nstrategy = "fallback"\n'
        + 'attempts = ["first/m?status=500", "other/m?tokens=3"]\n'
    )
    with serve(tmp_path_factory.mktemp("own-key"), config) as running:
        yield running


def test_it_goes_to_its_provider_and_into_the_trace_as_a_fingerprint(
    gateway: Gateway, simulator: Simulator
) -> None:
    reply = call(gateway.port, chat_body("first/m?tokens=3"), headers=OWN)
    assert reply.status == 200
    assert simulator.only()["authorization"] == _seen(OWN_KEY)
    trace = gateway.trace(reply.request_id)
    assert trace["provider_key"] == "sk-proj-...TA0A"
    assert OWN_KEY not in str(trace)


def test_a_failover_to_another_provider_goes_without_it(
    gateway: Gateway, simulator: Simulator
) -> None:
    reply = call(gateway.port, chat_body("@failing"), headers=OWN)
    assert (reply.status, reply.header("x-modelux-provider-used")) == (200, "other")
    first, other = simulator.requests()
    assert first["authorization"] == _seen(OWN_KEY)
    assert other["authorization"] == _seen(PROVIDER_KEY)


@pytest.mark.parametrize("status", [401, 403])
def test_its_refusal_is_the_callers_to_see(
    gateway: Gateway, simulator: Simulator, status: int
) -> None:
    reply = call(gateway.port, chat_body(f"first/m?status={status}"), headers=OWN)
    assert reply.status == status
    assert OWN_KEY.encode() not in reply.body
    assert simulator.only()["authorization"] == _seen(OWN_KEY)
