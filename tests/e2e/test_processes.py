"""A whole deployment under kills, stops and reloads, in the middle of traffic."""

import http.client
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from modelux._native import Cells
from modelux.clock import mono_us, pause_s
from modelux.store.layout import CELLS_FILE
from modelux.units import US_PER_S
from tests.e2e.harness import (
    HOST,
    KEY,
    PROJECT,
    WAIT_S,
    Ending,
    Gateway,
    Json,
    RawClient,
    Reply,
    Simulator,
    call,
    chat_body,
    command,
    post,
    provider_table,
    serve,
    until,
)

pytestmark = pytest.mark.slow

MODEL: Final = "sim/gpt-4o-mini?tokens=3"
ROUTE: Final = f'[routes.production]\nstrategy = "single"\nmodel = "{MODEL}"\n'
BROKEN: Final = '[routes.broken]\nstrategy = "single"\nmodle = "x"\n'
Start = Callable[..., AbstractContextManager[Gateway]]
CALLERS_COUNT: Final = 4


@dataclass(slots=True)
class Traffic:
    """What callers got who went on calling the whole time."""

    port: int
    key: str = KEY
    answers: list[Reply] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)

    def go_on(self) -> None:
        """Call until it is over, each time on a connection of its own: all workers get some."""
        while not self._over.is_set():
            try:
                reply = call(self.port, chat_body(MODEL), key=self.key)
            except OSError as failure:
                self._note(failed=repr(failure))
                pause_s(0.01)
                continue
            if reply.ending is Ending.WHOLE and reply.status:
                self._note(answer=reply)
            else:
                self._note(failed=f"{reply.status} {reply.ending}")

    def _note(self, *, answer: Reply | None = None, failed: str = "") -> None:
        with self._lock:
            if answer is not None:
                self.answers.append(answer)
            else:
                self.failures.append(failed)

    def more(self, count: int) -> None:
        """Wait for so many more answers."""
        wanted = len(self.answers) + count
        until(lambda: len(self.answers) >= wanted, what=f"{count} more answers")

    def stop(self) -> None:
        """Let nobody call again."""
        self._over.set()


@contextmanager
def traffic(gateway: Gateway) -> Iterator[Traffic]:
    """Let several callers call for the length of the block."""
    flowing = Traffic(gateway.port)
    callers = [
        threading.Thread(target=flowing.go_on, daemon=True) for _ in range(CALLERS_COUNT)
    ]
    for caller in callers:
        caller.start()
    try:
        yield flowing
    finally:
        flowing.stop()
        for caller in callers:
            caller.join(WAIT_S)


@pytest.fixture
def start(simulator: Simulator, tmp_path: Path) -> Start:
    """Return what runs a gateway of two workers, always on the same data."""

    def run(
        server: str = "", *, drain_delay_s: int = 0, expect: int | None = 0
    ) -> AbstractContextManager[Gateway]:
        config = PROJECT + provider_table("sim", simulator.base_url()) + ROUTE
        return serve(
            tmp_path,
            config,
            server=server,
            workers=2,
            drain_delay_s=drain_delay_s,
            expect=expect,
        )

    return run


def events(gateway: Gateway, name: str) -> list[Json]:
    """Return what was logged under one name."""
    lines = [line for line in gateway.child.said().splitlines() if line.startswith("{")]
    return [event for event in map(json.loads, lines) if event["event"] == name]


def cells(gateway: Gateway) -> Cells:
    return Cells.open(gateway.config.parent / "state" / CELLS_FILE)


def worker_pids(gateway: Gateway, count: int = 2) -> list[int]:
    found = cells(gateway)
    return until(
        lambda: [found.get("worker_pid", slot) for slot in range(count)], what="worker pids"
    )


def has_successor(gateway: Gateway, slot: int, pid: int) -> bool:
    return worker_pids(gateway)[slot] != pid


def has_died(gateway: Gateway, times: int) -> bool:
    return len(events(gateway, "died")) >= times


