"""`modelux providers`: set back what was learnt of a model that billed more than its bound."""

import argparse
from typing import Final

from modelux import clock
from modelux._native import Ledger, LedgerError
from modelux.cli.deployment import Deployment, add_data_dir, open_deployment, remark, write
from modelux.config.read import hint, shown
from modelux.errors import RefusedError, StoreError
from modelux.store.budgets import serving_state_dir
from modelux.supervisor.lock import serving_pid
from modelux.units import US_PER_S

APPLIED_WAIT_US: Final = 5 * US_PER_S
APPLIED_LOOK_S: Final = 0.02


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--reset-bound",
        required=True,
        metavar="MODEL",
        help="PROVIDER/MODEL: hold what its price says again, and no more for past overruns",
    )
    add_data_dir(parser)


def run(args: argparse.Namespace) -> int:
    """Do it; return the exit code.

    Raises:
        RefusedError: There is no such provider.
        StoreError: `control.db` or the ledger cannot be used.
    """
    with open_deployment(args, is_reading=False) as deployment:
        _reset(deployment, args.reset_bound)
    return 0


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
