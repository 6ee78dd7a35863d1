"""`modelux serve`: from a configuration, or none at all, to a running deployment."""

import argparse
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from modelux.config.model import Address, Server
from modelux.log import open_log
from modelux.supervisor.configuration import Configuration
from modelux.supervisor.cpus import default_workers_count
from modelux.supervisor.options import ServeOptions
from modelux.supervisor.process import Supervisor
from modelux.supervisor.sockets import Address as Place
from modelux.supervisor.sockets import parse_address

WORKERS_COUNT_MAX: Final = 64


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the flags; each wins over the file."""
    parser.add_argument(
        "--listen", type=_address, metavar="HOST:PORT", help="where the proxy listens"
    )
    parser.add_argument(
        "--workers", type=_workers, metavar="N", help="proxy processes; 0: as the CPUs allow"
    )
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="what must survive power loss"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it.

    Raises:
        ConfigError: The configuration cannot be used.
        StoreError: A place or a port cannot be used, or another one serves there.
    """
    if sys.flags.optimize:
        # Money and state are guarded by asserts; without them a bug would go on quietly.
        sys.stderr.write("modelux serve: refuses to run under `python -O`: asserts must stay\n")
        return 1
    os.umask(0o077)
    set_limits()
    configuration = Configuration(args.config, args.environ, flags_of(args))
    server = configuration.server
    log = open_log("supervisor", format_name=server.log_format, level_name=server.log_level)
    return Supervisor(serve_options(server, args.environ), configuration, log).run()


def flags_of(args: argparse.Namespace) -> dict[str, object]:
    """Return what the flags say over the file, by the names of the options."""
    data_dir = None if args.data_dir is None else args.data_dir.resolve()
    found = {"listen": args.listen, "workers": args.workers, "data_dir": data_dir}
    return {name: value for name, value in found.items() if value is not None}


def serve_options(server: Server, environ: Mapping[str, str]) -> ServeOptions:
    """Return what the supervisor and its children go by for as long as they run."""
    common = {"log_level": server.log_level, "log_format": server.log_format}
    workers = server.workers or default_workers_count()
    return ServeOptions(
        listen=Place(server.listen.host, server.listen.port),
        control_listen=Place(server.control_listen.host, server.control_listen.port),
        workers=workers,
        data_dir=server.data_dir,
        state_dir=server.state_dir,
        state_map_bytes=server.state_map_bytes,
        ring_bytes=server.ring_bytes,
        drain_delay_s=server.drain_delay_s,
        drain_s=server.drain_s,
        heartbeat_timeout_s=server.heartbeat_timeout_s,
        worker_options={
            **common,
            "ring_bytes": server.ring_bytes,
            # The option bounds the disk of all workers together.
            "spill_max_bytes": server.spill_max_bytes // workers,
            "drain_s": server.drain_s,
        },
        writer_options={
            **common,
            "trace_max_bytes": server.trace_max_bytes,
            "body_retention_h": server.body_retention_h,
            "record_retention_days": server.record_retention_days,
            "rollup_retention_days": server.rollup_retention_days,
            "ledger_retention_days": server.ledger_retention_days,
            "redact": list(server.redact),
            "drain_s": server.drain_s,
        },
        control_options=common,
        environ=environ,
    )


def set_limits() -> None:
    """Leave no core dump, which would hold secrets, and allow as many connections as we may."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _address(text: str) -> Address:
    try:
        place = parse_address(text)
    except ValueError as failure:
        raise argparse.ArgumentTypeError(str(failure)) from failure
    return Address(host=place.host, port=place.port)


def _workers(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) > WORKERS_COUNT_MAX:
        raise argparse.ArgumentTypeError(f"`{text}` is not 0 to {WORKERS_COUNT_MAX}")
    return int(text)