def pid_of(gateway: Gateway, module: str) -> int:
    """Return the process that runs a module of ours, once there is one."""

    def find() -> int:
        for pid in gateway.pids():
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if module.encode() in words:
                    return pid
        return 0

    return until(find, what=module)


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def expect_traced_once(gateway: Gateway, answers: Sequence[Reply]) -> None:
    """Every answer that a caller got whole has its one trace, soon."""
    wanted = {answer.request_id for answer in answers}
    assert len(wanted) == len(answers), "two answers under one request id"

    def missing() -> set[str]:
        found = [record["id"] for record in gateway.traces()]
        assert len(found) == len(set(found)), "a trace is there twice"
        return wanted - set(found)

    with suppress(TimeoutError):
        until(lambda: not missing(), what="all traces")
    assert missing() == set()


def expect_served(answers: Sequence[Reply]) -> None:
    assert {answer.status for answer in answers} == {200}


def test_a_second_serve_on_the_same_data_is_refused_by_name(start: Start) -> None:
    with start() as gateway:
        second = gateway.run("serve")
        assert second.returncode == 1
        assert f"(process {gateway.child.process.pid})" in second.stderr
        assert call(gateway.port, chat_body(MODEL)).status == 200


def test_a_killed_worker_takes_only_its_own_requests_with_it(start: Start) -> None:
    with start() as gateway:
        with traffic(gateway) as flowing:
            flowing.more(100)
            for _ in range(2):
                pids = worker_pids(gateway)
                os.kill(pids[0], signal.SIGKILL)
                until(partial(has_successor, gateway, 0, pids[0]), what="a successor")
                flowing.more(100)
                assert worker_pids(gateway)[1] == pids[1]
        assert len(flowing.failures) <= 2 * CALLERS_COUNT, flowing.failures
        expect_served(flowing.answers)
        expect_traced_once(gateway, flowing.answers)


def test_a_killed_trace_writer_loses_and_doubles_nothing(start: Start) -> None:
    with start() as gateway:
        with traffic(gateway) as flowing:
            for _ in range(3):
                flowing.more(100)
                pid = pid_of(gateway, "modelux.writer.process")
                os.kill(pid, signal.SIGKILL)
                until(partial(is_gone, pid), what="its end")
        assert flowing.failures == []
        expect_served(flowing.answers)
        expect_traced_once(gateway, flowing.answers)


def test_a_killed_control_plane_is_noticed_by_no_caller(start: Start) -> None:
    with start() as gateway:
        with traffic(gateway) as flowing:
            flowing.more(20)
            os.kill(pid_of(gateway, "modelux.control.process"), signal.SIGKILL)
            flowing.more(50)
            until(lambda: "modelux_mode 1" in metrics(gateway), what="metrics")
        assert flowing.failures == []
        expect_served(flowing.answers)


def metrics(gateway: Gateway) -> str:
    """Return the text of `/metrics`, empty while nobody answers."""
    connection = http.client.HTTPConnection(HOST, gateway.control_port, timeout=WAIT_S)
    with closing(connection), suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    return ""


def test_after_a_kill_of_the_whole_tree_the_next_start_has_every_trace(start: Start) -> None:
    with start(expect=None) as gateway, traffic(gateway) as flowing:
        flowing.more(200)
        # The supervisor first: nobody starts again what dies after it.
        for pid in gateway.pids():
            os.kill(pid, signal.SIGKILL)
        gateway.child.process.wait(WAIT_S)
        flowing.stop()
    with start() as gateway:
        assert call(gateway.port, chat_body(MODEL)).status == 200
        expect_served(flowing.answers)
        expect_traced_once(gateway, flowing.answers)


def test_when_only_the_supervisor_is_killed_the_others_finish_and_leave(start: Start) -> None:
    with start(expect=None) as gateway:
        until(lambda: len(gateway.pids()) == 5, what="workers, writer and control plane")
        pids = gateway.pids()[1:]
        with RawClient(gateway.port) as client:
            client.send(post(chat_body("sim/gpt-4o-mini?tokens=20;token_ms=50", stream=True)))
            client.read_until(b"data: ")
            gateway.child.signal(signal.SIGKILL)
            rest, ending = client.read_end()
            assert rest.endswith(b"0\r\n\r\n")
            assert ending is Ending.FIN
        until(lambda: all(map(is_gone, pids)), what="the end of the others")
    with start() as gateway:
        assert call(gateway.port, chat_body(MODEL)).status == 200


