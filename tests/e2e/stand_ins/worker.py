"""A worker that serves a few paths about itself: what the supervisor needs of one, no more.

`/who` says slot, generation and process id; `/snapshot` what is published; `/slow` answers
after a second, `/linger` when there is a file `let go` in `data_dir`; `/die` does not answer. A
file `die` in `data_dir` lets it die at its start.

It has one row in the ledger: `/spend/N` holds and settles, `/hold/N` holds, `/send/N` holds and
sends, each N nano-USD; `/many/N` holds one nano-USD N times and sends every other one; `/row`
tells spent and held; `/stop` holds in a transaction in which it stops, as a debugger would.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

from modelux._native import Cells, Ledger, Slots, row_key
from modelux.clock import mono_us
from modelux.store.snapshot import SnapshotReader

KEY: Final = row_key(b"stand-in budget!", None, 0)
SLOTS_COUNT: Final = 4_096


class Money:
    """One worker's part in the ledger."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.ledger = Ledger.open(args.state_dir, args.generation)
        self.ledger.watch(args.state_dir / "cells", args.slot)
        self.slots = Slots(args.state_dir, args.generation, SLOTS_COUNT)
        self.seq = 0

    def hold(self, amount: int, *, stops: bool = False) -> tuple[int, int]:
        """Hold an amount; return its number and slot."""
        slot = self.slots.take()
        assert slot is not None
        self.seq += 1

        def steps() -> Generator[Any, object, None]:
            yield ("hold", self.seq, slot, amount, [(KEY, "", None)])
            if stops:
                os.kill(os.getpid(), signal.SIGSTOP)

        self.ledger.turn(steps())
        self.slots.held(slot, self.seq)
        return self.seq, slot

    def send(self, amount: int) -> tuple[int, int]:
        """Hold an amount that is charged if we die."""
        held = self.hold(amount)
        self.slots.sent(held[1], amount)
        return held

    def spend(self, amount: int) -> None:
        """Hold and settle an amount."""
        seq, slot = self.send(amount)

        def steps() -> Generator[Any, object, None]:
            yield ("settle", seq, amount)

        self.ledger.turn(steps())
        self.slots.free(slot)

    def do(self, verb: str, amount: int) -> None:
        """Do what a path asks for."""
        match verb:
            case "spend":
                self.spend(amount)
            case "hold":
                self.hold(amount)
            case "send":
                self.send(amount)
            case "many":
                for number in range(amount):
                    (self.send if number % 2 else self.hold)(1)
            case "stop":
                self.hold(1, stops=True)
            case _:
                raise LookupError(verb)

    def row(self) -> dict[str, int]:
        """Return what the row has."""
        found = self.ledger.row(KEY)
        spent, held = (0, 0) if found is None else (found[4], found[5])
        return {"spent": spent, "held": held}


class Worker:
    """Everything one stand-in knows."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.cells = Cells.open(args.state_dir / "cells")
        self.reader = SnapshotReader(args.state_dir)
        self.money = Money(args)
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
            case "/linger":
                while not (self.args.data_dir / "let go").exists():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                return b"let go"
            case "/snapshot":
                return self.reader.load()[1]
            case "/row":
                return json.dumps(self.money.row()).encode()
            case _ if path.count("/") == 2:
                _, verb, amount = path.split("/")
                self.money.do(verb, int(amount))
                return b"done"
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
