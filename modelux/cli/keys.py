"""`modelux keys`: make, list and revoke the keys that open the proxy.

A made key is printed once, alone on stdout, so that `KEY=$(modelux keys create)` holds it; what
is kept of it is a keyed hash.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from modelux import clock
from modelux.cli.deployment import (
    DEFAULT_PROJECT,
    Deployment,
    add_data_dir,
    instant_text,
    open_deployment,
    parse_instant,
    remark,
    write,
    write_json,
    write_table,
)
from modelux.config.file import check_policy
from modelux.config.keys import MADE_RPM
from modelux.config.model import KeyPolicy
from modelux.config.read import Faults, Reading, build, hint, read_options, shown
from modelux.config.rows import KeyRow
from modelux.errors import RefusedError
from modelux.units import US_PER_S, UnixUs

_AHEAD_UNITS: Final = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the words and their arguments."""
    words = parser.add_subparsers(dest="word", required=True, metavar="WORD")
    create = words.add_parser("create", help="make a key; it is shown this once")
    create.add_argument("--project", default=DEFAULT_PROJECT, help="default: %(default)s")
    create.add_argument("--name", help="for people")
    create.add_argument(
        "--rpm", type=_rpm, default=MADE_RPM, metavar="N|none", help="default: %(default)s"
    )
    create.add_argument(
        "--expires", type=_expires, metavar="TIME", help="90d from now, or a date"
    )
    create.add_argument(
        "--allow-route", action="append", metavar="SLUG", help="only these; may be repeated"
    )
    create.add_argument(
        "--allow-model", action="append", metavar="MODEL", help="only these; may be repeated"
    )
    create.add_argument(
        "--tag", action="append", metavar="K=V", help="fixed for this key; may be repeated"
    )
    create.add_argument("--end-user", help="fixed for this key")
    create.add_argument(
        "--require",
        action="append",
        metavar="WHAT",
        help="end_user or tag:KEY: what each request must carry; may be repeated",
    )
    create.add_argument(
        "--allow-versions", action="store_true", help="may ask for @slug@VERSION"
    )
    create.add_argument("--management", action="store_true", help="not in this release")
    create.add_argument("--role", help="not in this release")
    listing = words.add_parser("ls", help="list keys")
    listing.add_argument("--project", help="only this project's")
    revoke = words.add_parser("revoke", help="revoke a key, in every worker at once")
    revoke.add_argument("id", metavar="ID")
    for word in (create, listing, revoke):
        word.add_argument("--json", action="store_true", help="print JSON")
        add_data_dir(word)


def run(args: argparse.Namespace) -> int:
    """Do it; return the exit code.

    Raises:
        RefusedError: What was asked for does not exist or cannot be done here.
        ConfigError: A word of the command says what no key can have.
        StoreError: `control.db` cannot be used.
    """
    if args.word == "create" and (args.management or args.role):
        remark("modelux keys: management keys are not in this release")
        return 2
    actions: dict[str, Callable[[Deployment, argparse.Namespace], None]] = {
        "create": _create,
        "ls": _list,
        "revoke": _revoke,
    }
    with open_deployment(args, is_reading=args.word == "ls") as deployment:
        actions[args.word](deployment, args)
    return 0


def _rpm(text: str) -> int | None:
    if text == "none":
        return None
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 100_000_000):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not 1 to 100000000, or none")
    return int(text)


def _expires(text: str) -> UnixUs:
    count, unit = text[:-1], text[-1:]
    now = clock.unix_us()
    if unit in _AHEAD_UNITS and count.isascii() and count.isdecimal() and len(count) < 8:
        return UnixUs(now + int(count) * _AHEAD_UNITS[unit] * US_PER_S)
    try:
        instant = parse_instant(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{shown(text)} is neither a time from now, as 90d, nor a date, as 2027-01-31"
        ) from None
    if instant <= now:
        raise argparse.ArgumentTypeError(f"{shown(text)} is over already")
    return instant


