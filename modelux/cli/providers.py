"""`modelux providers`: how each provider fares; and set back what a model's bills have taught.

Health, load and latency are read from the live state of the running server. The keys are read
where the file says they are, in this process, and shown by their fingerprint only.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Final

from modelux import clock
from modelux._native import Ledger, LedgerError, Live, LiveCredential, LiveTarget
from modelux.cli.deployment import (
    Deployment,
    add_data_dir,
    open_deployment,
    remark,
    write,
    write_json,
    write_table,
)
from modelux.cli.live import (
    HEAD,
    NOT_RUNNING,
    UNUSED,
    open_live,
    rounded,
    target_lines,
    used,
)
from modelux.config.model import Credential, Provider
from modelux.config.read import follow, hint, shown
from modelux.errors import RefusedError, StoreError
from modelux.store.budgets import serving_state_dir
from modelux.supervisor.lock import serving_pid
from modelux.units import US_PER_S

APPLIED_WAIT_US: Final = 5 * US_PER_S
APPLIED_LOOK_S: Final = 0.02


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--reset-bound",
        metavar="MODEL",
        help="PROVIDER/MODEL: hold what its price says again, and no more for past overruns",
    )
    add_data_dir(parser)


def run(args: argparse.Namespace) -> int:
    """Do it; return the exit code.

    Raises:
        RefusedError: There is no such provider.
        StoreError: `control.db`, the ledger or the live state cannot be used.
    """
    with open_deployment(args, is_reading=args.reset_bound is None) as deployment:
        if args.reset_bound is None:
            _show(deployment, as_json=args.json)
        else:
            _reset(deployment, args.reset_bound)
    return 0


# --- showing -------------------------------------------------------------------------------


def _show(deployment: Deployment, *, as_json: bool) -> None:
    live = open_live(deployment)
    providers = deployment.config().providers
    told = [_told(provider, live, deployment.environ) for provider in providers]
    if live is None:
        remark(NOT_RUNNING)
    if as_json:
        write_json(told)
        return
    head = ("NAME", "VENDOR", "STATUS", "CREDENTIALS", "BASE URL")
    write_table(head, [_line(one) for one in told])
    if live is None:
        return
    now_us = clock.mono_us()
    targets = used(live.targets(now_us))
    write("")
    if targets:
        write_table(HEAD, target_lines(targets, now_us))
    else:
        write(UNUSED)


def _told(
    provider: Provider, live: Live | None, environ: Mapping[str, str]
) -> dict[str, object]:
    """Return what `--json` says of one provider."""
    now_us = clock.mono_us()
    targets = [] if live is None else used(live.targets(now_us))
    targets = [target for target in targets if target.provider == provider.name]
    marks = [] if live is None else live.credentials(now_us)
    by_id = {row.credential: row for row in marks if row.provider == provider.name}
    credentials = [
        {
            "id": credential.id,
            "fingerprint": _fingerprint(credential, environ),
            "status": _credential_status(by_id.get(credential.id)),
        }
        for credential in provider.credentials
    ]
    return {
        "name": provider.name,
        "vendor": provider.vendor,
        "base_url": provider.base_url or str(provider.origin),
        "status": "unknown" if live is None else _status(targets, credentials),
        "models": None if provider.models is None else list(provider.models),
        "credentials": credentials,
        "health": [
            {
                "model": target.model,
                "state": target.state,
                "error_rate": rounded(target.error_rate, 4),
                "p50_ttft_ms": rounded(target.p50_ttft_ms),
                "p50_latency_ms": rounded(target.p50_latency_ms),
                "in_flight": target.in_flight,
            }
            for target in targets
        ],
    }


def _status(targets: Sequence[LiveTarget], credentials: Sequence[Mapping[str, object]]) -> str:
    """Return `ok`, `degraded` where something is out of order, `down` where nothing serves."""
    broken = [target.state != "closed" for target in targets]
    refused = [credential["status"] == "rejected" for credential in credentials]
    if (broken and all(broken)) or (refused and all(refused)):
        return "down"
    cools = any(credential["status"] == "cooling" for credential in credentials)
    return "degraded" if cools or any(broken) or any(refused) else "ok"


def _credential_status(mark: LiveCredential | None) -> str:
    if mark is None:
        return "ok"
    if mark.rejected_until_us is not None:
        return "rejected"
    return "ok" if mark.cooling_until_us is None else "cooling"


def _fingerprint(credential: Credential, environ: Mapping[str, str]) -> str | None:
    """Return the key's family and end; None where this process cannot read it."""
    try:
        return follow(credential.reference, environ).fingerprint()
    except ValueError:
        return None


def _line(told: Mapping[str, object]) -> tuple[str, ...]:
    credentials = told["credentials"]
    assert isinstance(credentials, list), credentials
    keys = [
        f"{one['fingerprint'] or 'not readable here'}"
        + ("" if one["status"] == "ok" else f" ({one['status']})")
        for one in credentials
    ]
    name, vendor, status = (str(told[key]) for key in ("name", "vendor", "status"))
    return (name, vendor, status, ", ".join(keys) or "none", str(told["base_url"]))


# --- bounds --------------------------------------------------------------------------------


def _reset(deployment: Deployment, target: str) -> None:
    names = [provider.name for provider in deployment.config().providers]
    name, slash, model = target.partition("/")
    if not slash or not model:
        raise RefusedError(f"{shown(target)} is not PROVIDER/MODEL")
    if name not in names:
        raise RefusedError(f"unknown provider {shown(name)}{hint(name, names)}")
    learnt = _learnt(deployment)
    if learnt is not None and target not in learnt:
        among = f"; raised are {', '.join(learnt)}" if learnt else ""
        write(
            f"the bound of {shown(target)} is what its price says{hint(target, learnt)}{among}"
        )
        return
    deployment.db.add_bound_reset(target, deployment.who("providers --reset-bound"))
    if learnt is None:
        write("no server is running; the next start sets it back")
    elif _is_applied(deployment, target):
        write(f"set back the bound of {shown(target)}; it held {_factor(learnt[target])} of it")
    else:
        remark(
            f"the running server has not set it back in {APPLIED_WAIT_US // US_PER_S} s; it "
            "does so as soon as it can, its log says what keeps it"
        )


def _factor(permille: int) -> str:
    """Return a factor in thousandths as people read it."""
    whole, rest = divmod(permille, 1000)
    return f"{whole}.{rest:03} times".replace(".000", "")


def _learnt(deployment: Deployment) -> dict[str, int] | None:
    """Return the factors of models whose bound was raised; None where no server runs."""
    if serving_pid(deployment.data_dir) is None:
        return None
    state_dir = serving_state_dir(deployment.data_dir, deployment.config().server.state_dir)
    if state_dir is None:
        return None
    try:
        ledger = Ledger.open(state_dir)
        try:
            _, factors = ledger.bound_factors()
        finally:
            ledger.close()
    except LedgerError as failure:
        raise StoreError(f"{state_dir}: the ledger cannot be read: {failure}") from failure
    return {target: permille for target, permille, _ in factors if permille > 1000}


def _is_applied(deployment: Deployment, target: str) -> bool:
    deadline_us = clock.mono_us() + APPLIED_WAIT_US
    while target in (_learnt(deployment) or {}):
        if clock.mono_us() > deadline_us:
            return False
        clock.pause_s(APPLIED_LOOK_S)
    return True
