"""Routing where several workers serve: what one of them has seen, all of them know.

Goal: an arm, a breaker, a key's mark and a latency are the deployment's and not a worker's.
Method: one gateway with three workers and a connection of its own for each request, which the
kernel gives to any of them; the stand-in provider's ledger says how often it was asked.
"""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from tests.e2e.harness import (
    PROJECT,
    Gateway,
    Reply,
    Simulator,
    call,
    chat_body,
    provider_table,
    serve,
    until,
)
from tests.e2e.routing import told

WORKERS: Final = 3
MANY: Final = 24
"""Connections: all of them at one worker would be a chance of one in 3^23."""
FAILURES_TO_OPEN: Final = 5
SECOND_KEY: Final = "sk-simulated-second-0a1b2c3d4e5f"

ROUTES: Final = """
[routes.arms]
strategy = "ab_test"
variants = [
  { name = "control", weight = 50, target = "sim/ab-1" },
  { name = "trial", weight = 50, target = "sim/ab-2" },
]

[routes.teams]
strategy = "ab_test"
sticky_by = "tag:team"
variants = [
  { name = "control", weight = 50, target = "sim/ab-1" },
  { name = "trial", weight = 50, target = "sim/ab-2" },
]

[routes.threads]
strategy = "ab_test"
sticky_by = "conversation"
variants = [
  { name = "control", weight = 50, target = "sim/ab-1" },
  { name = "trial", weight = 50, target = "sim/ab-2" },
]

[routes.dying]
strategy = "fallback"
attempts = ["sim/w-dying", "sim/w-steady"]

[routes.fast]
strategy = "latency_optimized"
models = ["sim/w-slow", "sim/w-fast"]
explore_pct = 0

[routes.tired]
strategy = "single"
model = "limited/w-tired"

[routes.refused]
strategy = "single"
model = "strict/w-refused"

"""


def _tables(simulator: Simulator) -> str:
    keys = "".join(
        f'[providers.{name}]\nvendor = "openai_compatible"\n'
        f'base_url = "{simulator.base_url()}"\n'
        'credentials = [{ id = "first", api_key = "env:E2E_PROVIDER_KEY" }, '
        '{ id = "second", api_key = "env:E2E_SECOND_KEY" }]\n\n'
        # Of their own, as what is known of a key holds for all of its provider's models.
        for name in ("limited", "strict")
    )
    return PROJECT + provider_table("sim", simulator.base_url()) + keys + ROUTES


@pytest.fixture(scope="module")
def gateway(
    shared_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("several")
    env = {"E2E_SECOND_KEY": SECOND_KEY}
    with serve(folder, _tables(shared_simulator), workers=WORKERS, env=env) as running:
        yield running


def _ask(gateway: Gateway, route: str, headers: Mapping[str, str] | None = None) -> Reply:
    """Ask on a connection of its own."""
    return call(gateway.port, chat_body(route), headers=headers)


def _models(gateway: Gateway, route: str, times: int) -> list[str | None]:
    answers = [_ask(gateway, route) for _ in range(times)]
    assert {each.status for each in answers} == {200}
    return [each.header("x-modelux-model-used") for each in answers]


@pytest.mark.parametrize(
    ("route", "header", "before"),
    [
        ("@arms", "X-Modelux-User-Id", ""),
        ("@teams", "X-Modelux-User-Tags", "team="),
        ("@threads", "X-Modelux-Conversation-Id", ""),
    ],
)
def test_a_subject_is_in_one_arm_at_every_worker_and_after_a_restart(
    gateway: Gateway,
    simulator: Simulator,
    tmp_path_factory: pytest.TempPathFactory,
    route: str,
    header: str,
    before: str,
) -> None:
    def arms(running: Gateway, subject: str, times: int) -> set[str | None]:
        asked = (_ask(running, route, {header: before + subject}) for _ in range(times))
        return {each.header("x-modelux-ab-variant") for each in asked}

    subjects = [f"subject-{n}" for n in range(12)]
    seen = {each: arms(gateway, each, 8) for each in subjects}
    assert {len(each) for each in seen.values()} == {1}, seen
    assert set.union(*seen.values()) == {"control", "trial"}

    env = {"E2E_SECOND_KEY": SECOND_KEY}
    again = serve(tmp_path_factory.mktemp("again"), _tables(simulator), env=env)
    with again as restarted:
        assert {each: arms(restarted, each, 1) for each in subjects} == seen


def test_a_breaker_that_any_worker_opens_is_open_for_all_and_one_request_probes(
    gateway: Gateway, simulator: Simulator
) -> None:
    with told(simulator, {"w-dying": "status=500"}):
        assert set(_models(gateway, "@dying", MANY)) == {"w-steady"}
        assert len(simulator.requests(model="w-dying")) == FAILURES_TO_OPEN
    # It serves again, and takes its time: whoever finds out is the only one that waits.
    simulator.reset()
    with (
        told(simulator, {"w-dying": "first_byte_ms=2000"}),
        ThreadPoolExecutor(MANY) as pool,
    ):

        def burst() -> bool:
            sent = [pool.submit(_ask, gateway, "@dying") for _ in range(MANY)]
            done = [each.result() for each in sent]
            assert {each.status for each in done} == {200}
            return any(each.header("x-modelux-model-used") == "w-dying" for each in done)

        until(burst, what="a probe")
        assert len(simulator.requests(model="w-dying")) == 1
    assert set(_models(gateway, "@dying", MANY)) == {"w-dying"}


def test_what_one_worker_has_measured_is_known_to_all(
    gateway: Gateway, simulator: Simulator
) -> None:
    with told(simulator, {"w-slow": "first_byte_ms=150", "w-fast": "first_byte_ms=1"}):
        served = _models(gateway, "@fast", MANY)
    # Each is tried once while nobody has a sample of it, by one worker for all of them.
    assert served.count("w-slow") == 1
    assert served[2:] == ["w-fast"] * (MANY - 2)


@pytest.mark.parametrize(
    ("route", "settings"),
    [("@tired", "status=429;retry_after=120;times=1"), ("@refused", "status=401;times=1")],
)
def test_a_key_that_one_worker_was_told_of_is_passed_over_by_all(
    gateway: Gateway, simulator: Simulator, route: str, settings: str
) -> None:
    model = f"w-{route.removeprefix('@')}"
    with told(simulator, {model: settings}):
        _models(gateway, route, MANY)
    first, *others = (each["authorization"] for each in simulator.requests(model=model))
    assert len(others) == MANY
    assert first not in others


def test_requests_are_counted_by_whoever_serves_them(
    gateway: Gateway, simulator: Simulator
) -> None:
    assert simulator.child.alive()
    before = _times(gateway)
    _models(gateway, "@arms", MANY)
    assert _times(gateway) == before + MANY


def _times(gateway: Gateway) -> int:
    shown = json.loads(gateway.run("routes", "show", "arms", "--json").stdout)
    return sum(each["times"] for each in shown["counts"])
