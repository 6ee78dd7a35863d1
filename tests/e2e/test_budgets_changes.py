"""What edits, credits, restarts and losses do to what was spent: it never falls."""

import json
import os
import re
import shutil
import signal
import sqlite3
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from modelux._native import Cells
from modelux.store.layout import CELLS_FILE
from tests.e2e.budgets import (
    CHEAP,
    GEN,
    MYSTERY,
    TOK,
    Holding,
    ask,
    budget,
    configuration,
    question,
    row,
    rows,
    sent_body,
    sent_limit,
    settled,
    shown,
    spend,
    spent,
    usd,
)
from tests.e2e.harness import HOST, Gateway, Simulator, serve, until

STAR = '{ type = "tag", key = "t", value = "*" }'


def _edit(gateway: Gateway, before: str, after: str) -> None:
    """Change the file of a running gateway and make it load it."""
    text = gateway.config.read_text("utf-8")
    assert text.count(before) == 1, (before, text)
    gateway.config.write_text(text.replace(before, after), "utf-8")
    _apply(gateway)


def _apply(gateway: Gateway) -> None:
    """Make a running gateway load its file, and wait until every worker goes by it."""
    done = gateway.run("check", "--apply")
    assert done.returncode == 0, done.stderr
    cells = Cells.open(gateway.config.parent / "state" / CELLS_FILE)
    until(
        lambda: all(
            cells.get("worker_snapshot", slot) == cells.get("snapshot_generation")
            for slot in range(cells.workers)
        ),
        what="workers that go by the new file",
    )


def _refused(gateway: Gateway, name: str, tokens: int) -> bool:
    return ask(gateway, name, question(limit=tokens)).status == 402


# --- edits ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def edited(
    shared_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    budgets = (
        budget("raised", 100),
        budget("lowered", 1000),
        budget("switched", 101, enabled=True),
        budget("turned", 102, action="block"),
        budget("renamed", 103),
        budget("forgotten", 104, backfill=False),
        budget("removed", 105),
    )
    config = configuration(shared_simulator, budgets)
    with serve(tmp_path_factory.mktemp("edited"), config) as running:
        yield running


def test_a_raised_cap_keeps_what_was_spent(edited: Gateway) -> None:
    spend(edited, "raised", 90)
    assert _refused(edited, "raised", 20)
    _edit(edited, "cap_usd = 0.100000000", "cap_usd = 0.200000000")
    reply = ask(edited, "raised", question(limit=20, simulate="tokens=20"))
    assert reply.header("x-modelux-budget-remaining") == shown(90)
    assert spent(edited, "raised") == usd(110)


def test_a_lowered_cap_binds_new_requests_and_lets_those_in_flight_be(
    edited: Gateway, simulator: Simulator
) -> None:
    with Holding(edited, "lowered", 900):
        _edit(edited, "cap_usd = 1.000000000", "cap_usd = 0.500000000")
        reply = ask(edited, "lowered", question(limit=10))
        assert (reply.status, reply.error()["code"]) == (429, "budget_held")
        # What is shown as held is what the cap covers of it.
        assert reply.error()["budget"]["held_usd"] == usd(500)
        assert simulator.totals()["total"]["open"] == 1
    settled(edited, "lowered")
    assert ask(edited, "lowered", question(limit=10)).status == 200


def test_a_disabled_budget_goes_on_counting_and_blocks_again_once_enabled(
    edited: Gateway,
) -> None:
    spend(edited, "switched", 101)
    _edit(edited, "enabled = true", "enabled = false")
    reply = ask(edited, "switched", question(limit=50, simulate="tokens=50"))
    assert reply.status == 200
    assert reply.header("x-modelux-budget-name") is None
    assert spent(edited, "switched") == usd(151)
    _edit(edited, "enabled = false", "enabled = true")
    assert _refused(edited, "switched", 1)


def test_another_action_keeps_what_was_spent(edited: Gateway) -> None:
    spend(edited, "turned", 101)
    assert _refused(edited, "turned", 100)
    _edit(edited, 'action = "block"', f'action = "downgrade"\ndowngrade_to = "{CHEAP}"')
    reply = ask(edited, "turned", question(limit=100))
    assert reply.header("x-modelux-model-used") == "cheap"
    assert spent(edited, "turned") > usd(101)


