"""The control plane as a process: started by the supervisor, on a socket that it bound.

Ends on SIGTERM, or when the supervisor is gone; there is nothing here that must be finished.
"""

import argparse
import asyncio
import json
import signal
import socket
import sys
from pathlib import Path
from typing import Final

from aiohttp import http_parser, web

from modelux._native import Cells, Live
from modelux.control.app import Context, make_app
from modelux.log import Log, open_log
from modelux.store.layout import CELLS_FILE, LIVE_FILE

SHUTDOWN_S: Final = 1.0


def check_parser() -> None:
    """Refuse to serve with aiohttp's parser in Python: it has had smuggling faults of its own.

    Raises:
        RuntimeError: aiohttp was installed without its C extension.
    """
    if http_parser.HttpRequestParser.__module__ != "aiohttp._http_parser":
        raise RuntimeError(
            "aiohttp runs without its C extension; install its wheel for this platform"
        )


async def serve(listener: socket.socket, parent_fd: int, context: Context) -> None:
    """Serve until told to end."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    loop.add_signal_handler(signal.SIGINT, ended.set)
    loop.add_reader(parent_fd, ended.set)
    runner = web.AppRunner(
        make_app(context), access_log=None, shutdown_timeout=SHUTDOWN_S, handle_signals=False
    )
    await runner.setup()
    await web.SockSite(runner, listener).start()
    context.log.debug("serving")
    await ended.wait()
    loop.remove_reader(parent_fd)
    await runner.cleanup()


def main() -> int:
    """Read the arguments, check what we run on, serve."""
    parser = argparse.ArgumentParser(prog="modelux.control.process")
    parser.add_argument("--listen-fd", type=int, required=True)
    parser.add_argument("--parent-fd", type=int, required=True)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--options", type=json.loads, default={})
    args = parser.parse_args()
    log = _log(args.options)
    try:
        check_parser()
    except RuntimeError as failure:
        log.error("cannot_serve", why=str(failure))  # noqa: TRY400 - not the `logging` module.
        return 1
    listener = socket.socket(fileno=args.listen_fd)
    listener.setblocking(False)  # noqa: FBT003
    cells = Cells.open(args.state_dir / CELLS_FILE)
    live = Live.open(args.state_dir / LIVE_FILE)
    context = Context(state_dir=args.state_dir, cells=cells, live=live, log=log)
    asyncio.run(serve(listener, args.parent_fd, context))
    return 0


def _log(options: dict[str, str]) -> Log:
    format_name = options.get("log_format", "auto")
    return open_log(
        "control", format_name=format_name, level_name=options.get("log_level", "info")
    )


if __name__ == "__main__":
    sys.exit(main())
