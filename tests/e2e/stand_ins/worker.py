"""A worker that serves a few paths about itself: what the supervisor needs of one, no more.

`/who` says slot, generation and process id; `/snapshot` what is published; `/slow` answers
after a second; `/die` does not answer. A file `die` in `data_dir` lets it die at its start.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path

from modelux._native import Cells
from modelux.clock import mono_us
from modelux.store.snapshot import SnapshotReader


class Worker:
    """Everything one stand-in knows."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.cells = Cells.open(args.state_dir / "cells")
        self.reader = SnapshotReader(args.state_dir)
        self.open_count = 0
        self.ending = asyncio.Event()

    async def serve(self, read: asyncio.StreamReader, write: asyncio.StreamWriter) -> None:
        """Answer one request and close."""
        self.open_count += 1
        try:
            head = await read.readuntil(b"\r\n\r\n")
            body = await self.answer(head.split()[1].decode())
            status = b"503 Crash Loop" if self.cells.get("mode") == 3 else b"200 OK"
            length = f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            write.write(b"HTTP/1.1 " + status + b"\r\n" + length.encode() + body)
            await write.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            write.close()
            self.open_count -= 1

    async def answer(self, path: str) -> bytes:
        """Return the body for a path."""
        match path:
            case "/die":
                os._exit(7)
            case "/slow":
                await asyncio.sleep(1)
                return b"slow"
            case "/snapshot":
                return self.reader.load()[1]
            case "/mode":
                return str(self.cells.get("mode")).encode()
            case _:
                who = {"slot": self.args.slot, "generation": self.args.generation}
                return json.dumps(who | {"pid": os.getpid()}).encode()

    async def run(self) -> None:
        """Serve until told to end, then until nobody is served."""
        loop = asyncio.get_running_loop()
        listener = socket.socket(fileno=self.args.listen_fd)
        server = await asyncio.start_server(self.serve, sock=listener)
        loop.add_signal_handler(signal.SIGTERM, self.ending.set)
        loop.add_reader(self.args.parent_fd, self.ending.set)
        beat = asyncio.create_task(self.beat())
        await self.ending.wait()
        server.close()
        while self.open_count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        beat.cancel()

    async def beat(self) -> None:
        """Vouch for this event loop."""
        while True:
            self.cells.set("heartbeat_us", mono_us(), self.args.slot)
            await asyncio.sleep(0.1)


def main() -> int:
    """Read the arguments of a worker and be one."""
    parser = argparse.ArgumentParser()
    for name in ("--slot", "--generation", "--listen-fd", "--parent-fd"):
        parser.add_argument(name, type=int, required=True)
    for name in ("--state-dir", "--data-dir"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--options", type=json.loads, required=True)
    args = parser.parse_args()
    if (args.data_dir / "die").exists():
        return 9
    asyncio.run(Worker(args).run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
