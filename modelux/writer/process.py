"""`python -m modelux.writer.process`: the trace writer as the supervisor starts it.

Ends when it is told to (SIGTERM: the workers are gone, everything that is left is stored
first) or when the supervisor is gone (end of file on the pipe: the workers drain by themselves,
and what they still write is waited for). Killed at any other moment it loses nothing.
"""

import argparse
import os
import select
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final, final

from modelux.clock import mono_us, pause_s, unix_us
from modelux.errors import StoreError
from modelux.log import open_log
from modelux.units import US_PER_S, MonoUs
from modelux.writer.copier import LedgerCopier
from modelux.writer.loop import TraceWriter
from modelux.writer.options import WriterOptions, parse_options

EXIT_DONE: Final = 0
EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2

BUSY_PAUSE_S: Final = 0.01
IDLE_PAUSE_S: Final = 0.04
IDLE_TURNS: Final = 50
"""Turns without a trace before the pause grows."""
NICENESS: Final = 5
"""Where the cores are short, requests come first: a trace may wait, up to a full ring."""

DRAIN_GRACE_US: Final = 2 * US_PER_S
"""After SIGTERM: for a worker that the supervisor ended just before."""
STORE_GRACE_US: Final = 5 * US_PER_S
"""While ending: for a store that takes nothing; the rings keep what is left."""
ORPHAN_GRACE_S: Final = 10
"""Beyond `drain_s`, once the supervisor is gone."""


@dataclass(slots=True)
class _Signals:
    terminated: bool = False

    def on_terminate(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Note that the supervisor asked for the end."""
        self.terminated = True


@final
class _Parent:
    """The supervisor's end of a pipe; waiting for it is also the pause between two turns."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        self.is_gone = False
        self._poll = select.poll()
        if fd is not None:
            self._poll.register(fd, select.POLLIN | select.POLLHUP)

    def wait(self, seconds: float) -> None:
        """Pause, at most so long."""
        if self._fd is None or self.is_gone:
            pause_s(seconds)
        elif self._poll.poll(seconds * 1_000) and not os.read(self._fd, 4_096):
            self.is_gone = True


def main(argv: Sequence[str] | None = None) -> int:
    """Run until told to end; return the exit code."""
    args = _parser().parse_args(argv)
    try:
        options = parse_options(args.options)
        log = open_log("writer", format_name=options.log_format, level_name=options.log_level)
    except ValueError as failure:
        sys.stderr.write(f"modelux writer: {failure}\n")
        return EXIT_USAGE
    signals = _Signals()
    signal.signal(signal.SIGTERM, signals.on_terminate)
    # Ctrl-C reaches the whole group at once; the supervisor says what it means for us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    places = (args.state_dir, args.data_dir)
    copier = LedgerCopier(*places, options.ledger_retention_days, log, unix_us, mono_us)
    try:
        writer = TraceWriter(*places, options, log, unix_us, copier.age_us)
    except (StoreError, OSError, ValueError) as failure:
        log.error("trace_writer_not_started", why=str(failure))  # noqa: TRY400 - our own log.
        return EXIT_FAILURE
    copier.start()
    try:
        code = _run(writer, copier, signals, _Parent(args.parent_pipe), options)
    finally:
        # In this order: the last copy may show events.
        copier.finish()
        writer.close()
    log.info("trace_writer_ended", stored=writer.stored, code=code)
    return code


def _run(
    writer: TraceWriter,
    copier: LedgerCopier,
    signals: _Signals,
    parent: _Parent,
    options: WriterOptions,
) -> int:
    idle_turns = 0
    while not signals.terminated and not parent.is_gone:
        if copier.has_died():  # Its traceback is on stderr; a fresh process copies again.
            return EXIT_FAILURE
        now_us = mono_us()
        try:
            taken = writer.turn(now_us)
            writer.tidy(now_us)
        except StoreError as failure:
            writer.complain(failure, now_us)
            taken = 0
        idle_turns = 0 if taken else idle_turns + 1
        if not writer.is_behind(taken):
            parent.wait(IDLE_PAUSE_S if idle_turns > IDLE_TURNS else BUSY_PAUSE_S)
    return _drain(writer, signals, parent, options)


def _drain(
    writer: TraceWriter, signals: _Signals, parent: _Parent, options: WriterOptions
) -> int:
    """Store what is left; 0 where nothing is, 1 where the store would not take it."""
    if parent.is_gone:
        writer.freeze()
    else:
        writer.discover()
    began_us = mono_us()
    orphan_us = round((options.drain_s + ORPHAN_GRACE_S) * US_PER_S)
    told_us = began_us if signals.terminated else None
    stuck_us: MonoUs | None = None
    while True:
        now_us = mono_us()
        if told_us is None and signals.terminated:
            told_us = now_us
        try:
            # In this order: whoever is gone before the turn writes nothing after it.
            had_owner = writer.has_owner()
            taken = writer.turn(now_us)
            stuck_us = None
        except StoreError as failure:
            writer.complain(failure, now_us)
            stuck_us = now_us if stuck_us is None else stuck_us
            if now_us - stuck_us > STORE_GRACE_US:
                return EXIT_FAILURE
            pause_s(BUSY_PAUSE_S)
            continue
        if taken:
            continue
        since_us, grace_us = (
            (began_us, orphan_us) if told_us is None else (told_us, DRAIN_GRACE_US)
        )
        if not had_owner or now_us - since_us > grace_us:
            return EXIT_DONE
        pause_s(BUSY_PAUSE_S)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="modelux.writer.process", allow_abbrev=False)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--parent-pipe", type=int, default=None)
    parser.add_argument("--options", default="{}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
