"""`modelux stats`: the report over the traces, and how targets fare at this moment."""

import argparse
import json
from pathlib import Path
from typing import Final

from modelux import clock
from modelux.cli.deployment import (
    Deployment,
    add_data_dir,
    open_deployment,
    parse_since,
    remark,
    write,
    write_json,
    write_table,
)
from modelux.cli.live import (
    HEAD,
    NOT_RUNNING,
    UNUSED,
    ago_text,
    latency_text,
    open_live,
    target_lines,
    used,
)
from modelux.errors import RefusedError, StoreError
from modelux.store.budgets import serving_state_dir
from modelux.store.layout import METRICS_FILE
from modelux.trace.files import US_A_DAY, US_AN_HOUR, trace_files
from modelux.trace.report import (
    GROUP_WORDS,
    Granularity,
    Report,
    ReportError,
    ReportQuery,
    error_rate,
    percentile_ms,
    report,
)
from modelux.trace.rollup import Rollup
from modelux.units import US_PER_S, UnixUs, usd_text

SINCE: Final = "24h"
GROUPS_SHOWN_MAX: Final = 30
"""Lines of the table; JSON has them all."""
LAG_METRIC: Final = "modelux_trace_index_lag_seconds"
MINUTES_FOR_US: Final = 3 * US_AN_HOUR
HOURS_FOR_US: Final = 3 * US_A_DAY


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("--json", action="store_true", help="print JSON: sums by bucket and group, and totals")
    add(
        "--group-by",
        metavar="WHAT",
        help=f"{', '.join(GROUP_WORDS)} (default: model; in JSON nothing); end users and tags "
        "are read from the records, which takes longer",
    )
    add(
        "--since",
        default=SINCE,
        metavar="1h",
        help="a time span back, or a date (default %(default)s)",
    )
    add("--until", metavar="TIME", help="likewise, where to end (default: now)")
    add(
        "--granularity",
        choices=[one.value for one in Granularity],
        help="length of the buckets in JSON (default: by the time span)",
    )
    add("--project", default="", metavar="NAME", help="only this project")
    add(
        "--tag",
        action="append",
        default=[],
        metavar="K=V",
        help="only with this tag; several: with all of them",
    )
    add_data_dir(parser)


def run(args: argparse.Namespace) -> int:
    """Print the report; return the exit code.

    Raises:
        RefusedError: An argument means nothing.
        StoreError: The traces or the live state cannot be read.
    """
    query = _query(args)
    with open_deployment(args, is_reading=True) as deployment:
        found = report(trace_files(deployment.data_dir), query)
        if args.json:
            write_json(found.told())
            return 0
        _show_report(found)
        _show_live(deployment)
    return 0


def _query(args: argparse.Namespace) -> ReportQuery:
    now_us = clock.unix_us()
    try:
        start_us = parse_since(args.since, now_us)
        # The minute that runs is shown: a request is to be seen as soon as it is stored.
        end_us = parse_since(args.until, now_us) if args.until else UnixUs(now_us + US_PER_S)
        tags = dict(_tag(text) for text in args.tag)
        return ReportQuery(
            start_us=max(0, start_us),
            end_us=end_us,
            granularity=_granularity(args.granularity, end_us - start_us),
            group_by=("" if args.json else "model") if args.group_by is None else args.group_by,
            project=args.project,
            tags=tags,
        )
    except (ValueError, ReportError) as failure:
        raise RefusedError(str(failure)) from None


def _granularity(text: str | None, span_us: int) -> Granularity:
    if text is not None:
        return Granularity(text)
    if span_us <= MINUTES_FOR_US:
        return Granularity.MINUTE
    return Granularity.HOUR if span_us <= HOURS_FOR_US else Granularity.DAY


def _tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(f'tag "{text}": give KEY=VALUE')
    return key, value


# --- for people ----------------------------------------------------------------------------


def _show_report(found: Report) -> None:
    groups = found.by_group()
    if not groups:
        write("no request in this time span")
        return
    what = found.query.group_by.upper() or "GROUP"
    head = (
        what, "REQUESTS", "ERRORS", "COST", "INPUT", "OUTPUT",
        "TTFT p50", "TOTAL p50", "p95", "p99",
    )  # fmt: skip
    shown = list(groups.items())[:GROUPS_SHOWN_MAX]
    lines = [_line(name or "(none)", rollup) for name, rollup in shown]
    total = found.total()
    if len(groups) > 1:
        lines.append(_line("all", total))
    write_table(head, lines)
    if len(groups) > len(shown):
        remark(f"{len(groups) - len(shown)} more; `modelux stats --json` shows them")
    if total.unpriced:
        remark(f"{total.unpriced} requests have no known price, and count with no cost")


def _line(name: str, rollup: Rollup) -> tuple[str, ...]:
    errors = f"{rollup.errors} ({error_rate(rollup):.1%})" if rollup.errors else "0"
    return (
        name,
        str(rollup.requests),
        errors,
        f"${usd_text(rollup.cost_nusd)[:-3]}",
        str(rollup.input_tokens),
        str(rollup.output_tokens),
        latency_text(percentile_ms(rollup.ttft, 0.5)),
        *(latency_text(percentile_ms(rollup.latency, share)) for share in (0.5, 0.95, 0.99)),
    )


def _show_live(deployment: Deployment) -> None:
    try:
        live = open_live(deployment)
    except StoreError as failure:
        remark(str(failure))
        return
    if live is None:
        remark(NOT_RUNNING)
        return
    now_us = clock.mono_us()
    targets = used(live.targets(now_us))
    write("")
    if targets:
        write_table(HEAD, target_lines(targets, now_us))
    else:
        write(UNUSED)
    state_dir = serving_state_dir(deployment.data_dir, deployment.config().server.state_dir)
    lag_s = None if state_dir is None else _index_lag_s(state_dir)
    if lag_s:
        remark(f"the newest traces are not counted yet: the index is {_lag(lag_s)} behind")


def _lag(seconds: float) -> str:
    return ago_text(round(seconds * US_PER_S)) if seconds >= 1 else "less than 1s"


def _index_lag_s(state_dir: Path) -> float | None:
    """Return how far the trace index is behind, as the trace writer said last."""
    try:
        told = json.loads((state_dir / METRICS_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    samples = told["samples"] if isinstance(told, dict) else []
    found = (value for name, _, value in samples if name == LAG_METRIC)
    return next(found, None)
