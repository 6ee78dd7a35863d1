"""Targets and keys that fail, over many requests: who is passed over, and who comes back.

Goal: a caller meets a dead target a few times, not each time; a key that is refused or told to
wait leaves its work to the others; what has recovered serves again, found out by one request.
Method: the real SDK, a route with a healthy target behind the sick one, and the stand-in
provider's ledger, which knows which key each request had.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import openai
import pytest

from tests.e2e.harness import (
    PROJECT,
    PROVIDER_KEY,
    Gateway,
    Simulator,
    provider_table,
    serve,
    simulate,
    until,
)
from tests.e2e.routing import ask, asked, roles, sdk, told

SECOND_KEY: Final = "sk-simulated-second-0a1b2c3d4e5f"
FAILURES_TO_OPEN: Final = 5

ROUTES: Final = """
[routes.dying]
strategy = "fallback"
attempts = ["sim/dying", "sim/steady"]

[routes.dying-stream]
strategy = "fallback"
attempts = ["sim/dying-stream", "sim/steady"]

[routes.alone]
strategy = "single"
model = "sim/alone"

[routes.tired]
strategy = "single"
model = "keys/tired"

[routes.refused]
strategy = "single"
model = "checked/refused"

[routes.worn]
strategy = "single"
model = "worn/out"

