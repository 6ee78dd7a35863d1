"""`modelux budgets`: how every budget stands, and credits that correct what was spent.

What is shown is read from the ledger of the running server, or from its copy on disk where no
server runs. A credit is written to `control.db`; the server counts it within a moment.
"""

import argparse
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Final

from modelux import clock
from modelux._native import Live
from modelux.cli.deployment import (
    Deployment,
    add_data_dir,
    instant_text,
    open_deployment,
    remark,
    write,
    write_json,
    write_table,
)
from modelux.cli.live import last_text, look_live
from modelux.config.budgets import budget_id, scope_data
from modelux.config.credits import Credit
from modelux.config.model import Config
from modelux.config.read import hint, shown
from modelux.errors import RefusedError
from modelux.store.budgets import (
    Budget,
    Standing,
    rows_of_copy,
    rows_of_map,
    serving_state_dir,
    standings,
)
from modelux.store.row import LedgerRow
from modelux.supervisor.lock import serving_pid
from modelux.units import NUSD_PER_USD, US_PER_S, NanoUsd, UnixUs, nusd_from_usd, usd_text

SUBJECTS_SHOWN_MAX: Final = 20
"""Lines of one `*` budget in the table; JSON has them all."""

APPLIED_WAIT_US: Final = 5 * US_PER_S
APPLIED_LOOK_S: Final = 0.02


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the words and their arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--all",
        action="store_true",
        help=f"every subject of a `*` budget, not the {SUBJECTS_SHOWN_MAX} that spent most",
    )
    add_data_dir(parser)
    words = parser.add_subparsers(dest="word", metavar="WORD")
    credit = words.add_parser("credit", help="correct what was spent in the current window")
    credit.add_argument("name", metavar="NAME", help="of the budget")
    credit.add_argument(
        "--usd", required=True, type=_amount, metavar="N", help="added to what may be spent"
    )
    credit.add_argument("--reason", required=True, metavar="TEXT", help="for the audit log")
    credit.add_argument("--request", metavar="ID", help="the request that it corrects")
    credit.add_argument("--subject", metavar="V", help="of a `*` budget: whose cap")
    add_data_dir(credit)


def run(args: argparse.Namespace) -> int:
    """Do it; return the exit code.

    Raises:
        RefusedError: There is no such budget or subject, or the credit cannot be.
        StoreError: `control.db` or the ledger cannot be read.
    """
    with open_deployment(args, is_reading=args.word is None) as deployment:
        if args.word == "credit":
            _credit(deployment, args)
        else:
            _show(deployment, args)
    return 0


def current(deployment: Deployment) -> list[Standing]:
    """Return how each budget stands at this moment.

    Raises:
        ConfigError: The configuration cannot be used.
        StoreError: The ledger cannot be read.
    """
    now_s = clock.unix_us() // US_PER_S
    return standings(budgets_of(deployment.config()), _rows(deployment, now_s), now_s)


def budgets_of(config: Config) -> list[Budget]:
    """Return the budgets of a configuration as the ledger knows them."""
    return [
        Budget(
            id=bytes.fromhex(budget_id(budget)),
            name=budget.name,
            scopes=tuple(scope_data(scope) for scope in budget.scope),
            cap_nusd=budget.cap_usd,
            period=budget.period,
            timezone=budget.timezone,
            action=budget.action,
            enabled=budget.enabled,
            shadow=budget.shadow,
        )
        for budget in config.budgets
    ]


def _rows(deployment: Deployment, now_s: int) -> list[LedgerRow]:
    """Return the ledger's rows: from memory while a server runs, else from their copy."""
    if serving_pid(deployment.data_dir) is not None:
        state_dir = serving_state_dir(deployment.data_dir, deployment.config().server.state_dir)
        if state_dir is not None:
            return rows_of_map(state_dir)
    return rows_of_copy(deployment.data_dir, now_s)


# --- showing -------------------------------------------------------------------------------


def _show(deployment: Deployment, args: argparse.Namespace) -> None:
    found = current(deployment)
    if args.json:
        write_json([told(standing) for standing in found])
    elif found:
        head = (
            "NAME", "SUBJECT", "CAP", "SPENT", "HELD", "REMAINING", "RESETS", "ACTION",
            "LAST ACTED",
        )  # fmt: skip
        live = look_live(deployment)
        lines, left_out = _lines(found, None if args.all else SUBJECTS_SHOWN_MAX, live)
        write_table(head, lines)
        for name, count in left_out.items():
            remark(f"{name}: {count} more subjects; `modelux budgets --all` shows them")
    else:
        remark("no budget has been used; `[[budgets]]` in modelux.toml declares one")


def told(standing: Standing) -> dict[str, object]:
    """Return what `--json` says of one row."""
    budget, row = standing.budget, standing.row
    scopes = [dict(scope) for scope in budget.scopes]
    return {
        "name": budget.name,
        "scope": scopes[0] if len(scopes) == 1 else scopes,
        "subject": standing.subject,
        "period": budget.period,
        "window_start": None if row.window_end_s is None else _instant(row.window_start_s),
        "window_end": None if row.window_end_s is None else _instant(row.window_end_s),
        "cap_usd": _number(budget.cap_nusd),
        "spent_usd": _number(row.spent_nusd),
        "held_usd": _number(standing.held_nusd),
        "remaining_usd": _number(standing.remaining_nusd),
        "action": budget.action,
    }


