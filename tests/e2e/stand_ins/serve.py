"""A real supervisor over stand-in children, with a file `blob` for its configuration.

Run with one argument: JSON of what differs from the defaults below.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from modelux.cli.main import EXIT_CONFIG, EXIT_FAILURE
from modelux.errors import ConfigError, StoreError
from modelux.limits import MIB
from modelux.log import Log
from modelux.supervisor.options import ServeOptions
from modelux.supervisor.orders import Orders
from modelux.supervisor.process import Supervisor
from modelux.supervisor.sockets import parse_address


class BlobFile:
    """The content of one file is the snapshot; a change of another one publishes it."""

    def __init__(self, data_dir: Path) -> None:
        self._blob = data_dir / "blob"
        self._changed = data_dir / "changed"
        self._seen = 0

    def load(self) -> bytes:
        """Return the blob; one that begins with `bad` is refused."""
        return self.compile()

    def compile(self) -> bytes:
        """Return the blob as it is; one that begins with `bug` fails as no blob should."""
        blob = self._blob.read_bytes()
        if blob.startswith(b"bug"):
            raise LookupError("nobody expected this")
        if blob.startswith(b"bad"):
            raise ConfigError(["blob:1: first fault", "blob:2: second fault"])
        return blob

    def has_changed(self) -> bool:
        """Return whether the mark was touched."""
        seen = self._changed.stat().st_mtime_ns if self._changed.exists() else 0
        has_changed, self._seen = seen != self._seen, seen
        return has_changed

    def orders(self) -> Orders:
        """Return none."""
        return Orders()

    def greeting(self, base_url: str) -> Sequence[str]:
        """Return one line."""
        return [f"base URL: {base_url}"]

    def notes(self) -> Sequence[str]:
        """Return none."""
        return ()


def main() -> int:
    """Run until told to end."""
    given = json.loads(sys.argv[1])
    data_dir = Path(given["data_dir"])
    options = ServeOptions(
        listen=parse_address(given.get("listen", "127.0.0.1:0")),
        control_listen=parse_address("127.0.0.1:0"),
        workers=given.get("workers", 2),
        data_dir=data_dir,
        state_dir=data_dir / "state",
        state_map_bytes=4 * MIB,
        ring_bytes=MIB,
        drain_delay_s=given.get("drain_delay_s", 0),
        drain_s=given.get("drain_s", 10),
        heartbeat_timeout_s=given.get("heartbeat_timeout_s", 5),
        worker_options={},
        writer_options={},
        control_options={},
        environ=dict(os.environ),
        worker_module="tests.e2e.stand_ins.worker",
        writer_module=given.get("writer_module", "tests.e2e.stand_ins.idle"),
        control_module="tests.e2e.stand_ins.idle",
    )
    log = Log("supervisor", human=False)
    try:
        return Supervisor(options, BlobFile(data_dir), log).run()
    except ConfigError as failure:
        log.warning("config", faults=failure.faults)
        return EXIT_CONFIG
    except StoreError as failure:
        log.warning("store", why=str(failure))
        return EXIT_FAILURE


if __name__ == "__main__":
    sys.exit(main())