def test_another_name_starts_at_what_the_traces_show(edited: Gateway) -> None:
    spend(edited, "renamed", 60)
    _traced(edited, "renamed")
    before, after = 'name = "renamed"', 'name = "renamed-later"'
    text = edited.config.read_text("utf-8")
    edited.config.write_text(text.replace(before, after), "utf-8")
    told = edited.run("check")
    assert re.search(r"renamed-later.*0\.06", told.stdout), told.stdout
    _apply(edited)
    until(
        lambda: row(edited, "renamed-later")["spent_usd"] == usd(60),
        what="what the traces show",
    )
    assert _refused(edited, "renamed", 44)
    assert ask(edited, "renamed", question(limit=43)).status == 200


def test_another_name_starts_at_nothing_where_the_file_says_so(edited: Gateway) -> None:
    spend(edited, "forgotten", 60)
    _traced(edited, "forgotten")
    _edit(edited, 'name = "forgotten"', 'name = "forgotten-later"')
    assert ask(edited, "forgotten", question(limit=104)).status == 200
    assert settled(edited, "forgotten-later")["spent_usd"] == usd(1)


def test_a_budget_that_is_removed_and_declared_again_knows_what_it_had_spent(
    edited: Gateway,
) -> None:
    spend(edited, "removed", 100)
    _traced(edited, "removed")
    table = budget("removed", 105).strip()
    _edit(edited, table, "")
    assert ask(edited, "removed", question(limit=50)).status == 200
    edited.config.write_text(edited.config.read_text("utf-8") + "\n" + table + "\n", "utf-8")
    _apply(edited)
    until(lambda: row(edited, "removed")["spent_usd"] >= usd(100), what="what it had spent")
    assert _refused(edited, "removed", 50)


def _traced(gateway: Gateway, name: str) -> None:
    """Wait until the trace of a budget's request is stored."""
    until(
        lambda: [each for each in gateway.traces() if each["tags"] == {"t": name}],
        what=f"the trace of {name}",
    )


# --- budgets that only look ----------------------------------------------------------------


