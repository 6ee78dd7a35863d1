"""What the control plane answers, over a real socket."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import web

from modelux._native import Cells, Ledger, Live, row_key
from modelux.clock import mono_us
from modelux.control.app import Context, make_app
from modelux.control.process import check_parser
from modelux.limits import MIB
from modelux.log import Log
from modelux.store.env import create_env
from modelux.store.layout import CELLS_FILE, LIVE_FILE, METRICS_FILE
from modelux.store.snapshot import SnapshotStore

Answer = tuple[int, str, Mapping[str, str]]


def ask(context: Context, path: str, method: str = "GET") -> Answer:
    """Serve on a free port, ask once, stop."""

    async def run() -> Answer:
        runner = web.AppRunner(make_app(context), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"http://{host}:{port}{path}") as answer,
        ):
            found = answer.status, await answer.text(), answer.headers.copy()
        await runner.cleanup()
        return found

    return asyncio.run(run())


def context_in(state_dir: Path, lines: list[bytes] | None = None) -> Context:
    write = (lines if lines is not None else []).append
    return Context(
        state_dir=state_dir,
        cells=Cells.create(state_dir / CELLS_FILE, 2),
        live=Live.open_or_create(state_dir / LIVE_FILE, "boot", 2),
        log=Log("control", human=False, write=write),
    )


def test_it_says_that_it_is_alive(tmp_path: Path) -> None:
    status, text, headers = ask(context_in(tmp_path), "/healthz")
    assert (status, text) == (200, "ok\n")
    assert "Server" not in headers
    assert headers["x-content-type-options"] == "nosniff"


def test_metrics_are_there_before_the_writer_has_written_any(tmp_path: Path) -> None:
    context = context_in(tmp_path)
    context.cells.add("restarts_killed", 3)
    context.cells.set("in_flight", 4, 0)
    context.cells.set("in_flight", 5, 1)
    status, text, _ = ask(context, "/metrics")
    assert status == 200
    assert 'modelux_worker_restarts_total{reason="killed"} 3\n' in text
    assert "modelux_in_flight_requests 9\n" in text


def test_metrics_show_how_the_targets_in_use_fare(tmp_path: Path) -> None:
    context = context_in(tmp_path)
    now_us = mono_us()
    context.live.began("openai", "gpt-4o", 1, now_us)
    context.live.latency("openai", "gpt-4o", 500, 250_000, 1_500_000, now_us)
    context.live.report("openai", "never-used", "ok", now_us, now_us)
    for _ in range(5):
        context.live.report("openai", "down", "failed", now_us, now_us)
    _, text, _ = ask(context, "/metrics")
    labels = 'provider="openai",model="gpt-4o"'
    assert f"modelux_target_health{{{labels}}} 0\n" in text
    assert f"modelux_target_in_flight{{{labels}}} 1\n" in text
    assert f'modelux_target_ttft_seconds{{{labels},size="small"}} 0.25\n' in text
    assert f'modelux_target_total_seconds{{{labels},size="small"}} 1.5\n' in text
    assert 'modelux_target_health{provider="openai",model="down"} 2\n' in text
    assert "never-used" not in text


def test_metrics_hold_the_sums_of_the_trace_writer(tmp_path: Path) -> None:
    labels = {"route": "@p", "provider": "openai", "model": "m", "status": "200"}
    ttft = {"bounds": [0.5], "counts": [1, 2], "sum": 7}
    samples = [
        ["modelux_requests_total", labels, 12],
        ["modelux_ttft_seconds", {"provider": "openai", "model": "m"}, ttft],
    ]
    (tmp_path / METRICS_FILE).write_text(json.dumps({"samples": samples}))
    status, text, headers = ask(context_in(tmp_path), "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert (
        'modelux_requests_total{route="@p",provider="openai",model="m",status="200"} 12' in text
    )
    assert 'modelux_ttft_seconds_bucket{provider="openai",model="m",le="+Inf"} 3' in text


BUDGET: Final = {
    "id": "0b" * 16,
    "name": "team",
    "scopes": [{"type": "organization"}],
    "cap_nusd": 2_000_000_000,
    "period": "total",
    "timezone": "UTC",
    "action": "block",
    "enabled": True,
    "shadow": False,
}


def publish(state_dir: Path, budgets: list[dict[str, object]]) -> None:
    env = create_env(state_dir, MIB)
    SnapshotStore(env).publish(json.dumps({"budgets": budgets}).encode())
    env.close()


def test_metrics_show_how_the_budgets_of_the_snapshot_stand(tmp_path: Path) -> None:
    publish(tmp_path, [BUDGET])
    ledger = Ledger.create(tmp_path, map_bytes=4 * MIB, stamp="a boot")
    key = row_key(bytes.fromhex("0b" * 16), None, 0)
    ledger.import_rows([(key, "", 0, None, 500_000_000, 0, 0, 7, 0, 1, 1, 0)])
    ledger.close()
    lines: list[bytes] = []
    _, text, _ = ask(context_in(tmp_path, lines), "/metrics")
    assert 'modelux_budget_cap_usd{budget="team"} 2\n' in text
    assert 'modelux_budget_spent_usd{budget="team"} 0.5\n' in text
    assert 'modelux_budget_held_usd{budget="team"} 0\n' in text
    assert lines == []


def test_metrics_are_there_where_the_ledger_is_not(tmp_path: Path) -> None:
    publish(tmp_path, [BUDGET])
    lines: list[bytes] = []
    status, text, _ = ask(context_in(tmp_path, lines), "/metrics")
    assert (status, "modelux_mode 0" in text) == (200, True)
    assert "modelux_budget_cap_usd{" not in text
    assert json.loads(lines[0])["event"] == "budgets_unread"


def test_an_unknown_path_and_a_wrong_method_are_told_in_our_shape(tmp_path: Path) -> None:
    context = context_in(tmp_path)
    status, text, _ = ask(context, "/manage/v1/keys")
    assert (status, json.loads(text)["error"]["code"]) == (404, "not_found")
    status, text, headers = ask(context, "/metrics", "POST")
    assert (status, json.loads(text)["error"]["code"]) == (405, "method_not_allowed")
    assert headers["allow"] == "GET, HEAD"


def test_a_bug_is_answered_counted_and_logged(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text("{")
    lines: list[bytes] = []
    context = context_in(tmp_path, lines)
    status, text, _ = ask(context, "/metrics")
    assert (status, json.loads(text)["error"]["code"]) == (500, "internal_error")
    assert context.cells.get("bugs_control") == 1
    assert json.loads(lines[0])["event"] == "bug"


def test_the_parser_in_use_is_the_one_in_c() -> None:
    check_parser()
