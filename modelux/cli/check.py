"""`modelux check`: is the configuration valid, and what would loading it change?

`--apply` makes the running server load it and waits for the outcome; with no server running it
is applied to `control.db`, where the next start finds it.
"""

import argparse
import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from modelux import clock
from modelux._native import window
from modelux.cli.deployment import (
    Deployment,
    add_data_dir,
    instant_text,
    login,
    remark,
    write,
)
from modelux.cli.live import look_live
from modelux.config.budgets import remarks
from modelux.config.database import FILE_NAME
from modelux.config.file import data_dir_of, find_config, load_config
from modelux.config.model import Config
from modelux.config.outline import budget_remarks, route_remarks, shadow_remarks
from modelux.config.read import Faults, shown
from modelux.config.resolve import LiveRoute
from modelux.config.rows import Change, resource, route_name
from modelux.config.traffic import Traffic, traffic_remarks
from modelux.config.versions import FILE_ACTOR, ControlDb
from modelux.errors import ConfigError, StoreError
from modelux.store.layout import RELOAD_FILE
from modelux.supervisor.configuration import ollama_models
from modelux.supervisor.lock import serving_pid
from modelux.supervisor.options import last_reload_seq
from modelux.trace.carried import carried_tags
from modelux.trace.files import trace_files
from modelux.trace.spend import Subject, spent_in_window
from modelux.units import US_PER_S, NanoUsd, UnixUs, usd_text

RELOAD_WAIT_US: Final = 30 * US_PER_S
RELOAD_LOOK_S: Final = 0.02
SUBJECTS_SHOWN_MAX: Final = 5
TRACES_LEAST: Final = 1_000
"""With fewer traces, a tag that none of them has carried may only not have come yet."""
_SIGNS: Final = {"added": "+", "removed": "-", "retired": "-"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--apply", action="store_true", help="make the running server load the configuration"
    )
    add_data_dir(parser)


def run(args: argparse.Namespace) -> int:
    """Check and, if asked, apply; return the exit code.

    Raises:
        ConfigError: With every fault; nothing has changed.
        StoreError: `control.db` cannot be used, or the server did not answer.
    """
    path = find_config(args.config, args.environ)
    named = args.data_dir.resolve() if args.data_dir else None
    pid = serving_pid(named or data_dir_of(path))
    # A running server follows references in its own environment, not in the operator's.
    with_secrets = not (args.apply and pid is not None)
    config = load_config(path, args.environ, probe=ollama_models, with_secrets=with_secrets)
    data_dir = named or config.server.data_dir
    is_kept = (data_dir / FILE_NAME).exists()
    db = ControlDb(data_dir if is_kept or args.apply else None)
    try:
        changes = db.plan_config(config)
        _tell(config, changes)
        write(*new_budgets(config, changes, db, data_dir, clock.unix_us()))
        for line in remarks(config, db.known_keys(config), db.known_slugs(config)):
            remark(line)
        deployment = Deployment(path=path, environ=args.environ, data_dir=data_dir, db=db)
        for line in _route_remarks(deployment, config, changes):
            remark(line)
        if args.apply and pid is None:
            why = f"modelux check --apply by {login()}"
            db.apply_config(config, actor=FILE_ACTOR, source=config.source, why=why)
    finally:
        db.close()
    if not args.apply:
        return 0
    if pid is None:
        write("applied; no server is running, the next start serves it")
        return 0
    wait_for_reload(pid, data_dir)
    write(f"applied by the running server (process {pid})")
    return 0


def _tell(config: Config, changes: Sequence[Change]) -> None:
    if changes:
        write(f"{config.source} is valid; loading it changes:")
        write(*(f"  {change_line(change)}" for change in changes))
    else:
        write(f"{config.source} is valid; loading it changes nothing")
    if config.makes_default_key:
        remark("no project is declared: the first start makes a key for `default`")


def change_line(change: Change) -> str:
    """Return a change as a line for people: `~ route @production: v3 -> v4`."""
    noun, _, verb = change.action.partition(".")
    sign = _SIGNS.get(verb, "~")
    detail = change.detail
    if noun == "route":
        before, after = detail["from"], detail["to"]
        versions = " -> ".join(f"v{one}" for one in (before, after) if one is not None)
        ending = ", retired" if verb == "retired" else ""
        return f"{sign} {change.resource}: {versions}{ending}"
    if noun == "key" and verb == "changed":
        what = "its value" if detail["value"] else "its options"
        return f"{sign} {change.resource}: {what}"
    if noun == "budget" and verb == "changed":
        said = (f"{name} {_value(detail[name])}" for name in sorted(detail) if name != "id")
        return f"{sign} {change.resource}: {', '.join(said)}"
    if verb == "changed":
        return f"{sign} {change.resource}: {', '.join(sorted(detail))}"
    return f"{sign} {change.resource}"


def _route_remarks(
    deployment: Deployment, config: Config, changes: Sequence[Change]
) -> Iterator[str]:
    """Yield what is hardly meant in the routes of the file, and in all that will serve."""
    served = _served_after(deployment.db, config, changes)
    # What the file declares is looked at as the file has it; the rest has places of its own.
    stored = (one.config for one in served if one.config.place.startswith("@"))
    yield from route_remarks((*(route.config for route in config.routes), *stored))
    yield from budget_remarks(config)
    traffic = _traffic(deployment)
    for route in served:
        yield from shadow_remarks(route, served)
        yield from traffic_remarks(route, traffic)


