"""`modelux providers`: how targets fare, and which model's bound is set back."""

from collections.abc import Iterator
from typing import Final

import pytest

from modelux._native import Live
from modelux.clock import mono_us
from modelux.store.layout import LIVE_FILE
from modelux.units import US_PER_S
from tests.unit.cli.conftest import FILE, Operator, serving

KEYS: Final = """\
[providers.keyed]
vendor = "openai_compatible"
base_url = "http://127.0.0.1:9/v1"
credentials = [
  { id = "a", api_key = "file:key-a" },
  { id = "b", api_key = "file:key-b" },
]
"""


@pytest.fixture
def live(operator: Operator) -> Iterator[Live]:
    """The live state of a deployment whose supervisor is this process."""
    operator.write("key-a", "sk-proj-0123456789abcdefTA0A")
    operator.write("key-b", "sk-proj-0123456789abcdefTB0B")
    with serving(operator, FILE + KEYS) as live:
        yield live


def test_without_a_server_it_says_what_is_configured_and_that_none_runs(
    operator: Operator,
) -> None:
    done = operator.run("providers", "--json")
    assert "no server is running" in done.err
    assert done.json == [
        {
            "name": "sim",
            "vendor": "openai_compatible",
            "base_url": "http://127.0.0.1:9/v1",
            "status": "unknown",
            "models": ["small", "large"],
            "credentials": [],
            "health": [],
        }
    ]
    lines = operator.run("providers").out.splitlines()
    assert lines[0].split() == ["NAME", "VENDOR", "STATUS", "CREDENTIALS", "BASE", "URL"]
    assert lines[1].split()[:4] == ["sim", "openai_compatible", "unknown", "none"]


def test_each_target_is_told_with_its_health_and_each_key_by_its_fingerprint(
    operator: Operator, live: Live
) -> None:
    now_us = mono_us()
    live.began("sim", "small", 0, now_us)
    live.latency("sim", "small", 10, 200_000, 900_000, now_us)
    live.report("sim", "small", "ok", now_us, now_us)
    for _ in range(5):
        live.report("sim", "large", "failed", now_us, now_us)
    live.reject_credential("keyed", "keyed/a", 1, now_us)
    live.cool("keyed", "m", "keyed/b", now_us + 60 * US_PER_S, now_us)
    done = operator.run("providers", "--json")
    assert done.err == ""
    keyed, sim = sorted(done.json, key=lambda one: str(one["name"]))
    assert sim["status"] == "degraded"
    large, small = sim["health"]
    assert large == {
        "model": "large",
        "state": "open",
        "error_rate": 1.0,
        "p50_ttft_ms": None,
        "p50_latency_ms": None,
        "in_flight": 0,
    }
    assert (small["state"], small["error_rate"], small["in_flight"]) == ("closed", 0.0, 1)
    assert small["p50_ttft_ms"] == pytest.approx(200, rel=0.13)
    assert small["p50_latency_ms"] == pytest.approx(900, rel=0.13)
    assert (keyed["status"], keyed["models"]) == ("degraded", None)
    assert keyed["credentials"] == [
        {"id": "keyed/a", "fingerprint": "sk-proj-...TA0A", "status": "rejected"},
        {"id": "keyed/b", "fingerprint": "sk-proj-...TB0B", "status": "cooling"},
    ]
    shown = operator.run("providers").out
    assert "sk-proj-...TA0A (rejected), sk-proj-...TB0B (cooling)" in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("sim/large")]
    assert line.split()[:6] == ["sim/large", "open", "0s", "0", "0", "5"]
    (line,) = [line for line in shown.splitlines() if line.startswith("sim/small")]
    assert line.split()[-1] in {"ms", "s"}


def test_a_provider_of_which_nothing_serves_is_down(operator: Operator, live: Live) -> None:
    now_us = mono_us()
    for _ in range(5):
        live.report("sim", "large", "failed", now_us, now_us)
    for name in ("keyed/a", "keyed/b"):
        live.reject_credential("keyed", name, 1, now_us)
    told = {one["name"]: one["status"] for one in operator.run("providers", "--json").json}
    assert told == {"sim": "down", "keyed": "down"}


def test_a_key_that_cannot_be_read_here_and_a_live_state_that_is_gone_are_said(
    operator: Operator, live: Live
) -> None:
    assert live.workers == 1
    (operator.folder / "key-a").unlink()
    assert "not readable here, sk-proj-...TB0B" in operator.run("providers").out
    assert "no target has been called yet" in operator.run("providers").out
    (operator.folder / "state" / LIVE_FILE).unlink()
    done = operator.run("providers")
    assert (done.code, "the live state is gone" in done.err) == (1, True)


def test_a_reset_is_kept_for_the_next_start_and_audited(operator: Operator) -> None:
    done = operator.run("providers", "--reset-bound", "sim/large")
    assert (done.code, done.out) == (
        0, "no server is running; the next start sets it back\n",
    )  # fmt: skip
    assert "sim/large" in operator.run("audit").out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--reset-bound", "large"), 1, '"large" is not PROVIDER/MODEL'),
        (("--reset-bound", "sim/"), 1, "is not PROVIDER/MODEL"),
        (("--reset-bound", "sims/large"), 1, 'nearest "sim"'),
        (("--reset-bound",), 2, "--reset-bound"),
    ],
)
def test_what_cannot_be_set_back_is_refused(
    operator: Operator, words: tuple[str, ...], code: int, said: str
) -> None:
    done = operator.run("providers", *words)
    assert (done.code, said in done.err) == (code, True), done.err
