"""The supervisor over stand-in children: real processes, sockets, signals and kills."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from modelux.supervisor.lock import serving_pid
from tests.e2e.stand_ins.deployment import ROOT, WAIT_S, Deployment, is_running, wait_until


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    found = Deployment(tmp_path / "data")
    yield found
    found.stop()


def test_every_slot_serves_on_one_port_and_writer_and_control_plane_run(
    deployment: Deployment,
) -> None:
    deployment.start(workers=3)
    assert set(deployment.workers(3)) == {0, 1, 2}
    assert is_running(deployment.idle("writer"))
    assert is_running(deployment.idle("control"))
    assert deployment.get("/snapshot") == (200, b"one")
    assert deployment.get("/mode") == (200, b"1")


def test_a_second_supervisor_is_refused_by_the_process_id_of_the_first(
    deployment: Deployment,
) -> None:
    deployment.start()
    assert deployment.process is not None
    second = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.e2e.stand_ins.serve",
            json.dumps({"data_dir": str(deployment.data_dir)}),
        ],
        capture_output=True,
        check=False,
        cwd=ROOT,
        timeout=WAIT_S,
    )
    assert second.returncode == 1
    assert f"(process {deployment.process.pid})" in second.stderr.decode()
    assert deployment.get("/who")[0] == 200


def test_a_port_that_is_taken_is_a_clear_refusal(
    deployment: Deployment, tmp_path: Path
) -> None:
    deployment.start()
    other = Deployment(tmp_path / "other")
    other.launch(listen=f"127.0.0.1:{deployment.port}")
    assert other.end() == 1
    assert "the port is in use" in other.events("store")[0]["why"]


def test_a_killed_worker_is_replaced_while_the_others_serve(deployment: Deployment) -> None:
    deployment.start()
    before = deployment.workers()
    os.kill(before[0]["pid"], signal.SIGKILL)
    assert deployment.wait_for("died")["why"] == "killed by SIGKILL"
    after = deployment.workers()
    assert after[1] == before[1]
    assert after[0]["generation"] > max(w["generation"] for w in before.values())


def test_connections_made_while_their_worker_is_down_are_served_by_its_successor(
    deployment: Deployment,
) -> None:
    deployment.start(workers=1)
    for _ in range(3):
        os.kill(deployment.who()["pid"], signal.SIGKILL)
        assert deployment.get("/who")[0] == 200


def test_killed_writer_and_control_plane_are_started_again(deployment: Deployment) -> None:
    deployment.start()
    for name in ("writer", "control"):
        before = deployment.idle(name)
        os.kill(before, signal.SIGKILL)
        wait_until(partial(deployment.has_other, name, before))
    assert deployment.get("/mode") == (200, b"1")


def test_children_leave_when_the_supervisor_is_killed_and_the_next_start_works(
    deployment: Deployment,
) -> None:
    deployment.start()
    workers = deployment.workers()
    children = [w["pid"] for w in workers.values()]
    children += [deployment.idle("writer"), deployment.idle("control")]
    deployment.signal(signal.SIGKILL)
    deployment.end()
    wait_until(lambda: not any(map(is_running, children)))
    assert serving_pid(deployment.data_dir) is None
    notes = (deployment.data_dir / "idle.log").read_text()
    assert "writer end" in notes

    deployment.start(listen=f"127.0.0.1:{deployment.port}")
    used = {w["generation"] for w in workers.values()}
    assert used.isdisjoint(w["generation"] for w in deployment.workers().values())


def test_a_start_right_after_a_kill_gets_the_port_that_others_are_letting_go(
    deployment: Deployment,
) -> None:
    deployment.start()
    stopped = deployment.workers()[0]["pid"]
    # It cannot let go of its socket before it is woken, a moment after the next start.
    os.kill(stopped, signal.SIGSTOP)
    deployment.signal(signal.SIGKILL)
    deployment.end()
    waker = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -CONT {stopped}"])
    deployment.start(listen=f"127.0.0.1:{deployment.port}")
    waker.wait(WAIT_S)
    assert deployment.get("/who")[0] == 200


def test_after_a_kill_of_the_whole_tree_the_next_start_works_on_the_same_port(
    deployment: Deployment,
) -> None:
    deployment.start()
    children = [w["pid"] for w in deployment.workers().values()]
    children += [deployment.idle("writer"), deployment.idle("control")]
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    deployment.signal(signal.SIGKILL)
    deployment.end()
    deployment.start(listen=f"127.0.0.1:{deployment.port}")
    assert deployment.get("/snapshot") == (200, b"one")


def test_terminate_finishes_what_is_in_flight_and_accepts_nothing_after_the_delay(
    deployment: Deployment,
) -> None:
    deployment.start(drain_delay_s=0.3)
    connection = http.client.HTTPConnection("127.0.0.1", deployment.port, timeout=WAIT_S)
    connection.request("GET", "/slow")
    deployment.signal(signal.SIGTERM)
    # Still accepted during the delay, and told by the mode that we are draining.
    wait_until(lambda: deployment.get("/mode") == (200, b"2"))
    assert connection.getresponse().read() == b"slow"
    connection.close()
    assert deployment.end() == 0
    with pytest.raises(ConnectionRefusedError):
        deployment.get("/who")
    ends = [n for n in (deployment.data_dir / "idle.log").read_text().split("\n") if "end" in n]
    assert [n.split()[0] for n in ends] == ["writer", "control"]


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGTERM, signal.SIGTERM], [signal.SIGINT], [signal.SIGTERM, signal.SIGINT]],
)
def test_a_second_terminate_or_an_interrupt_ends_at_once_and_leaves_no_process(
    deployment: Deployment, signals: list[signal.Signals]
) -> None:
    deployment.start(drain_delay_s=3600, drain_s=3600)
    children = [w["pid"] for w in deployment.workers().values()]
    children += [deployment.idle("writer"), deployment.idle("control")]
    connection = http.client.HTTPConnection("127.0.0.1", deployment.port, timeout=WAIT_S)
    connection.request("GET", "/slow")
    for number in signals:
        deployment.signal(number)
        wait_until(lambda: deployment.events("terminating") or deployment.events("interrupted"))
    assert deployment.end() == 0
    assert not any(map(is_running, children))
    connection.close()
    assert "writer end" in (deployment.data_dir / "idle.log").read_text()


def test_a_worker_that_outlasts_the_drain_is_killed(deployment: Deployment) -> None:
    deployment.start(drain_s=0.1)
    pid = deployment.workers()[1]["pid"]
    os.kill(pid, signal.SIGSTOP)
    deployment.signal(signal.SIGTERM)
    assert deployment.end() == 0
    assert not is_running(pid)


def test_hangup_publishes_what_changed_to_every_worker(deployment: Deployment) -> None:
    deployment.start()
    before = deployment.reload_result()
    deployment.publish("two")
    assert deployment.get("/snapshot") == (200, b"one")
    deployment.signal(signal.SIGHUP)
    wait_until(lambda: deployment.get("/snapshot") == (200, b"two"))
    wait_until(lambda: deployment.reload_result()["seq"] == before["seq"] + 1)
    after = deployment.reload_result()
    assert (after["ok"], after["faults"]) == (True, [])


def test_hangup_with_an_invalid_configuration_changes_nothing_and_says_every_fault(
    deployment: Deployment,
) -> None:
    deployment.start()
    before = deployment.reload_result()
    deployment.publish("bad")
    deployment.signal(signal.SIGHUP)
    deployment.wait_for("reload_refused", 2)
    wait_until(lambda: deployment.reload_result()["seq"] == before["seq"] + 1)
    after = deployment.reload_result()
    assert after["ok"] is False
    assert after["faults"] == ["blob:1: first fault", "blob:2: second fault"]
    assert deployment.get("/snapshot") == (200, b"one")


def test_an_invalid_configuration_at_the_start_starts_nothing(deployment: Deployment) -> None:
    deployment.publish("bad")
    deployment.launch()
    assert deployment.end() == 78
    assert deployment.events("config")[0]["faults"][1] == "blob:2: second fault"


def test_what_another_process_changed_is_published_without_a_signal(
    deployment: Deployment,
) -> None:
    deployment.start()
    deployment.publish("two")
    (deployment.data_dir / "changed").touch()
    wait_until(lambda: deployment.get("/snapshot") == (200, b"two"))


def test_a_stopped_worker_is_killed_after_the_timeout_and_replaced(
    deployment: Deployment,
) -> None:
    deployment.start(heartbeat_timeout_s=1)
    before = deployment.workers()
    os.kill(before[1]["pid"], signal.SIGSTOP)
    stalled = deployment.wait_for("stalled")
    assert (stalled["child"], stalled["stopped"]) == ("worker.1", True)
    after = deployment.workers()
    assert after[0] == before[0]
    assert after[1]["pid"] != before[1]["pid"]


def test_a_supervisor_that_was_stopped_itself_kills_nobody_for_it(
    deployment: Deployment,
) -> None:
    deployment.start(heartbeat_timeout_s=1)
    workers = deployment.workers()
    for worker in workers.values():
        os.kill(worker["pid"], signal.SIGSTOP)
    deployment.signal(signal.SIGSTOP)
    time.sleep(2.5)
    deployment.signal(signal.SIGCONT)
    for worker in workers.values():
        os.kill(worker["pid"], signal.SIGCONT)
    time.sleep(0.5)
    assert deployment.workers() == workers
    assert deployment.events("stalled") == []


def test_five_deaths_within_a_minute_are_a_crash_loop_that_callers_are_told_of(
    deployment: Deployment,
) -> None:
    deployment.start(workers=1)
    (deployment.data_dir / "die").touch()
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        deployment.get("/die")
    deployment.wait_for("crash_loop")
    # Nobody is there to serve: the supervisor answers, and says when to come back.
    status, body = deployment.get("/v1/chat/completions")
    assert status == 503
    assert json.loads(body)["error"]["code"] == "crash_loop"
    assert len(deployment.events("died")) == 5
    pauses = [event["restart_in_s"] for event in deployment.events("died")]
    assert pauses == sorted(pauses)
    assert pauses[-1] >= 1


def test_a_bug_in_a_reload_ends_nobody_and_is_told(deployment: Deployment) -> None:
    deployment.start()
    before = deployment.reload_result()
    deployment.publish("bug")
    deployment.signal(signal.SIGHUP)
    assert "nobody expected this" in deployment.wait_for("bug")["what"]
    wait_until(lambda: deployment.reload_result()["seq"] == before["seq"] + 1)
    assert deployment.reload_result()["ok"] is False
    assert deployment.get("/snapshot") == (200, b"one")
    deployment.publish("two")
    deployment.signal(signal.SIGHUP)
    wait_until(lambda: deployment.get("/snapshot") == (200, b"two"))
    deployment.signal(signal.SIGTERM)
    assert deployment.end() == 0