def _served_after(db: ControlDb, config: Config, changes: Sequence[Change]) -> list[LiveRoute]:
    """Return what serves once the configuration is loaded, which changes just that."""
    moved = {
        change.resource: change.detail["to"]
        for change in changes
        if change.action.startswith("route.")
    }
    before = db.live_routes(config, Faults(config.source))
    live = {resource("route", route_name(one.project, one.slug)): one for one in before}
    for route in config.routes:
        name = resource("route", route_name(route.project, route.slug))
        version = moved.get(name)
        if isinstance(version, int):
            live[name] = LiveRoute(
                project=route.project, slug=route.slug, version=version, config=route.config
            )
    return [one for name, one in live.items() if moved.get(name, one.version) is not None]


def _traffic(deployment: Deployment) -> Traffic:
    """Return what is known of the requests so far; what cannot be read is not known."""
    try:
        tags = carried_tags(trace_files(deployment.data_dir), TRACES_LEAST)
    except StoreError as failure:
        remark(str(failure))
        tags = None
    live = look_live(deployment)

    def null_run(mark: str) -> int:
        found = None if live is None else live.mark(mark)
        return 0 if found is None else found.null_run

    return Traffic(tags=tags, null_run=null_run)


def _value(difference: object) -> str:
    assert isinstance(difference, Mapping), difference
    before, after = (
        json.dumps(value) if isinstance(value, list | dict) else str(value)
        for value in (difference["from"], difference["to"])
    )
    return f"{before} -> {after}"


def new_budgets(
    config: Config, changes: Sequence[Change], db: ControlDb, data_dir: Path, now: UnixUs
) -> Iterator[str]:
    """Yield what each budget that is new to the ledger begins at, for people.

    Args:
        config: What is to be loaded.
        changes: What that changes.
        db: The store, whose pepper hashes end users.
        data_dir: Where the traces are.
        now: The instant that says which window is the current one.

    Raises:
        StoreError: The traces cannot be read.
    """
    fresh = {
        change.resource.partition(" ")[2]
        for change in changes
        if change.action == "budget.added"
        or (change.action == "budget.changed" and "id" in change.detail)
    }
    for budget in config.budgets:
        if budget.name not in fresh:
            continue
        start_s, _ = window(budget.timezone, budget.period, now // US_PER_S)
        start_us = UnixUs(start_s * US_PER_S)
        is_total = budget.period == "total"
        since = "all traces" if is_total else f"the traces since {instant_text(start_us)}"
        name = f"budget {shown(budget.name)}"
        if not budget.backfill:
            yield f"{name} begins at 0 USD: `backfill` is false"
            continue
        spent = spent_in_window(
            trace_files(data_dir),
            budget.scope,
            budget.project,
            start_us,
            now,
            unset=budget.unset,
            stored_end_user=(db.hash_end_user if config.server.hash_end_users else str),
        )
        yield from _begins_at(name, since, spent)


def _begins_at(name: str, since: str, spent: Mapping[Subject, NanoUsd]) -> Iterator[str]:
    total = sum(spent.values())
    among = f" over {len(spent)} subjects" if () not in spent and spent else ""
    yield f"{name} begins at {usd_text(total)} USD{among} ({since})"
    if () in spent:
        return
    by_cost = sorted(spent.items(), key=lambda item: (-item[1], item[0]))
    for subject, amount in by_cost[:SUBJECTS_SHOWN_MAX]:
        yield f"  {shown(','.join(subject))}: {usd_text(amount)} USD"
    if len(by_cost) > SUBJECTS_SHOWN_MAX:
        yield f"  and {len(by_cost) - SUBJECTS_SHOWN_MAX} more"


def wait_for_reload(pid: int, data_dir: Path) -> None:
    """Ask a running server to load its configuration, and wait until it has.

    Raises:
        ConfigError: It refused, with its faults.
        StoreError: It is gone, is somebody else's, or says nothing for too long.
    """
    before = last_reload_seq(data_dir)
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError as failure:
        raise StoreError(
            f"the running server (process {pid}) cannot be told: {failure.strerror}"
        ) from failure
    deadline = clock.mono_us() + RELOAD_WAIT_US
    while clock.mono_us() < deadline:
        outcome = _outcome(data_dir)
        if outcome.get("seq", 0) != before and "ok" in outcome:
            faults = outcome.get("faults")
            if not outcome["ok"]:
                lines = [str(fault) for fault in faults] if isinstance(faults, list) else []
                raise ConfigError(lines or ["the running server refused the configuration"])
            return
        if serving_pid(data_dir) != pid:
            raise StoreError(
                f"the running server (process {pid}) ended before it had loaded it"
            )
        clock.pause_s(RELOAD_LOOK_S)
    raise StoreError(
        f"the running server (process {pid}) has not answered for "
        f"{RELOAD_WAIT_US // US_PER_S} s; its log says why"
    )


def _outcome(data_dir: Path) -> Mapping[str, object]:
    try:
        found = json.loads((data_dir / RELOAD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
