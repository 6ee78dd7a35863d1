"""The live state of a running deployment: kept, cleared after deaths, shown, and told of."""

import http.client
import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from modelux._native import Cells, Live
from modelux.clock import mono_us
from modelux.store.layout import CELLS_FILE, LIVE_FILE
from modelux.trace.files import trace_files
from modelux.trace.health import HealthEvent, load_health_events
from tests.e2e.harness import (
    HOST,
    PROJECT,
    PROVIDER_KEY,
    Gateway,
    Json,
    Simulator,
    call,
    chat_body,
    provider_table,
    serve,
    until,
)

MODEL: Final = "gpt-4o-mini?tokens=3"
FAR_US: Final = 2**60


@pytest.fixture
def gateway(simulator: Simulator, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway of one worker, with one provider."""
    route = f'[routes.production]\nstrategy = "single"\nmodel = "sim/{MODEL}"\n'
    config = PROJECT + provider_table("sim", simulator.base_url()) + route
    with serve(tmp_path, config) as running:
        yield running


def state_of(gateway: Gateway, name: str) -> Path:
    return gateway.config.parent / "state" / name


def json_of(gateway: Gateway, *words: str) -> Any:  # noqa: ANN401 - a test looks into it.
    done = gateway.run(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def metrics(gateway: Gateway) -> str:
    with closing(http.client.HTTPConnection(HOST, gateway.control_port)) as connection:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()


def test_the_report_and_the_providers_are_shown_while_it_runs(gateway: Gateway) -> None:
    for _ in range(3):
        assert call(gateway.port, chat_body("@production")).status == 200

    def counted() -> Json | None:
        found = json_of(gateway, "stats", "--group-by", "route")
        return found if found["totals"]["requests"] == 3 else None

    (row,) = until(counted, what="three requests in the report")["series"]
    assert (row["group"], row["requests"], row["errors"]) == ("@production", 3, 0)
    assert row["p50_latency_ms"] > 0
    shown = gateway.run("stats", "--group-by", "route")
    assert (shown.returncode, shown.stdout.count("@production")) == (0, 1)
    (provider,) = json_of(gateway, "providers")
    assert (provider["name"], provider["status"]) == ("sim", "ok")
    (health,) = provider["health"]
    assert (health["model"], health["state"], health["error_rate"]) == (MODEL, "closed", 0.0)
    assert (health["in_flight"], health["p50_latency_ms"] > 0) == (0, True)
    (credential,) = provider["credentials"]
    assert credential["status"] == "ok"
    assert credential["fingerprint"].endswith(f"...{PROVIDER_KEY[-4:]}")
    assert PROVIDER_KEY not in gateway.run("providers").stdout


def test_a_worker_that_died_has_nothing_in_flight(gateway: Gateway) -> None:
    cells = Cells.open(state_of(gateway, CELLS_FILE))
    live = Live.open(state_of(gateway, LIVE_FILE))
    live.began("sim", "left behind", 0, mono_us())
    assert live.targets(mono_us())[-1].in_flight == 1
    first = until(lambda: cells.get("worker_pid"), what="the worker's process id")
    os.kill(first, signal.SIGKILL)
    until(lambda: cells.get("worker_pid") not in {0, first}, what="a successor")
    found = {target.model: target.in_flight for target in live.targets(mono_us())}
    assert found["left behind"] == 0


def test_a_breaker_that_opens_is_told_once_and_outlives_the_trace_writer(
    gateway: Gateway,
) -> None:
    live = Live.open(state_of(gateway, LIVE_FILE))
    now_us = mono_us()
    for _ in range(5):
        live.report("sim", "broken", "failed", now_us, now_us)
    files = trace_files(gateway.config.parent / "data")

    def told() -> list[HealthEvent]:
        return load_health_events(files, 0, FAR_US, 100)

    (event,) = until(told, what="the event")
    assert (event.provider, event.model) == ("sim", "broken")
    assert (event.before, event.state, event.error_permille) == ("closed", "open", 1_000)
    assert 'modelux_target_health{provider="sim",model="broken"} 2\n' in metrics(gateway)
    (provider,) = json_of(gateway, "providers")
    assert provider["status"] in {"degraded", "down"}
    # A second one closes the circle: the writer still looks, and tells the first no more.
    for _ in range(5):
        live.report("sim", "broken too", "failed", now_us, now_us)
    until(lambda: len(told()) == 2, what="the second event")


def test_figures_outlive_a_restart(simulator: Simulator, tmp_path: Path) -> None:
    route = f'[routes.production]\nstrategy = "single"\nmodel = "sim/{MODEL}"\n'
    config = PROJECT + provider_table("sim", simulator.base_url()) + route
    with serve(tmp_path, config) as running:
        live = Live.open(state_of(running, LIVE_FILE))
        live.latency("sim", "known", 10, 5_000, 9_000, mono_us())
    with serve(tmp_path, config, workers=2) as running:
        live = Live.open(state_of(running, LIVE_FILE))
        assert live.workers == 2
        found = {target.model: target.averages for target in live.targets(mono_us())}
        assert found["known"] == [("small", 5_000.0, 9_000.0)]
