"""`modelux audit`: who changed what, when, from where; and whether the log is whole."""

import argparse
import json

from modelux import clock
from modelux.cli.deployment import (
    add_data_dir,
    instant_text,
    open_deployment,
    parse_since,
    remark,
    write,
)
from modelux.config.database import EVER, AuditRow, load_json


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--since", metavar="TIME", type=_since, help="1h or 7d ago, or a date")
    parser.add_argument("--json", action="store_true", help="one row a line, as JSON")
    parser.add_argument(
        "--verify", action="store_true", help="check the hash chain from its first row on"
    )
    add_data_dir(parser)


def run(args: argparse.Namespace) -> int:
    """Print the log, or check it; return the exit code.

    Raises:
        StoreError: `control.db` cannot be used.
    """
    with open_deployment(args, is_reading=True) as deployment:
        if args.verify:
            broken = deployment.db.verify()
            count = sum(1 for _ in deployment.db.audit())
            if args.json:
                found = None if broken is None else {"seq": broken.seq, "why": broken.why}
                write(json.dumps({"ok": broken is None, "rows": count, "broken": found}))
            elif broken is None:
                write(f"the audit log is whole: {count} rows")
            else:
                remark(f"the audit log is broken at row {broken.seq}: {broken.why}")
            return 0 if broken is None else 1
        for row in deployment.db.audit(EVER if args.since is None else args.since):
            write(json.dumps(_told(row)) if args.json else _line(row))
    return 0


def _since(text: str) -> int:
    try:
        return parse_since(text, clock.unix_us())
    except ValueError as failure:
        raise argparse.ArgumentTypeError(str(failure)) from failure


def _told(row: AuditRow) -> dict[str, object]:
    return {
        "seq": row.seq,
        "at": instant_text(row.at),
        "at_us": row.at,
        "actor": row.actor,
        "source": row.source,
        "action": row.action,
        "resource": row.resource,
        "why": row.why,
        "detail": load_json(row.detail),
        "previous": row.previous,
        "hash": row.hash,
    }


def _line(row: AuditRow) -> str:
    why = f"  ({row.why})" if row.why else ""
    return (
        f"{row.seq:>5}  {instant_text(row.at)}  {row.action:<18} {row.resource:<28} "
        f"{row.actor}, {row.source}{why}"
    )