"""


def _keys_table(name: str, base_url: str) -> str:
    return (
        f'[providers.{name}]\nvendor = "openai_compatible"\nbase_url = "{base_url}"\n'
        'credentials = [{ id = "first", api_key = "env:E2E_PROVIDER_KEY" }, '
        '{ id = "second", api_key = "env:E2E_SECOND_KEY" }]\n\n'
    )


@pytest.fixture(scope="module")
def checking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """A provider that accepts the second key only."""
    folder = tmp_path_factory.mktemp("checking")
    with simulate(folder, "--api-key", SECOND_KEY, name="checking") as simulator:
        yield simulator


@pytest.fixture(scope="module")
def gateway(
    shared_simulator: Simulator,
    checking: Simulator,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    config = (
        PROJECT
        + provider_table("sim", shared_simulator.base_url())
        + _keys_table("keys", shared_simulator.base_url())
        + _keys_table("checked", checking.base_url())
        + _keys_table("worn", shared_simulator.base_url())
        + ROUTES
    )
    env = {"E2E_SECOND_KEY": SECOND_KEY}
    with serve(tmp_path_factory.mktemp("failing"), config, env=env) as running:
        yield running


@pytest.fixture
def client(gateway: Gateway, simulator: Simulator) -> Iterator[openai.OpenAI]:
    assert simulator.child.alive()
    with sdk(gateway) as opened:
        yield opened


# --- breakers ------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_dead_target_is_passed_over_until_one_request_finds_it_alive(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator, *, stream: bool
) -> None:
    sick = "dying-stream" if stream else "dying"
    with told(simulator, {sick: "status=500"}):
        for _ in range(FAILURES_TO_OPEN):
            assert ask(client, f"@{sick}", stream=stream).attempts == 2
        simulator.reset()
        answer = ask(client, f"@{sick}", stream=stream)
        assert (answer.attempts, asked(simulator)) == (1, ["steady"])
        candidates = gateway.trace(answer.request_id)["decision"]["candidates"]
        first = next(each for each in candidates if each["target"] == sick)
        assert (first["eligible"], first["reject_reason"]) == (False, "breaker_open")
        assert first["health"] == "open"
    # It serves again: some seconds later one request tries it, and all that follow use it.
    until(lambda: ask(client, f"@{sick}", stream=stream).model == sick, what="a probe")
    simulator.reset()
    for _ in range(3):
        assert ask(client, f"@{sick}", stream=stream).model == sick
    assert asked(simulator) == [sick] * 3


def test_a_caller_who_is_at_fault_opens_no_breaker(
    client: openai.OpenAI, simulator: Simulator
) -> None:
    with told(simulator, {"dying": "status=422"}):
        for _ in range(FAILURES_TO_OPEN + 2):
            with pytest.raises(openai.UnprocessableEntityError):
                ask(client, "@dying")
    assert asked(simulator) == ["dying"] * (FAILURES_TO_OPEN + 2)


def test_where_all_are_open_one_is_used_rather_than_none(
    client: openai.OpenAI, simulator: Simulator
) -> None:
    with told(simulator, {"alone": "status=500"}):
        for _ in range(FAILURES_TO_OPEN + 2):
            with pytest.raises(openai.InternalServerError):
                ask(client, "@alone")
    assert len(asked(simulator)) == FAILURES_TO_OPEN + 2
    assert ask(client, "@alone").model == "alone"


# --- credentials ---------------------------------------------------------------------------


def test_a_key_whose_file_changed_is_used_from_the_reload_on(
    simulator: Simulator, checking: Simulator, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("sk-simulated-expired-0a1b2c3d4e5f", "utf-8")
    key.chmod(0o600)
    config = (
        PROJECT
        + provider_table("sim", simulator.base_url())
        + '[providers.rotated]\nvendor = "openai_compatible"\n'
        f'base_url = "{checking.base_url()}"\napi_key = "file:{key}"\n\n'
        '[routes.rotated]\nstrategy = "fallback"\n'
        'attempts = ["rotated/model", "sim/steady"]\n\n'
    )
    with serve(tmp_path, config) as gateway, sdk(gateway) as client:
        assert [ask(client, "@rotated").model for _ in range(2)] == ["steady"] * 2
        key.write_text(SECOND_KEY, "utf-8")
        assert gateway.run("check", "--apply").returncode == 0
        # At once, though the one before it was refused within the last minute.
        until(lambda: ask(client, "@rotated").model == "model", what="the new key")


# --- several credentials -------------------------------------------------------------------


def _keys(simulator: Simulator, model: str) -> list[str]:
    return [each["authorization"] for each in simulator.requests(model=model)]


def test_a_key_that_is_told_to_wait_leaves_its_work_to_another(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator
) -> None:
    with told(simulator, {"tired": "status=429;retry_after=120;times=1"}):
        answer = ask(client, "@tired")
        for _ in range(4):
            assert ask(client, "@tired").attempts == 1
    assert answer.attempts == 2
    assert [outcome for *_, outcome in roles(gateway.trace(answer.request_id))] == [
        "http_error",
        "ok",
    ]
    first, *others = _keys(simulator, "tired")
    assert len(others) == 5
    assert len({first, *others}) == 2
    assert first not in others


def test_a_key_that_is_refused_is_passed_over(
    client: openai.OpenAI, gateway: Gateway, checking: Simulator
) -> None:
    checking.reset()
    attempts = [ask(client, "@refused").attempts for _ in range(8)]
    # The one request that met the refusal was served all the same, by the other key.
    assert sorted(attempts)[:-1] == [1] * 7
    statuses = [each["status"] for each in checking.requests(model="refused")]
    assert statuses.count(401) == max(attempts) - 1
    assert statuses.count(200) == 8


def test_a_key_that_was_refused_is_used_where_the_other_has_to_wait(
    client: openai.OpenAI, simulator: Simulator
) -> None:
    with told(simulator, {"out": "status=401;times=1"}):
        assert ask(client, "@worn").attempts == 2
    # The first of the two times was the refusal.
    with told(simulator, {"out": "status=429;retry_after=120;times=2"}):
        assert ask(client, "@worn").attempts == 2
    refused, waiting, *others = _keys(simulator, "out")
    assert (others[0], others[1]) == (waiting, refused)
    for _ in range(4):
        assert ask(client, "@worn").attempts == 1
    assert set(_keys(simulator, "out")[4:]) == {refused}


def test_a_sole_key_that_is_refused_is_used_all_the_same(
    client: openai.OpenAI, simulator: Simulator
) -> None:
    with told(simulator, {"steady": "status=401"}):
        for _ in range(2):
            with pytest.raises(openai.InternalServerError) as caught:
                ask(client, "sim/steady")
            assert caught.value.code == "provider_credential_rejected"
    assert asked(simulator) == ["steady"] * 2
    assert PROVIDER_KEY not in str(caught.value)
    assert ask(client, "sim/steady").model == "steady"
