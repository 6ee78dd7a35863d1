"""`modelux logs`: traces of requests, from the store, while `serve` runs or not."""

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Final

from modelux.clock import pause_s, unix_us
from modelux.config.file import data_dir_of, find_config
from modelux.log import printable
from modelux.trace.files import trace_files
from modelux.trace.query import Cursor, FilterError, LogFilter, StoredTrace, TraceQuery
from modelux.trace.record import RecordError
from modelux.trace.text import explanation, list_line
from modelux.units import US_PER_S, NanoUsd, nusd_from_usd

EXIT_DONE: Final = 0
EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2

LIMIT: Final = 50
FOLLOW_PAUSE_S: Final = 0.2
TRACE_RECORDS_MAX: Final = 1_000
"""Calls shown of one run of an agent."""

_SPAN: Final = re.compile(r"(\d{1,6})([smhdw])", re.ASCII)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("--trace", metavar="ID", help="a request id (with or without req_), or a trace id")
    add("--follow", "-f", action="store_true", help="go on with what comes in")
    add("--json", action="store_true", help="one record a line; one object with --trace")
    add("--limit", type=_limit, default=LIMIT, help="how many; 0: all (default %(default)s)")
    add("--since", type=_instant, metavar="1h", help="a time span back, or an ISO 8601 time")
    add("--until", type=_instant, metavar="TIME", help="likewise, where to end")
    add(
        "--tag",
        action="append",
        type=_tag,
        default=[],
        metavar="K=V",
        help="only with this tag; several: with all of them",
    )
    for name, metavar, text in (
        ("project", "NAME", "of this project"),
        ("status", "4xx", "with this status, or of this class"),
        ("model", "NAME", "that this model served, or that asked for it"),
        ("provider", "NAME", "that this provider served"),
        ("route", "SLUG", "through this routing config"),
        ("end-user", "ID", "of this end user"),
        ("trace-id", "ID", "with this trace id of the caller's"),
        ("conversation-id", "ID", "with this conversation id"),
    ):
        add(f"--{name}", default="", metavar=metavar, help=text)
    add("--min-latency-ms", type=_count, metavar="N", help="that took at least so long")
    add("--min-cost-usd", type=_usd, metavar="USD", help="that cost at least so much")
    add("-q", "--q", default="", metavar="TEXT", help="with this text in record or bodies")
    add("--data-dir", type=Path, help="where the traces are (default: as the file says)")


def run(args: argparse.Namespace) -> int:
    """Print what is asked for; exit 1 where `--trace` names nothing."""
    data_dir = args.data_dir or data_dir_of(find_config(args.config, args.environ))
    query = TraceQuery(trace_files(data_dir))
    wanted = LogFilter(
        project=args.project,
        status=args.status,
        model=args.model,
        provider=args.provider,
        route=args.route,
        end_user=args.end_user,
        tags=dict(args.tag),
        trace_id=args.trace_id,
        conversation_id=args.conversation_id,
        min_latency_ms=args.min_latency_ms,
        min_cost_nusd=args.min_cost_usd,
        q=args.q,
    )
    if args.since is not None:
        wanted = replace(wanted, start_us=args.since)
    if args.until is not None:
        wanted = replace(wanted, end_us=args.until)
    try:
        if args.trace is not None:
            return _run_trace(query, args.trace, as_json=args.json)
        return _run_list(query, wanted, args)
    except FilterError as failure:
        sys.stderr.write(f"modelux logs: {printable(str(failure))}\n")
        return EXIT_USAGE


def _run_trace(query: TraceQuery, wanted_id: str, *, as_json: bool) -> int:
    found = query.by_id(wanted_id.removeprefix("req_"))
    if found is not None:
        _write(query.json_of(found) if as_json else "\n".join(_explained([found])))
        return EXIT_DONE
    page = query.find(LogFilter(trace_id=wanted_id), TRACE_RECORDS_MAX)
    if not page.traces:
        sys.stderr.write(
            f"modelux logs: nothing is known of `{printable(wanted_id)}`: give a request id "
            "(`X-Modelux-Request-Id` of an answer) or a trace id of yours; records are kept "
            "for `record_retention_days`, and new ones appear within a second\n"
        )
        return EXIT_FAILURE
    traces = page.traces[::-1]
    if as_json:
        _write(b"[" + b",\n".join(map(query.json_of, traces)) + b"]")
    else:
        _write("\n".join(_explained(traces)))
    return EXIT_DONE


def _run_list(query: TraceQuery, wanted: LogFilter, args: argparse.Namespace) -> int:
    # Taken first: what comes in while the list is printed is followed, not lost.
    follower = query.follower() if args.follow else None
    if args.limit == 0:
        shown: Iterable[StoredTrace] = query.oldest_first(wanted)
    else:
        shown = query.find(wanted, args.limit).traces[::-1]
    printed: set[Cursor] = set()
    for trace in shown:
        if follower is not None:
            printed.add(trace.cursor)
        _write_one(query, trace, as_json=args.json)
    sys.stdout.flush()
    while follower is not None:
        for trace in follower.poll(wanted):
            if trace.cursor not in printed:
                _write_one(query, trace, as_json=args.json)
        # What the list showed and the follower found too came in between the two.
        printed.clear()
        sys.stdout.flush()
        pause_s(FOLLOW_PAUSE_S)
    return EXIT_DONE


def _write_one(query: TraceQuery, trace: StoredTrace, *, as_json: bool) -> None:
    if as_json:
        _write(query.json_of(trace))
        return
    try:
        _write(list_line(trace.record()))
    except RecordError as failure:
        _write(f"a record of another build: {failure}; `--json` shows it")


def _explained(traces: Iterable[StoredTrace]) -> Iterator[str]:
    for index, trace in enumerate(traces):
        if index:
            yield ""
        yield from explanation(trace.record())


def _write(line: str | bytes) -> None:
    text = line if isinstance(line, str) else line.decode("utf-8", "replace")
    sys.stdout.write(f"{text}\n")


def _limit(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"`{text}`: give a number, 0 for all")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 12:
        raise argparse.ArgumentTypeError(f"`{text}`: give a number of milliseconds")
    return int(text)


def _usd(text: str) -> NanoUsd:
    try:
        return nusd_from_usd(Decimal(text))
    except (InvalidOperation, ValueError):
        raise argparse.ArgumentTypeError(f"`{text}`: give an amount such as `0.01`") from None


def _tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"`{text}`: give KEY=VALUE")
    return key, value


def _instant(text: str) -> int:
    """Return µs since 1970: a span counts back from now, a time without a zone is UTC."""
    span = _SPAN.fullmatch(text)
    if span:
        return max(0, unix_us() - int(span[1]) * _SECONDS[span[2]] * US_PER_S)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"`{text}`: give a span such as `90s`, `15m`, `1h`, `7d`, or a time such as "
            "`2026-01-31T12:00`"
        ) from None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return max(0, round(at.timestamp() * US_PER_S))