def test_terminate_lets_a_stream_finish_and_answers_not_ready_meanwhile(start: Start) -> None:
    with start(drain_delay_s=1) as gateway, RawClient(gateway.port) as client:
        client.send(post(chat_body("sim/gpt-4o-mini?tokens=40;token_ms=50", stream=True)))
        client.read_until(b"data: ")
        gateway.child.signal(signal.SIGTERM)
        until(lambda: readiness(gateway.port) == 503, what="readyz 503")
        # Still served: whoever balances the load may not have heard of it yet.
        assert call(gateway.port, chat_body(MODEL)).status == 200
        rest, ending = client.read_end()
        assert b"data: [DONE]" in rest
        assert rest.endswith(b"0\r\n\r\n")
        assert ending is Ending.FIN
        assert gateway.child.process.wait(WAIT_S) == 0
        with pytest.raises(ConnectionRefusedError):
            call(gateway.port, chat_body(MODEL))


def readiness(port: int) -> int:
    with RawClient(port) as client:
        client.send(f"GET /readyz HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        return client.read_reply(method="GET").status


@pytest.mark.parametrize(
    "signals", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT,)], ids=["twice", "interrupt"]
)
def test_the_end_at_once_cuts_streams_visibly_and_leaves_no_process(
    start: Start,
    signals: Sequence[signal.Signals],
) -> None:
    with start() as gateway:
        pids = gateway.pids()
        answered = call(gateway.port, chat_body(MODEL))
        with RawClient(gateway.port) as client:
            client.send(post(chat_body("sim/gpt-4o-mini?tokens=400;token_ms=50", stream=True)))
            client.read_until(b"data: ")
            for number in signals:
                gateway.child.signal(number)
                pause_s(0.2)
            rest, ending = client.read_end()
        assert b"[DONE]" not in rest
        assert not rest.endswith(b"0\r\n\r\n")
        assert ending in {Ending.FIN, Ending.RESET}
        assert gateway.child.process.wait(WAIT_S) == 0
        assert all(map(is_gone, pids))
    with start() as gateway:
        expect_traced_once(gateway, [answered])


def reload_result(gateway: Gateway) -> Json:
    found: Json = json.loads((gateway.config.parent / "data" / "reload.json").read_text())
    return found


def reload(gateway: Gateway) -> Json:
    """Send SIGHUP and return what came of it."""
    before = reload_result(gateway)["seq"]
    gateway.child.signal(signal.SIGHUP)
    until(lambda: reload_result(gateway)["seq"] > before, what="the answer to a reload")
    return reload_result(gateway)


def test_reloads_valid_and_invalid_fail_no_request_of_a_thousand(start: Start) -> None:
    with start() as gateway:
        text = gateway.config.read_text()
        with traffic(gateway) as flowing:
            for turn in range(5):
                flowing.more(100)
                tokens = f"tokens={turn + 4}"
                gateway.config.write_text(text.replace("tokens=3", tokens))
                assert reload(gateway)["ok"] is True
                flowing.more(100)
                gateway.config.write_text(text + BROKEN)
                refused = reload(gateway)
                assert refused["ok"] is False
                assert any("modle" in fault for fault in refused["faults"])
                assert any(str(gateway.config) in fault for fault in refused["faults"])
        assert len(flowing.answers) >= 1000
        assert flowing.failures == []
        expect_served(flowing.answers)
        # What the invalid files said has changed nothing: version 6 is the last valid one, and
        # each worker takes it up at its next look.
        shown = partial(call, gateway.port, chat_body("@production"))
        last = "@production (v6)"
        until(lambda: shown().header("x-modelux-config") == last, what="the last valid version")
        assert [event["fault"] for event in events(gateway, "reload_refused")]


def test_a_stopped_worker_is_killed_after_the_timeout_and_its_callers_are_served(
    start: Start,
) -> None:
    with start("heartbeat_timeout_s = 1") as gateway, traffic(gateway) as flowing:
        flowing.more(20)
        pids = worker_pids(gateway)
        os.kill(pids[1], signal.SIGSTOP)
        until(partial(has_successor, gateway, 1, pids[1]), what="a successor")
        assert worker_pids(gateway)[0] == pids[0]
        flowing.more(50)
        flowing.stop()
        expect_served(flowing.answers)
        assert len(flowing.failures) <= CALLERS_COUNT, flowing.failures
        assert 'modelux_worker_restarts_total{reason="stalled"} 1' in metrics(gateway)