@pytest.fixture(scope="module")
def looking(
    shared_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    budgets = (
        budget("shadow", 100, shadow=True),
        budget("warning", 100, action="warn_only"),
        budget("off", 100, enabled=False),
        budget("credited", 100),
        budget("each", 100, scope='{ type = "tag", key = "u", value = "*" }', unset="skip"),
    )
    config = configuration(shared_simulator, budgets)
    with serve(tmp_path_factory.mktemp("looking"), config) as running:
        yield running


@pytest.mark.parametrize("name", ["shadow", "warning", "off"])
def test_a_budget_that_does_not_enforce_counts_and_changes_nothing(
    looking: Gateway, simulator: Simulator, name: str
) -> None:
    before = spent(looking, name)
    for _ in range(2):
        reply = ask(looking, name, question(simulate="tokens=80"))
        assert reply.status == 200
        assert reply.header("x-modelux-fit-max-tokens") is None
    assert [sent_limit(json.loads(each["body"])) for each in simulator.requests()] == [None] * 2
    assert spent(looking, name) == round(before + usd(160), 9)
    assert row(looking, name)["remaining_usd"] == 0
    assert ask(looking, name, question(MYSTERY)).status == 200


def test_only_a_warning_budget_is_told(looking: Gateway) -> None:
    reply = ask(looking, "warning", question(limit=5))
    assert reply.header("x-modelux-budget-name") == "warning"
    assert reply.header("x-modelux-budget-action") == "warn_only"
    assert ask(looking, "shadow", question(limit=5)).header("x-modelux-budget-name") is None


# --- credits -------------------------------------------------------------------------------


def test_a_credit_is_counted_at_once_and_lowers_nothing(looking: Gateway) -> None:
    spend(looking, "credited", 100)
    assert _refused(looking, "credited", 1)
    words = ("budgets", "credit", "credited", "--usd", "0.03", "--reason", "a wrong bill")
    for _ in range(2):
        done = looking.run(*words)
        assert done.returncode == 0, done.stderr
        assert "counted by the running server" in done.stdout
    state = row(looking, "credited")
    assert (state["spent_usd"], state["remaining_usd"]) == (usd(100), usd(60))
    assert state["cap_usd"] == usd(100)
    reply = ask(looking, "credited", question(limit=60, simulate="tokens=60"))
    assert reply.status == 200
    assert _refused(looking, "credited", 1)
    assert "a wrong bill" in looking.run("audit").stdout


def test_a_credit_goes_to_one_subject_of_a_split_budget(looking: Gateway) -> None:
    for user in ("ann", "bob"):
        reply = ask(
            looking, "none", question(limit=100, simulate="tokens=100"),
            {"X-Modelux-User-Tags": f"u={user}"},
        )  # fmt: skip
        assert reply.status == 200
    words = ("budgets", "credit", "each", "--usd", "0.01", "--reason", "r")
    missing = looking.run(*words)
    assert (missing.returncode, "--subject" in missing.stderr) == (1, True)
    unknown = looking.run(*words, "--subject", "anne")
    assert (unknown.returncode, '"ann"' in unknown.stderr) == (1, True)
    assert looking.run(*words, "--subject", "ann").returncode == 0
    left = {each["subject"]: each["remaining_usd"] for each in rows(looking, "each")}
    assert (left["ann"], left["bob"]) == (usd(10), 0)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("credit", "credted", "--usd", "1", "--reason", "r"), 1, '"credited"'),
        (("credit", "credited", "--usd", "0", "--reason", "r"), 2, "above 0"),
        (("credit", "credited", "--usd", "-1", "--reason", "r"), 2, "--usd"),
        (("credit", "credited", "--usd", "1.0000000001", "--reason", "r"), 2, "nine decimals"),
        (("credit", "credited", "--usd", "much", "--reason", "r"), 2, "number"),
        (("credit", "credited", "--usd", "NaN", "--reason", "r"), 2, "finite"),
        (("credit", "credited", "--usd", "1e30", "--reason", "r"), 2, "2**53"),
        (("credit", "credited", "--usd", "1"), 2, "--reason"),
        (("credit", "credited", "--usd", "1", "--reason", " "), 1, "a reason"),
        (("credit", "credited", "--usd", "1", "--reason", "r", "--subject", "a"), 1, "one cap"),
    ],
)
def test_a_credit_that_cannot_be_is_refused_with_its_fix(
    looking: Gateway, words: tuple[str, ...], code: int, said: str
) -> None:
    done = looking.run("budgets", *words)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


# --- what is shown -------------------------------------------------------------------------


def test_the_table_shows_each_budget_and_json_its_documented_keys(looking: Gateway) -> None:
    table = looking.run("budgets").stdout.splitlines()
    assert table[0].split() == [
        "NAME", "SUBJECT", "CAP", "SPENT", "HELD", "REMAINING", "RESETS", "ACTION",
        "LAST", "ACTED",
    ]  # fmt: skip
    assert {line.split()[0] for line in table[1:]} >= {"shadow", "warning", "off", "credited"}
    listed = json.loads(looking.run("budgets", "--json").stdout)
    assert listed == rows(looking)
    (told,) = (each for each in listed if each["name"] == "shadow")
    assert set(told) == {
        "name", "scope", "subject", "period", "window_start", "window_end", "cap_usd",
        "spent_usd", "held_usd", "remaining_usd", "action",
    }  # fmt: skip
    assert told["scope"] == {"type": "tag", "key": "t", "value": "shadow"}
    assert (told["subject"], told["period"], told["cap_usd"]) == (None, "monthly", usd(100))
    assert told["window_start"] < told["window_end"]


def test_metrics_show_the_money_of_each_budget_and_no_subject(looking: Gateway) -> None:
    body = question(limit=9, simulate="tokens=9")
    reply = ask(looking, "none", body, {"X-Modelux-User-Tags": "u=zebra"})
    assert reply.status == 200
    total_nusd = round(sum(each["spent_usd"] for each in rows(looking, "each")) * 1e9)
    url = f"http://{HOST}:{looking.control_port}/metrics"
    with urllib.request.urlopen(url) as answer:
        text = answer.read().decode()
    assert 'modelux_budget_cap_usd{budget="shadow"} 0.1' in text
    told = re.search(r'modelux_budget_spent_usd\{budget="each"\} (\S+)', text)
    assert told is not None
    assert round(float(told[1]) * 1e9) == total_nusd
    assert 'modelux_budget_held_usd{budget="shadow"} 0' in text
    assert re.search(r"modelux_ledger_copy_age_seconds [0-9.]+", text)
    assert "zebra" not in text


