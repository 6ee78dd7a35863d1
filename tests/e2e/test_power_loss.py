"""What was spent and held, after kills at any moment and after the loss of the shared memory.

A real supervisor with its keeper and a real trace writer, over stand-in workers that hold and
settle in the ledger as they are asked to.
"""

import http.client
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from modelux.clock import pause_s
from modelux.store.copy import LedgerCopy
from modelux.supervisor.children import is_stopped
from tests.e2e.stand_ins.deployment import WAIT_S, Deployment, is_running, wait_until

WRITER = "modelux.writer.process"


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    found = Deployment(tmp_path / "data")
    yield found
    found.stop()


def do(deployment: Deployment, path: str) -> None:
    assert deployment.get(path) == (200, b"done")


def row(deployment: Deployment) -> tuple[int, int]:
    """Return what is spent and held."""
    found = json.loads(deployment.get("/row")[1])
    return found["spent"], found["held"]


def copied(deployment: Deployment) -> tuple[int, int]:
    """Return what the copy on disk says is spent and held."""
    copy = LedgerCopy(deployment.data_dir)
    try:
        rows = copy.rows(0)
    finally:
        copy.close()
    return (rows[0].spent_nusd, rows[0].held_nusd) if rows else (0, 0)


def is_copied(deployment: Deployment, spent: int, held: int) -> bool:
    return copied(deployment) == (spent, held)


def descendants(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def kill_all(deployment: Deployment) -> None:
    """Kill the supervisor and everything it started, as the loss of the machine would."""
    assert deployment.process is not None
    pids = descendants(deployment.process.pid)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    deployment.end()
    wait_until(lambda: not any(map(is_running, pids)))


def lose(deployment: Deployment) -> None:
    shutil.rmtree(deployment.data_dir / "state")


def tear(deployment: Deployment) -> None:
    """Put a copy in the map's place that was not written to its end."""
    path = deployment.data_dir / "state" / "ledger.mdb"
    torn = path.read_bytes()[:-4_096] + bytes(4_096)
    path.unlink()
    path.write_bytes(torn)


@pytest.mark.parametrize("damage", [lose, tear])
def test_after_power_loss_spend_is_back_to_the_last_copy_and_what_was_held_is_charged(
    deployment: Deployment, damage: Callable[[Deployment], None]
) -> None:
    deployment.start(writer_module=WRITER)
    do(deployment, "/spend/500")
    do(deployment, "/hold/30")
    do(deployment, "/send/4")
    # Within a second by itself; the test only waits for a busy machine.
    wait_until(partial(is_copied, deployment, 500, 34))
    kill_all(deployment)
    damage(deployment)
    deployment.start(writer_module=WRITER)
    assert row(deployment) == (534, 0)
    (said,) = deployment.events("ledger_rebuilt")
    assert said["rows"] == 1
    assert said["spent_usd"] == "0.000000534"
    assert said["charged_for_holds_usd"] == "0.000000034"
    wait_until(partial(is_copied, deployment, 534, 0))


def test_after_a_kill_of_everything_nothing_is_lost_and_only_what_was_sent_is_charged(
    deployment: Deployment,
) -> None:
    """The writer stands still: it is the map that everything comes back from."""
    deployment.start()
    do(deployment, "/spend/500")
    do(deployment, "/hold/30")
    do(deployment, "/send/4")
    kill_all(deployment)
    deployment.start()
    assert row(deployment) == (504, 0)
    assert deployment.events("ledger_rebuilt") == []


def test_a_dead_workers_holds_are_ended_while_the_others_serve(deployment: Deployment) -> None:
    deployment.start(workers=1)
    do(deployment, "/hold/30")
    do(deployment, "/send/4")
    assert row(deployment) == (0, 34)
    os.kill(deployment.who()["pid"], signal.SIGKILL)
    said = deployment.wait_for("holds_recovered")
    assert (said["released"], said["charged"], said["charged_usd"]) == (1, 1, "0.000000004")
    assert row(deployment) == (4, 0)


def test_a_supervisor_killed_again_and_again_while_it_recovers_ends_each_hold_once(
    deployment: Deployment,
) -> None:
    """Method: thousands of holds, and a kill at another moment of the start each time."""
    deployment.start(workers=1)
    do(deployment, "/many/4000")
    assert row(deployment) == (0, 4_000)
    kill_all(deployment)
    for moment in range(6):
        deployment.launch(workers=1)
        assert deployment.process is not None
        # From before it has opened anything to the midst of the recovery, or behind it.
        pause_s(0.15 + 0.06 * moment)
        kill_all(deployment)
    deployment.start(workers=1)
    assert row(deployment) == (2_000, 0)
    state = deployment.data_dir / "state"
    wait_until(lambda: len(list(state.glob("slots.*"))) == 1)


def test_a_worker_of_a_killed_supervisor_keeps_its_holds_until_it_has_ended(
    deployment: Deployment,
) -> None:
    deployment.start(workers=1)
    do(deployment, "/send/4")
    former = deployment.who()["pid"]
    connection = http.client.HTTPConnection("127.0.0.1", deployment.port, timeout=WAIT_S)
    connection.request("GET", "/linger")
    deployment.who()  # Answered after the request before it was taken in.
    deployment.signal(signal.SIGKILL)
    deployment.end()
    deployment.start(workers=1)
    assert is_running(former)
    assert row(deployment) == (0, 4)
    do(deployment, "/spend/10")
    assert row(deployment) == (10, 4)
    (deployment.data_dir / "let go").touch()
    assert connection.getresponse().read() == b"let go"
    connection.close()
    wait_until(lambda: row(deployment) == (14, 0))


def test_a_worker_stopped_with_the_ledgers_lock_is_killed_and_those_who_wait_are_not(
    deployment: Deployment,
) -> None:
    deployment.start(heartbeat_timeout_s=1)
    before = deployment.workers()
    connections = []
    for path in ("/stop/1", *["/spend/1"] * 12):
        connection = http.client.HTTPConnection("127.0.0.1", deployment.port, timeout=WAIT_S)
        connection.request("GET", path)
        connections.append(connection)
        if path == "/stop/1":
            wait_until(lambda: any(is_stopped(one["pid"]) for one in before.values()))
    stalled = deployment.wait_for("stalled")
    assert (stalled["stopped"], stalled["ledger_lock"]) == (True, "holds")
    for connection in connections[1:]:
        try:
            connection.getresponse().read()
        except (ConnectionError, http.client.HTTPException):
            continue  # It was in the hands of the one that was killed.
    for connection in connections:
        connection.close()
    after = deployment.workers()
    slot = int(stalled["child"].rpartition(".")[2])
    assert after[1 - slot] == before[1 - slot]
    assert after[slot] != before[slot]
    assert len(deployment.events("stalled")) == 1
    # What it had begun to hold has never been.
    spent, held = row(deployment)
    assert held == 0
    assert spent <= 12


def test_a_drain_ends_with_a_copy_of_everything(deployment: Deployment) -> None:
    """The writer stands still: the last copy is the supervisor's own."""
    deployment.start()
    do(deployment, "/spend/500")
    do(deployment, "/send/4")
    deployment.signal(signal.SIGTERM)
    assert deployment.end() == 0
    assert copied(deployment) == (504, 0)
    lose(deployment)
    deployment.start()
    assert row(deployment) == (504, 0)
