"""`modelux routes`: list, show, change, compare, promote and roll back routing configs.

Works on `control.db`, with a server running or not; a running one serves the change within a
fraction of a second.
"""

import argparse
import difflib
import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Final

from modelux._native import LiveMark
from modelux.cli.deployment import (
    DEFAULT_PROJECT,
    Deployment,
    add_data_dir,
    instant_text,
    open_deployment,
    remark,
    table_lines,
    write,
    write_json,
    write_table,
)
from modelux.cli.live import last_text, look_live
from modelux.config.database import load_json
from modelux.config.model import RoutingConfig
from modelux.config.outline import Counted, counted, mark_name, route_remarks, shadow_remarks
from modelux.config.read import NAME, NAME_RULE, Faults, Reading, hint, shown
from modelux.config.resolve import LiveRoute
from modelux.config.routing import read_routing
from modelux.config.rows import RouteRow, VersionRow
from modelux.config.versions import decode
from modelux.errors import ConfigError, RefusedError
from modelux.limits import MIB, NULL_RUN_MAX

_CONFIG_BYTES_MAX: Final = MIB


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the words and their arguments."""
    words = parser.add_subparsers(dest="word", required=True, metavar="WORD")
    _word(words, "ls", "list the routing configs of a project")
    show = _word(words, "show", "print a routing config, or one version of it")
    show.add_argument("slug", metavar="SLUG[@VERSION]", type=_slug_and_version)
    change = _word(words, "set", "save a routing config and make it live")
    change.add_argument("slug", metavar="SLUG", type=_slug)
    change.add_argument("file", metavar="FILE.json", type=Path, help="`-` reads stdin")
    change.add_argument(
        "--draft", action="store_true", help="save only; `promote` makes it live"
    )
    change.add_argument("--why", default="", help="kept with the version")
    diff = _word(words, "diff", "compare two versions")
    diff.add_argument("slug", metavar="SLUG", type=_slug)
    diff.add_argument("old", metavar="A", type=_version)
    diff.add_argument("new", metavar="B", type=_version)
    history = _word(words, "history", "list the versions of a routing config")
    history.add_argument("slug", metavar="SLUG", type=_slug)
    back = _word(words, "rollback", "make the version live that was live before, or VERSION")
    back.add_argument("slug", metavar="SLUG", type=_slug)
    back.add_argument("version", metavar="VERSION", type=_version, nargs="?")
    back.add_argument("--why", default="", help="kept in the audit log")
    promote = _word(words, "promote", "make a version live")
    promote.add_argument("slug", metavar="SLUG", type=_slug)
    promote.add_argument("version", metavar="VERSION", type=_version)
    promote.add_argument("--why", default="", help="kept in the audit log")


def run(args: argparse.Namespace) -> int:
    """Do it; return the exit code.

    Raises:
        RefusedError: What was asked for does not exist.
        ConfigError: It could not serve; nothing has changed.
        StoreError: `control.db` cannot be used.
    """
    is_reading = args.word in {"ls", "show", "diff", "history"}
    with open_deployment(args, is_reading=is_reading) as deployment:
        match args.word:
            case "ls":
                _list(deployment, args)
            case "show":
                _show(deployment, args)
            case "set":
                _set(deployment, args)
            case "diff":
                _diff(deployment, args)
            case "history":
                _history(deployment, args)
            case "rollback":
                _rollback(deployment, args)
            case _:
                _promote(deployment, args)
    return 0


def _word(
    words: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, help_text: str
) -> argparse.ArgumentParser:
    parser = words.add_parser(name, help=help_text, description=f"{help_text.capitalize()}.")
    parser.add_argument("--project", default=DEFAULT_PROJECT, help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_data_dir(parser)
    return parser


def _slug(text: str) -> str:
    slug = text.removeprefix("@")
    if not NAME.fullmatch(slug):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a slug: {NAME_RULE}")
    return slug


def _version(text: str) -> int:
    digits = text.removeprefix("v")
    if not (digits.isascii() and digits.isdecimal() and 1 <= int(digits) < 2**31):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a version: a number from 1")
    return int(digits)


def _slug_and_version(text: str) -> tuple[str, int | None]:
    slug, at, version = text.removeprefix("@").partition("@")
    return _slug(slug), _version(version) if at else None


def _list(deployment: Deployment, args: argparse.Namespace) -> None:
    rows = deployment.db.routes(args.project)
    if args.json:
        write_json([_listed(deployment, row) for row in rows])
    elif rows:
        write_table(
            ("SLUG", "STRATEGY", "LIVE", "LATEST", "UPDATED", "SOURCE", "DIFFERS FROM FILE"),
            [
                (
                    f"@{row.slug}",
                    _strategy(deployment, row),
                    "-" if row.live is None else f"v{row.live.version}",
                    f"v{row.latest}",
                    instant_text(row.updated_at),
                    _source(deployment, row),
                    "yes" if row.differs_from_file else "no",
                )
                for row in rows
            ],
        )
    else:
        others = {row.project for row in deployment.db.routes()}
        where = f"; there are some in {', '.join(sorted(others))}" if others else ""
        remark(f"no routing configs in project {shown(args.project)}{where}")


def _listed(deployment: Deployment, row: RouteRow) -> dict[str, object]:
    return {
        "slug": row.slug,
        "project": row.project,
        "strategy": _strategy(deployment, row),
        "live_version": None if row.live is None else row.live.version,
        "latest_version": row.latest,
        "updated_at": instant_text(row.updated_at),
        "source": _source(deployment, row),
        "differs_from_file": row.differs_from_file,
    }


def _shown_version(deployment: Deployment, row: RouteRow) -> VersionRow:
    found = row.live or deployment.db.version(row, row.latest)
    assert found is not None, row.slug
    return found


def _strategy(deployment: Deployment, row: RouteRow) -> str:
    content = load_json(_shown_version(deployment, row).content)
    assert isinstance(content, dict), row.slug
    return str(content["strategy"])


def _source(deployment: Deployment, row: RouteRow) -> str:
    """Return where the live version came from: `file`, `cli` or `api`."""
    return _shown_version(deployment, row).actor.partition(":")[0]


def _existing(deployment: Deployment, project: str, slug: str) -> RouteRow:
    row = deployment.db.route(project, slug)
    if row is None:
        slugs = [other.slug for other in deployment.db.routes(project)]
        raise RefusedError(
            f"unknown routing config @{slug} in project {shown(project)}{hint(slug, slugs)}"
        )
    return row


def _one_version(deployment: Deployment, row: RouteRow, version: int) -> VersionRow:
    found = deployment.db.version(row, version)
    if found is None:
        raise RefusedError(f"@{row.slug} has no version {version}; it has 1 to {row.latest}")
    return found


def _show(deployment: Deployment, args: argparse.Namespace) -> None:
    slug, version = args.slug
    row = _existing(deployment, args.project, slug)
    found = (
        _shown_version(deployment, row)
        if version is None
        else _one_version(deployment, row, version)
    )
    counts = _counts(deployment, row, found)
    if args.json:
        said = {"slug": slug, "project": row.project, **_told(row, found)}
        write_json({**said, "counts": None if counts is None else list(map(_count, counts))})
        return
    state = ", live" if _is_live(row, found) else ""
    remark(
        f"@{slug} (v{found.version}{state}) by {found.actor}, {instant_text(found.created_at)}"
    )
    write(*_pretty(found).splitlines())
    # Beside the config, which is what `set` reads.
    if counts:
        head = ("PATH", "WHAT", "TIMES", "LAST")
        for line in table_lines(head, [_count_line(part, mark) for part, mark in counts]):
            remark(line)


def _counts(
    deployment: Deployment, row: RouteRow, version: VersionRow
) -> list[tuple[Counted, LiveMark | None]] | None:
    """Return how often each part of a version mattered; None where no server counts."""
    live = look_live(deployment)
    routing = decode(row.slug, version, Faults(""))
    if live is None or routing is None:
        return None
    return [
        (part, live.mark(mark_name(row.project, row.slug, version.version, part.path)))
        for part in counted(routing, deployment.config())
    ]


def _count(count: tuple[Counted, LiveMark | None]) -> dict[str, object]:
    part, mark = count
    return {
        "path": part.path,
        "what": part.what,
        "times": 0 if mark is None else mark.hits,
        "last_at": last_text(mark),
        **({"null_run": 0 if mark is None else mark.null_run} if part.is_rule else {}),
    }


def _count_line(part: Counted, mark: LiveMark | None) -> tuple[str, ...]:
    last = last_text(mark) or "never"
    run = 0 if mark is None or not part.is_rule else mark.null_run
    if run >= NULL_RUN_MAX:
        last += f"; came to null {run} times in a row"
    return part.path, part.what, str(0 if mark is None else mark.hits), last


def _told(row: RouteRow, version: VersionRow) -> dict[str, object]:
    return {
        "version": version.version,
        "live": _is_live(row, version),
        "hash": version.hash,
        "actor": version.actor,
        "source": version.source,
        "why": version.why,
        "created_at": instant_text(version.created_at),
        "config": load_json(version.content),
    }


def _is_live(row: RouteRow, version: VersionRow) -> bool:
    return row.live is not None and row.live.version == version.version


def _pretty(version: VersionRow) -> str:
    return json.dumps(load_json(version.content), indent=2, ensure_ascii=False)


def _set(deployment: Deployment, args: argparse.Namespace) -> None:
    faults = Faults(str(args.file))
    routing = _read_file(args.file, deployment, faults)
    config = deployment.config()
    if config.project(args.project) is None:
        names = [project.name for project in config.projects]
        raise RefusedError(f"unknown project {shown(args.project)}{hint(args.project, names)}")
    saved = deployment.db.save_route(
        config,
        args.project,
        args.slug,
        routing,
        deployment.who("routes set", args.why),
        draft=args.draft,
        faults=faults,
    )
    made = LiveRoute(
        project=args.project, slug=args.slug, version=saved.version, config=routing
    )
    live = deployment.db.live_routes(config, Faults(""))
    for line in (*route_remarks([routing]), *shadow_remarks(made, live)):
        remark(line)
    if args.json:
        write(
            json.dumps(
                {
                    "slug": args.slug,
                    "project": args.project,
                    "version": saved.version,
                    "live": saved.is_live,
                    "made": saved.is_made,
                }
            )
        )
    elif not saved.is_made:
        write(f"@{args.slug} (v{saved.version}) is live and says that already")
    else:
        state = "is live" if saved.is_live else "is saved as a draft"
        write(f"@{args.slug} (v{saved.version}) {state}")


def _read_file(path: Path, deployment: Deployment, faults: Faults) -> RoutingConfig:
    try:
        if str(path) == "-":
            raw = sys.stdin.buffer.read(_CONFIG_BYTES_MAX + 1)
        else:
            with path.open("rb") as file:
                raw = file.read(_CONFIG_BYTES_MAX + 1)
    except OSError as failure:
        raise RefusedError(f"{path}: cannot be read: {failure.strerror}") from failure
    if len(raw) > _CONFIG_BYTES_MAX:
        raise RefusedError(f"{path}: is longer than {_CONFIG_BYTES_MAX} bytes")
    try:
        data = json.loads(
            raw.decode("utf-8-sig"), object_pairs_hook=_no_twins, parse_float=Decimal
        )
    except json.JSONDecodeError as failure:
        place = f"{path}:{failure.lineno}:{failure.colno}"
        raise ConfigError([f"{place}: not JSON: {failure.msg}"]) from None
    except RecursionError:
        raise ConfigError([f"{path}: is nested too deep"]) from None
    except ValueError as failure:
        raise ConfigError([f"{path}: {failure}"]) from None
    reading = Reading(
        faults=faults, folder=Path.cwd(), env=deployment.environ, with_secrets=False
    )
    routing = read_routing(data, "", reading)
    faults.check()
    assert routing is not None, "a routing config without faults"
    return routing


def _no_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shown(twin)} stands twice in one object")
    return found


def _diff(deployment: Deployment, args: argparse.Namespace) -> None:
    row = _existing(deployment, args.project, args.slug)
    old = _one_version(deployment, row, args.old)
    new = _one_version(deployment, row, args.new)
    if args.json:
        both = {"from": _told(row, old), "to": _told(row, new), "same": old.hash == new.hash}
        write_json({"slug": row.slug, "project": row.project, **both})
        return
    lines = list(
        difflib.unified_diff(
            _pretty(old).splitlines(),
            _pretty(new).splitlines(),
            f"@{row.slug}@{old.version}",
            f"@{row.slug}@{new.version}",
            lineterm="",
        )
    )
    write(*lines) if lines else remark("no difference")


def _history(deployment: Deployment, args: argparse.Namespace) -> None:
    row = _existing(deployment, args.project, args.slug)
    versions = deployment.db.versions(row)
    if args.json:
        write_json([_told(row, version) for version in versions])
        return
    write_table(
        ("VERSION", "LIVE", "CREATED", "ACTOR", "HASH", "WHY"),
        [
            (
                f"v{version.version}",
                "live" if _is_live(row, version) else "",
                instant_text(version.created_at),
                version.actor,
                version.hash[:12],
                version.why,
            )
            for version in versions
        ],
    )


def _rollback(deployment: Deployment, args: argparse.Namespace) -> None:
    before, version = deployment.db.rollback(
        deployment.config(),
        args.project,
        args.slug,
        args.version,
        deployment.who("routes rollback", args.why),
    )
    _moved(before, version, args)


def _promote(deployment: Deployment, args: argparse.Namespace) -> None:
    before = deployment.db.promote(
        deployment.config(),
        args.project,
        args.slug,
        args.version,
        deployment.who("routes promote", args.why),
    )
    _moved(before, args.version, args)


def _moved(before: RouteRow, version: int, args: argparse.Namespace) -> None:
    was = None if before.live is None else before.live.version
    if args.json:
        write(
            json.dumps(
                {
                    "slug": before.slug,
                    "project": before.project,
                    "from": was,
                    "version": version,
                }
            )
        )
    elif was == version:
        write(f"@{before.slug} (v{version}) is live already")
    else:
        write(f"@{before.slug} (v{version}) is live" + (f", was v{was}" if was else ""))
