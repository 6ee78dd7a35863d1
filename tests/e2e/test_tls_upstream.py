"""Providers behind TLS: nothing is sent where the certificate does not fit."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.e2e.harness import (
    PROJECT,
    Gateway,
    RawClient,
    Simulator,
    call,
    certificate,
    chat_body,
    post,
    provider_table,
    serve,
    simulate,
)

TEXT = " the river kept its own time"


@dataclass(frozen=True, slots=True)
class Place:
    """A gateway, and a provider that it reaches over TLS."""

    gateway: Gateway
    provider: Simulator


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = certificate(folder)
    with simulate(folder, "--tls-cert", str(cert), "--tls-key", str(key)) as provider:
        base_url = f"https://localhost:{provider.port}/v1"
        trusted = f'ca_file = "{cert}"'
        config = (
            PROJECT
            + provider_table("trusted", base_url, trusted)
            + provider_table("untrusted", base_url)
            + provider_table("misnamed", base_url.replace("localhost", "127.0.0.2"), trusted)
        )
        with serve(folder, config) as gateway:
            yield Place(gateway, provider)


@pytest.mark.parametrize("stream", [False, True])
def test_a_provider_with_a_trusted_certificate_serves(place: Place, *, stream: bool) -> None:
    body = chat_body("trusted/m?tokens=6", stream=stream)
    for _ in range(3):
        reply = call(place.gateway.port, body)
        assert (reply.status, reply.text()) == (200, TEXT)


def test_connections_are_kept_so_that_handshakes_are_few(place: Place) -> None:
    place.provider.reset()
    for _ in range(5):
        call(place.gateway.port, chat_body("trusted/m"))
    assert len({each["connection"] for each in place.provider.requests()}) == 1


@pytest.mark.parametrize("name", ["untrusted", "misnamed"])
def test_a_certificate_that_does_not_fit_is_no_connection(place: Place, name: str) -> None:
    place.provider.reset()
    reply = call(place.gateway.port, chat_body(f"{name}/m"))
    assert (reply.status, reply.error()["code"]) == (502, "all_attempts_failed")
    assert place.provider.requests() == []
    attempt = place.gateway.trace(reply.request_id)["attempts"][0]
    assert attempt["outcome"] == "connect_error"


def test_a_stream_that_is_cut_over_tls_is_cut_visibly(place: Place) -> None:
    reply = call(place.gateway.port, chat_body("trusted/m?cut=reset@3;tokens=6", stream=True))
    assert "[DONE]" not in reply.events()
    assert '"error"' in reply.events()[-1]


def test_a_caller_that_leaves_cancels_a_provider_over_tls(place: Place) -> None:
    place.provider.reset()
    with RawClient(place.gateway.port) as client:
        client.send(post(chat_body("trusted/m?hang=mid@1", stream=True)))
        client.read_until(b'" the"')
    assert place.provider.wait_request(lambda each: each["disconnected"])