def _number(amount_nusd: int) -> float:
    # The one place where money is no integer: JSON has no other number that readers expect.
    return amount_nusd / NUSD_PER_USD


def _lines(
    found: Sequence[Standing], subjects_max: int | None, live: Live | None
) -> tuple[list[tuple[str, ...]], dict[str, int]]:
    """Return the table's lines, and how many subjects of which budgets are not among them."""
    lines: list[tuple[str, ...]] = []
    shown_count: dict[str, int] = {}
    left_out: dict[str, int] = {}
    for standing in found:
        name = standing.budget.name
        shown_count[name] = shown_count.get(name, 0) + 1
        if subjects_max is not None and shown_count[name] > subjects_max:
            left_out[name] = left_out.get(name, 0) + 1
        else:
            lines.append((*_line(standing), _last_acted(name, live)))
    return lines, left_out


def _last_acted(name: str, live: Live | None) -> str:
    """Return when a budget last refused, fitted or redirected a request; `-`: nobody knows."""
    if live is None:
        return "-"
    return last_text(live.mark(f"budget {name}")) or "never"


def _line(standing: Standing) -> tuple[str, ...]:
    budget, row = standing.budget, standing.row
    subject = standing.subject
    credited = f" +{_usd(row.credits_nusd)}" if row.credits_nusd else ""
    return (
        budget.name,
        "-" if subject is None else subject or "(unset)",
        _usd(budget.cap_nusd) + credited,
        _usd(row.spent_nusd),
        _usd(standing.held_nusd),
        _usd(standing.remaining_nusd),
        "never" if row.window_end_s is None else _instant(row.window_end_s),
        budget.action
        + ("" if budget.enabled else ", disabled")
        + (", shadow" if budget.shadow else ""),
    )


def _instant(at_s: int) -> str:
    return instant_text(UnixUs(at_s * US_PER_S))


def _usd(amount_nusd: int) -> str:
    """Return USD with as many decimals as the amount has, at least two."""
    text = usd_text(amount_nusd).rstrip("0")
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals.ljust(2, '0')}"


# --- credits -------------------------------------------------------------------------------


def _amount(text: str) -> NanoUsd:
    try:
        amount_nusd = nusd_from_usd(Decimal(text))
    except (InvalidOperation, ValueError) as failure:
        why = "not a number" if isinstance(failure, InvalidOperation) else str(failure)
        raise argparse.ArgumentTypeError(f"{shown(text)} is {why}") from failure
    if amount_nusd <= 0:
        raise argparse.ArgumentTypeError(
            f"{shown(text)} is not above 0: what was spent is never raised by hand"
        )
    return amount_nusd


def _credit(deployment: Deployment, args: argparse.Namespace) -> None:
    standing = _credited(deployment, args.name, args.subject)
    budget, row = standing.budget, standing.row
    total_nusd = deployment.db.add_credit(
        Credit(
            key=row.key,
            budget=budget.name,
            subject=row.subject,
            window_start_s=row.window_start_s,
            window_end_s=row.window_end_s,
            usd=args.usd,
            reason=args.reason,
            request_id=args.request,
        ),
        deployment.who("budgets credit", args.reason),
    )
    whose = "" if standing.subject is None else f", subject {shown(standing.subject)}"
    write(f"credited {_usd(args.usd)} USD to budget {shown(budget.name)}{whose}")
    if serving_pid(deployment.data_dir) is None:
        write("no server is running; the next start counts it")
    elif _is_applied(deployment, row.key, total_nusd):
        write("counted by the running server")
    else:
        remark(
            f"the running server has not counted it within {APPLIED_WAIT_US // US_PER_S} s; it "
            "does so as soon as it can, its log says what keeps it"
        )


def _credited(deployment: Deployment, name: str, subject: str | None) -> Standing:
    """Return the row that a credit is for."""
    now_s = clock.unix_us() // US_PER_S
    budgets = {budget.name: budget for budget in budgets_of(deployment.config())}
    if name not in budgets:
        raise RefusedError(f"unknown budget {shown(name)}{hint(name, budgets)}")
    budget = budgets[name]
    rows = standings([budget], _rows(deployment, now_s), now_s)
    if not budget.is_split:
        if subject is not None:
            raise RefusedError(
                f"budget {shown(name)} has one cap for all; leave `--subject` out"
            )
        return rows[0]
    if subject is None:
        raise RefusedError(
            f"budget {shown(name)} has a cap for each subject; say whose: `--subject V`"
        )
    found = {row.subject or "": row for row in rows}
    if subject not in found:
        raise RefusedError(
            f"budget {shown(name)} has no subject {shown(subject)} in this window"
            f"{hint(subject, found)}; it has one from its first request on"
        )
    return found[subject]


def _is_applied(deployment: Deployment, key: bytes, total_nusd: int) -> bool:
    deadline_us = clock.mono_us() + APPLIED_WAIT_US
    while True:
        rows = _rows(deployment, clock.unix_us() // US_PER_S)
        if any(row.key == key and row.credits_nusd >= total_nusd for row in rows):
            return True
        if clock.mono_us() > deadline_us:
            return False
        clock.pause_s(APPLIED_LOOK_S)