def test_five_deaths_within_a_minute_refuse_with_crash_loop_and_not_ready(start: Start) -> None:
    with start() as gateway:
        for deaths in range(1, 6):
            pid = worker_pids(gateway)[0]
            os.kill(pid, signal.SIGKILL)
            until(partial(has_died, gateway, deaths), what="its death")
            if deaths < 5:
                until(partial(has_successor, gateway, 0, pid), what="a successor")
        until(lambda: events(gateway, "crash_loop"), what="the crash loop")
        for _ in range(4):
            reply = call(gateway.port, chat_body(MODEL))
            assert reply.status == 503
            assert reply.error()["code"] == "crash_loop"
            assert int(reply.header("retry-after") or 0) >= 1
        assert readiness(gateway.port) == 503


def test_a_new_snapshot_is_in_every_worker_soon(start: Start) -> None:
    with start() as gateway:
        text = gateway.config.read_text()
        seen = cells(gateway)
        before = seen.get("snapshot_generation")
        gateway.config.write_text(text.replace("tokens=3", "tokens=9"))
        assert reload(gateway)["ok"] is True
        published_us = mono_us()
        assert seen.get("snapshot_generation") > before
        until(
            lambda: all(
                seen.get("worker_snapshot", slot) == seen.get("snapshot_generation")
                for slot in range(2)
            ),
            what="the snapshot in both workers",
        )
        assert mono_us() - published_us < US_PER_S


def test_a_revoked_key_stops_working_in_every_worker_within_a_second(start: Start) -> None:
    with start() as gateway:
        made = gateway.run("keys", "create", "--name", "short-lived")
        assert made.returncode == 0, made.stderr
        found = re.search(r"mlx_sk_[A-Za-z0-9_-]+", made.stdout)
        assert found, made.stdout
        identity = re.search(r"key_[0-9a-f]+", made.stderr)
        assert identity, made.stderr
        key = found[0]
        body = chat_body(MODEL)
        until(
            lambda: all(call(gateway.port, body, key=key).status == 200 for _ in range(8)),
            what="the key in every worker",
        )
        assert gateway.run("keys", "revoke", identity[0]).returncode == 0
        revoked_us = mono_us()
        pause_until(revoked_us + US_PER_S)
        statuses = {call(gateway.port, body, key=key).status for _ in range(100)}
        assert statuses == {401}


def pause_until(at_us: int) -> None:
    pause_s(max(0.0, (at_us - mono_us()) / US_PER_S))


def test_no_secret_stands_in_any_log(start: Start) -> None:
    with start("log_level = 'debug'") as gateway:
        call(gateway.port, chat_body(MODEL))
        call(gateway.port, chat_body(MODEL), key="mlx_sk_wrong_key_of_somebody_else")
        said = gateway.child.said()
        assert KEY not in said
        assert "mlx_sk_wrong" not in said
        assert "sk-simulated" not in said


def test_without_any_provider_the_start_says_what_it_looked_for(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")}
    environment.pop("MODELUX_CONFIG", None)
    done = subprocess.run(
        command("serve"),
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_S,
    )
    assert done.returncode == 78
    assert "OPENAI_API_KEY" in done.stderr


def test_a_new_start_runs_beside_workers_that_a_killed_supervisor_left_draining(
    start: Start,
) -> None:
    with start(expect=None) as old, RawClient(old.port) as client:
        slow = "sim/gpt-4o-mini?tokens=60;token_ms=50"
        client.send(post(chat_body(slow, stream=True)))
        head = client.read_until(b"\r\n\r\n")
        old.child.signal(signal.SIGKILL)
        old.child.process.wait(WAIT_S)
        with start() as gateway:
            answered = call(gateway.port, chat_body(MODEL))
            rest, ending = client.read_end()
            assert rest.endswith(b"0\r\n\r\n")
            assert ending is Ending.FIN
            found = re.search(rb"(?i)x-modelux-request-id: (\S+)", head)
            assert found
            streamed = Reply(
                200, [("x-modelux-request-id", found[1].decode())], rest, Ending.WHOLE
            )
            expect_traced_once(gateway, [answered, streamed])
