"""One supervisor over stand-in children, as tests start, ask, kill and end it."""

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

ROOT: Final = Path(__file__).resolve().parents[3]
WAIT_S: Final = 30.0
Found = TypeVar("Found")


def wait_until(what: Callable[[], Found]) -> Found:
    """Return the first true value; half a minute is for a machine that does much else."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.01)
    raise AssertionError("did not happen in time")


class Deployment:
    """One supervisor with its children, in a data directory of its own."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.log = data_dir / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        data_dir.mkdir()
        self.publish("one")

    def start(self, **options: float | str) -> None:
        """Start and wait until it is ready."""
        self.launch(**options)
        self.port = int(self.wait_for("ready")["address"].rpartition(":")[2])

    def launch(self, **options: float | str) -> None:
        """Start without waiting."""
        words = json.dumps({"data_dir": str(self.data_dir)} | options)
        self.log.unlink(missing_ok=True)
        with self.log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.e2e.stand_ins.serve", words],
                stderr=stderr,
                cwd=ROOT,
            )

    def publish(self, text: str) -> None:
        """Change what the snapshot is made of."""
        (self.data_dir / "blob").write_text(text)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return what was logged under one name."""
        lines = self.log.read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["event"] == name]

    def wait_for(self, name: str, count: int = 1) -> dict[str, Any]:
        """Return the event when it has been logged so often."""
        return wait_until(lambda: self.events(name)[count - 1 :])[-1]

    def get(self, path: str, timeout: float = WAIT_S) -> tuple[int, bytes]:
        """Ask one worker, whichever the kernel picks."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def who(self) -> dict[str, int]:
        """Return slot, generation and process id of one worker."""
        found: dict[str, int] = json.loads(self.get("/who")[1])
        return found

    def workers(self, count: int = 2) -> dict[int, dict[str, int]]:
        """Return every worker by its slot."""
        found: dict[int, dict[str, int]] = {}

        def ask() -> bool:
            worker = self.who()
            found[worker["slot"]] = worker
            return len(found) == count

        wait_until(ask)
        return found

    def idle(self, name: str) -> int:
        """Return the process id of the newest writer or control plane."""
        notes = self.data_dir / "idle.log"
        begin = f"{name} start "

        def newest() -> int:
            lines = notes.read_text().splitlines() if notes.exists() else []
            started = [line for line in lines if line.startswith(begin)]
            return int(started[-1].removeprefix(begin)) if started else 0

        return wait_until(newest)

    def has_other(self, name: str, pid: int) -> bool:
        """Return whether the newest writer or control plane is not `pid`."""
        return self.idle(name) != pid

    def signal(self, number: signal.Signals) -> None:
        """Tell the supervisor."""
        assert self.process is not None
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for its end and return its exit code."""
        assert self.process is not None
        return self.process.wait(WAIT_S)

    def reload_result(self) -> dict[str, Any]:
        """Return how the last load went."""
        found: dict[str, Any] = json.loads((self.data_dir / "reload.json").read_text())
        return found

    def stop(self) -> None:
        """End it at once, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(WAIT_S)
            finally:
                self.process.kill()
                self.process.wait()


def is_running(pid: int) -> bool:
    """Return whether a process is there and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