def _policy(args: argparse.Namespace) -> KeyPolicy:
    """Make the same checks of a command's words as of a table in the file."""
    faults = Faults("modelux keys create")
    reading = Reading(faults=faults, folder=Path.cwd(), env={}, with_secrets=False)
    tags: dict[str, object] = {}
    for tag in args.tag or []:
        key, equals, value = tag.partition("=")
        if not equals or key in tags:
            faults.add("--tag", f"{shown(tag)} is not K=V, each K once")
        tags[key] = value
    said: dict[str, object] = {
        "name": args.name,
        "rpm": args.rpm,
        "allowed_routes": args.allow_route,
        "allowed_models": args.allow_model,
        "tags": tags or None,
        "end_user": args.end_user,
        "require": args.require,
        "allow_versions": args.allow_versions,
    }
    data = {name: value for name, value in said.items() if value is not None}
    values = read_options(KeyPolicy, data, "", reading)
    check_policy(values, "", reading)
    faults.check()
    return build(KeyPolicy, {**values, "expires_at": args.expires})


def _create(deployment: Deployment, args: argparse.Namespace) -> None:
    policy = _policy(args)
    names = [project.name for project in deployment.config().projects]
    if args.project not in names:
        raise RefusedError(f"unknown project {shown(args.project)}{hint(args.project, names)}")
    slugs = [row.slug for row in deployment.db.routes(args.project)]
    for slug in policy.allowed_routes or ():
        if slug not in slugs:
            remark(f"note: there is no routing config @{slug} yet{hint(slug, slugs)}")
    made = deployment.db.create_key(args.project, policy, deployment.who("keys create"))
    if args.json:
        text = {"id": made.id, "key": made.secret.reveal(), "project": args.project}
        write(json.dumps(text))
        return
    remark(f"key {made.id} for project {shown(args.project)}; it is shown only this once:")
    # The one place that prints a key: whoever made it has no other way to it.
    sys.stdout.write(f"{made.secret.reveal()}\n")


def _list(deployment: Deployment, args: argparse.Namespace) -> None:
    now = clock.unix_us()
    rows = [row for row in deployment.db.key_rows() if args.project in {None, row.project}]
    if args.json:
        write_json([_listed(row, now) for row in rows])
    elif rows:
        write_table(
            ("ID", "PROJECT", "NAME", "RPM", "STATUS", "ORIGIN", "CREATED", "EXPIRES"),
            [
                (
                    row.id,
                    row.project,
                    row.policy.name or "",
                    "-" if row.policy.rpm is None else str(row.policy.rpm),
                    status(row, now),
                    row.origin,
                    instant_text(row.created_at),
                    ""
                    if row.policy.expires_at is None
                    else instant_text(row.policy.expires_at),
                )
                for row in rows
            ],
        )
    else:
        remark("no keys; `modelux keys create` makes one")


def status(row: KeyRow, now: UnixUs) -> str:
    """Return `active`, `revoked` or `expired`."""
    if row.revoked_at is not None:
        return "revoked"
    is_over = row.policy.expires_at is not None and row.policy.expires_at <= now
    return "expired" if is_over else "active"


def _listed(row: KeyRow, now: UnixUs) -> dict[str, object]:
    policy = row.policy
    return {
        "id": row.id,
        "project": row.project,
        "name": policy.name,
        "status": status(row, now),
        "origin": row.origin,
        "rpm": policy.rpm,
        "expires_at": None if policy.expires_at is None else instant_text(policy.expires_at),
        "allowed_routes": policy.allowed_routes,
        "allowed_models": policy.allowed_models,
        "tags": dict(policy.tags),
        "end_user": policy.end_user,
        "require": policy.require,
        "allow_versions": policy.allow_versions,
        "created_at": instant_text(row.created_at),
        "created_by": row.created_by,
        "revoked_at": None if row.revoked_at is None else instant_text(row.revoked_at),
    }


def _revoke(deployment: Deployment, args: argparse.Namespace) -> None:
    is_done = deployment.db.revoke_key(args.id, deployment.who("keys revoke"))
    if args.json:
        write(json.dumps({"id": args.id, "status": "revoked", "changed": is_done}))
    else:
        write(f"{args.id} is revoked" + ("" if is_done else " already"))
