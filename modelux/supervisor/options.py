"""What the supervisor is told once, at its start, and the files that tell how reloads went."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from modelux.store.layout import RELOAD_FILE
from modelux.supervisor.orders import Orders
from modelux.supervisor.sockets import Address
from modelux.units import UnixUs

WORKER_MODULE: Final = "modelux.proxy.worker"
WRITER_MODULE: Final = "modelux.writer.process"
CONTROL_MODULE: Final = "modelux.control.process"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Everything that holds for as long as this supervisor runs."""

    listen: Address
    control_listen: Address
    workers: int
    data_dir: Path
    state_dir: Path | None
    """None: chosen by `store/state.py`."""
    state_map_bytes: int
    ring_bytes: int
    drain_delay_s: float
    drain_s: float
    heartbeat_timeout_s: float
    worker_options: Mapping[str, object]
    writer_options: Mapping[str, object]
    control_options: Mapping[str, object]
    environ: Mapping[str, str]
    worker_module: str = WORKER_MODULE
    writer_module: str = WRITER_MODULE
    control_module: str = CONTROL_MODULE


class Source(Protocol):
    """Where the snapshot comes from: the configuration, or a test."""

    def load(self) -> bytes:
        """Read the configuration anew, apply it, and return the compiled snapshot.

        Raises:
            ConfigError: It cannot be used; nothing has been changed.
        """

    def has_changed(self) -> bool:
        """Return whether another process changed what snapshots are made of, since the last."""

    def compile(self) -> bytes:
        """Return the snapshot of what is configured, with what other processes changed."""

    def orders(self) -> Orders:
        """Return what the ledger is to be brought to before the last blob is published."""

    def greeting(self, base_url: str) -> Sequence[str]:
        """Return lines for people that say how to send the first request."""

    def notes(self) -> Sequence[str]:
        """Return what the last load cannot change before the next start."""


def write_reload(data_dir: Path, faults: Sequence[str], at_us: UnixUs) -> int:
    """Tell whoever asked for a reload how it went, and return its number.

    The file holds `{"seq", "ok", "faults", "at_us"}` and is replaced as a whole; `seq` grows by
    one each time, also over restarts, so a reader knows whether it sees the answer to its own
    signal.
    """
    path = data_dir / RELOAD_FILE
    seq = last_reload_seq(data_dir) + 1
    fresh = path.with_suffix(".new")
    record = {"seq": seq, "ok": not faults, "faults": list(faults), "at_us": at_us}
    fresh.write_text(json.dumps(record), encoding="utf-8")
    os.replace(fresh, path)  # noqa: PTH105 - beside `fresh`, the words of what it does.
    return seq


def last_reload_seq(data_dir: Path) -> int:
    """Return the number of the last reload; 0 when there was none."""
    try:
        found = json.loads((data_dir / RELOAD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0
    seq = found.get("seq") if isinstance(found, dict) else None
    return seq if isinstance(seq, int) else 0
