"""A child that only waits: for SIGTERM, or for the end of its parent. Writer and control plane.

It notes its start and its orderly end in `data_dir/idle.log`.
"""

import os
import select
import signal
import sys
from pathlib import Path


def main() -> int:
    """Wait for the end."""
    words = sys.argv[1:]
    pairs = dict(zip(words[::2], words[1::2], strict=True))
    parent_fd = int(pairs.get("--parent-fd") or pairs["--parent-pipe"])
    name = "control" if "--listen-fd" in pairs else "writer"
    read_fd, write_fd = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(write_fd)
    signal.signal(signal.SIGTERM, lambda *_: None)
    note(pairs["--data-dir"], f"{name} start {os.getpid()}")
    select.select([read_fd, parent_fd], [], [])
    note(pairs["--data-dir"], f"{name} end {os.getpid()}")
    return 0


def note(data_dir: str, line: str) -> None:
    """Append one line to the notes."""
    with (Path(data_dir) / "idle.log").open("a") as file:
        file.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