# --- restarts and losses -------------------------------------------------------------------


def _kill_all(gateway: Gateway) -> None:
    for pid in gateway.pids():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    gateway.child.process.wait()


def test_a_restart_changes_nothing(simulator: Simulator, tmp_path: Path) -> None:
    config = configuration(simulator, [budget("kept", 100), budget("late", 100)])
    with serve(tmp_path, config) as first:
        spend(first, "kept", 70)
        before = settled(first, "kept")
    stopped = row(first, "kept")
    assert stopped == before
    done = first.run("budgets", "credit", "late", "--usd", "0.1", "--reason", "r")
    assert (done.returncode, "next start" in done.stdout) == (0, True)
    with serve(tmp_path, config) as second:
        assert row(second, "kept") == before
        assert _refused(second, "kept", 31)
        reply = ask(second, "late", question(limit=200))
        assert reply.status == 200


@pytest.mark.parametrize("loses_memory", [False, True])
def test_killed_whole_it_comes_back_with_all_that_was_spent_and_held(
    simulator: Simulator, tmp_path: Path, *, loses_memory: bool
) -> None:
    config = configuration(simulator, [budget("kept", 1000), budget("open", 1000)])
    with serve(tmp_path, config, workers=2, expect=None) as first:
        for _ in range(10):
            spend(first, "kept", 7)
        holding = Holding(first, "open", 400, model=TOK)
        assert row(first, "open")["held_usd"] == usd(400)
        if loses_memory:
            # A copy that is at most a second old is what is left: wait for one.
            until(
                lambda: (
                    _copied(tmp_path, first, "kept", 70) and _copied(tmp_path, first, "open", 0)
                ),
                what="the copy on disk",
            )
        _kill_all(first)
        holding.release()
    if loses_memory:
        shutil.rmtree(tmp_path / "state")
    with serve(tmp_path, config) as second:
        assert spent(second, "kept") == usd(70)
        # The provider bills all: what was held was charged, and no hold is left.
        assert spent(second, "open") == usd(400)
        assert simulator.totals()["total"]["billed_nusd"] <= round(usd(470) * 1e9)
        assert ask(second, "open", question(limit=600)).status == 200


def _copied(folder: Path, gateway: Gateway, name: str, tokens: int) -> bool:
    """Return whether the copy of a running deployment has what a budget spent."""
    uri = f"file:{folder / 'data' / 'ledger.db'}?mode=ro"
    connection = sqlite3.connect(uri, uri=True)
    try:
        found = connection.execute(
            "SELECT spent_nusd + held_nusd FROM rows WHERE budget = ?", (name,)
        ).fetchall()
    finally:
        connection.close()
    assert gateway.child.alive()
    return any(each[0] >= round(usd(tokens) * 1e9) for each in found)


def test_a_dead_worker_costs_what_its_provider_bills_and_no_hold_is_left(
    simulator: Simulator, tmp_path: Path
) -> None:
    config = configuration(simulator, [budget("all", 1000), budget("generated", 1000)])
    with serve(tmp_path, config) as gateway:
        holdings = [
            Holding(gateway, "all", 400, model=TOK),
            Holding(gateway, "generated", 400, model=GEN),
        ]
        for pid in _workers(gateway):
            os.kill(pid, signal.SIGKILL)
        assert spent(gateway, "all") == usd(400)
        assert usd(1) <= spent(gateway, "generated") < usd(400)
        for holding in holdings:
            holding.release()
        reply = ask(gateway, "all", question(limit=600))
        assert reply.status == 200


def _workers(gateway: Gateway) -> list[int]:
    found = []
    for pid in gateway.pids():
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"modelux.proxy.worker" in words:
                found.append(pid)
    assert found
    return found


def test_a_fitted_request_sends_its_limit_in_one_spelling(
    looking: Gateway, simulator: Simulator
) -> None:
    reply = ask(looking, "none", question(), {"X-Modelux-User-Tags": "u=carla"})
    assert reply.status == 200
    assert sent_limit(sent_body(simulator)) == 100
