"""Mixed traffic on many connections while workers die and the configuration is loaded anew."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from modelux._native import Cells
from modelux.clock import mono_us, pause_s
from modelux.store.layout import CELLS_FILE
from modelux.units import US_PER_S
from tests.e2e.harness import (
    PROJECT,
    Ending,
    Gateway,
    RawClient,
    Reply,
    Simulator,
    chat_body,
    post,
    provider_table,
    serve,
    until,
)

pytestmark = pytest.mark.slow

SOAK_S: Final = float(os.environ.get("MODELUX_SOAK_S", "6"))
"""`make soak` lets it run for longer."""

CALLERS_COUNT: Final = 64
WORKERS_COUNT: Final = 2
KILLS_COUNT: Final = 2
HANG_S: Final = 20
GROWTH_BYTES_MAX: Final = 48 << 20
"""Of the largest process between the middle and the end: buffers and caches may fill."""

RINGS: Final = "ring_bytes = 1048576\n"
"""Small, so that what the writer does not fetch in time goes through the spill, too."""

ROUTES: Final = """
[routes.failover]
strategy = "fallback"
attempts = ["sim/first?status=503", "sim/second?tokens=7"]

[routes.slow]
strategy = "fallback"
attempts = [{ model = "sim/first?hang=head", timeout_ms = 60 }, "sim/second?tokens=7"]
"""


@dataclass(slots=True)
class Tally:
    """What all callers got."""

    ids: list[str] = field(default_factory=list)
    """Of requests whose answer came whole."""
    cut: int = 0
    """Requests that ended with their connection although nobody asked for it."""
    wrong: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    over: threading.Event = field(default_factory=threading.Event)

    def note(self, kind: str, reply: Reply, right: bool) -> None:  # noqa: FBT001
        """Take in one answer."""
        with self._lock:
            self.kinds[kind] += 1
            if not right:
                shown = f"{kind}: {reply.status} {reply.ending} {reply.body[:300]!r}"
                self.wrong.append(shown)
            elif reply.status:
                self.ids.append(reply.request_id)

    def note_cut(self) -> None:
        """Take note of a connection that a dying worker took with it."""
        with self._lock:
            self.cut += 1


def _words(count: int) -> Callable[[Reply], bool]:
    def right(reply: Reply) -> bool:
        return reply.status == 200 and len(reply.text().split(" ")) == count + 1

    return right


def _refused(status: int, code: str) -> Callable[[Reply], bool]:
    return lambda reply: (reply.status, reply.error()["code"]) == (status, code)


def _question(number: int) -> tuple[str, bytes, Callable[[Reply], bool]]:
    """Return what to ask as the number-th question, and what is a right answer to it."""
    words = 1 + number % 23
    model = f"sim/m{number}?tokens={words}"
    match number % 8:
        case 0 | 1 | 2:
            return "unary", chat_body(model), _words(words)
        case 3 | 4:
            slow = f"{model};token_ms=1"
            return "stream", chat_body(slow, stream=True), _words(words)
        case 5:
            return "failover", chat_body("@failover", stream=number % 16 == 5), _words(7)
        case 6:
            return "slow", chat_body("@slow"), _words(7)
        case _:
            pass
    match number // 8 % 3:
        case 0:
            body = chat_body("sim/m?fault=fin_mid_body")
            return "cut", body, _refused(502, "all_attempts_failed")
        case 1:
            body = chat_body("sim/m?fault=garbage")
            return "garbage", body, _refused(502, "upstream_malformed")
        case _:
            return "unknown", chat_body("@nowhere"), _refused(404, "routing_config_not_found")


def _call_on(port: int, tally: Tally, first: int) -> None:
    """Ask one question after another, on one connection for as long as it lives."""
    number = first
    while not tally.over.is_set():
        with suppress(OSError), RawClient(port, timeout_s=HANG_S) as client:
            while not tally.over.is_set():
                number += CALLERS_COUNT
                kind, body, is_right = _question(number)
                client.send(post(body))
                reply = client.read_reply()
                if reply.ending in {Ending.FIN, Ending.RESET}:
                    tally.note_cut()
                    break
                right = reply.ending is Ending.WHOLE and is_right(reply)
                used = reply.header("x-modelux-model-used") or ""
                if kind in {"unary", "stream"}:
                    right = right and used.startswith(f"m{number}?")
                tally.note(kind, reply, right)
                if reply.header("connection") == "close":
                    break


def _kill_a_worker(folder: Path, slot: int) -> None:
    cells = Cells.open(folder / "state" / CELLS_FILE)
    before = cells.get("worker_pid", slot)
    os.kill(before, signal.SIGKILL)
    until(lambda: cells.get("worker_pid", slot) != before, what="the next worker of that slot")


def _pause_until(at_us: int) -> None:
    pause_s(max(0.0, (at_us - mono_us()) / US_PER_S))


def test_mixed_traffic_outlives_kills_and_reloads_with_one_trace_each(
    simulator: Simulator, tmp_path: Path
) -> None:
    config = PROJECT + provider_table("sim", simulator.base_url()) + ROUTES
    with serve(tmp_path, config, server=RINGS, workers=WORKERS_COUNT) as gateway:
        tally = Tally()
        callers = [
            threading.Thread(target=_call_on, args=(gateway.port, tally, n), daemon=True)
            for n in range(CALLERS_COUNT)
        ]
        began_us = mono_us()
        part_us = int(SOAK_S * US_PER_S / 4)
        for caller in callers:
            caller.start()
        _pause_until(began_us + part_us)
        _kill_a_worker(tmp_path, 0)
        gateway.child.signal(signal.SIGHUP)
        _pause_until(began_us + 2 * part_us)
        _kill_a_worker(tmp_path, 1)
        middle_bytes = gateway.resident_bytes_max()
        _pause_until(began_us + 4 * part_us)
        end_bytes = gateway.resident_bytes_max()
        tally.over.set()
        for caller in callers:
            caller.join(2 * HANG_S)
        assert not any(caller.is_alive() for caller in callers)
        _judge(gateway, tally)
        assert end_bytes - middle_bytes < GROWTH_BYTES_MAX


def _judge(gateway: Gateway, tally: Tally) -> None:
    assert tally.wrong[:5] == []
    assert set(tally.kinds) == {
        "unary",
        "stream",
        "failover",
        "slow",
        "cut",
        "garbage",
        "unknown",
    }
    # A connection lost is one of those that a killed worker had.
    assert tally.cut <= KILLS_COUNT * CALLERS_COUNT
    assert len(tally.ids) == len(set(tally.ids))
    stored: Counter[str] = Counter()

    def all_stored() -> bool:
        stored.clear()
        stored.update(record["id"] for record in gateway.traces())
        return set(tally.ids) <= set(stored)

    with suppress(TimeoutError):
        until(all_stored, what="a trace of each answer")
    missing = set(tally.ids) - set(stored)
    assert not missing, (len(stored), sorted(missing)[:5], gateway.child.said()[-4000:])
    assert set(stored.values()) == {1}
    # Beyond them only requests that died with their worker or their caller.
    assert len(stored) <= len(tally.ids) + tally.cut
    said = gateway.child.said()
    assert "Traceback" not in said
    assert '"event":"bug"' not in said.replace(" ", "")
