"""The ledger as the supervisor keeps it: trusted or made anew, recovered, taken in, swept.

The map in memory is believed only if it was made in this boot by this layout, is the very file
that was made, agrees with itself, and says no less than its copy on disk. Otherwise it is made
anew from the copy, and what was held then is charged in full: nobody is left who could prove
that it was not billed.

All of this runs in the keeper's thread. Each step may be killed at any point and is simply
taken again: a hold ends in the transaction that moves its money, a budget is taken in up to a
mark, and a map that was only half made anew is not trusted.
"""

import fcntl
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from modelux._native import (
    Ledger,
    LedgerError,
    LedgerInconsistentError,
    LedgerNotOursError,
)
from modelux.errors import StoreError
from modelux.log import Log
from modelux.store.copy import (
    DamagedCopyError,
    LedgerCopy,
    Named,
    cutoff_of,
    set_copy_aside,
)
from modelux.store.layout import (
    LAYOUT_VERSION,
    LEDGER_COPY_FILE,
    LEDGER_MAP_FILE,
    SLOTS_PREFIX,
    boot_id,
)
from modelux.store.row import LedgerRow
from modelux.supervisor.orders import PAST_S, BudgetOrder, Orders
from modelux.units import US_PER_S, MonoUs, UnixUs, usd_text

SWEEP_READERS_US: Final = 5 * US_PER_S
SWEEP_ROWS_US: Final = 60 * US_PER_S
STEADY_US: Final = 24 * 3_600 * US_PER_S
"""A clock that has not jumped for so long is believed when it says that a window is over: one
that jumped ahead and is put right again must find the rows that it had left."""
JUMP_US: Final = 60 * US_PER_S
"""Steps of the wall clock against the monotonic one that count as a jump."""
FULL_PARTS: Final = (3, 4)
"""What part of the map in use is worth a warning."""
WARN_AGAIN_US: Final = 600 * US_PER_S
PAUSE_S: Final = 0.05
RESETS_META: Final = "resets"
CLOCK_META: Final = "clock"

# `struct flock` on 64-bit Linux: type, whence, start, length, process; the kernel fills it in.
_FLOCK: Final = struct.Struct("hhqqi4x")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the ledger lies, and how large it is made."""

    state_dir: Path
    data_dir: Path
    map_bytes: int
    patience_us: int
    """How long workers of a former supervisor may take to end."""


@final
class Accounts:
    """One ledger and its copy, open for as long as the supervisor runs; for one thread."""

    def __init__(
        self,
        place: Place,
        log: Log,
        *,
        unix_us: Callable[[], UnixUs],
        mono_us: Callable[[], MonoUs],
        pause_s: Callable[[float], None],
        boot: str | None = None,
    ) -> None:
        self._place = place
        self._log = log
        self._unix_us = unix_us
        self._mono_us = mono_us
        self._pause_s = pause_s
        self._stamp = _stamp(boot_id() if boot is None else boot, unix_us())
        self._ledger: Ledger | None = None
        self._copy: LedgerCopy | None = None
        self._named: dict[bytes, Named] = {}
        self._noted: set[bytes] = set()
        self._credits: dict[bytes, int] = {}
        self._next_readers_us = self._next_rows_us = 0
        self._warned_us = -WARN_AGAIN_US
        self._offset_us: int | None = None
        self._steady_since_us = 0
        self._clock_said = ""

    # --- opening ---------------------------------------------------------------------------

    def open(self) -> None:
        """Open the ledger and its copy; make the ledger anew where it cannot be trusted.

        Raises:
            StoreError: One of them cannot be used, or workers of a former supervisor that
                still hold money in a ledger that cannot be trusted do not end.
        """
        copy = self._open_copy()
        try:
            ledger = self._open_map(copy)
        except LedgerError as failure:
            raise _unusable(failure) from failure
        if copy is None:
            aside = set_copy_aside(self._place.data_dir, self._unix_us())
            self._log.error("ledger_copy_set_aside", path=str(aside))
            copy = LedgerCopy(self._place.data_dir)
        self._ledger, self._copy = ledger, copy
        self._noted = copy.known()

    def _open_copy(self) -> LedgerCopy | None:
        try:
            return LedgerCopy(self._place.data_dir)
        except DamagedCopyError as failure:
            self._log.error("ledger_copy_damaged", why=str(failure))
            return None

    def _open_map(self, copy: LedgerCopy | None) -> Ledger:
        place = self._place
        if (place.state_dir / LEDGER_MAP_FILE).exists():
            ledger, why = self._judge_map(copy)
            if why is None:
                assert ledger is not None, "trusted, so opened"
                if copy is None or not self._is_to_grow(ledger):
                    return ledger
                why = self._put_into(copy, ledger)
            if ledger is not None:
                ledger.close()
        else:
            why = "it is gone"
            if copy is not None and not copy.known() and not copy.rows(self._cutoff_s()):
                return self._create()
        if copy is None:
            raise StoreError(
                f"the ledger in memory cannot be trusted ({why}), and its copy "
                f"{place.data_dir / LEDGER_COPY_FILE} is broken: move that file away to begin "
                "with what the traces show of each budget's window"
            )
        return self._make_anew(copy, why)

    def _judge_map(self, copy: LedgerCopy | None) -> tuple[Ledger | None, str | None]:
        """Return the map that is there, if it opens, and why it is not to be trusted."""
        try:
            ledger = self._create()
        except (LedgerNotOursError, LedgerInconsistentError) as failure:
            return None, str(failure)
        try:
            ledger.verify()
        except LedgerError as failure:
            return ledger, str(failure)
        rows = [] if copy is None else copy.rows(self._cutoff_s())
        return ledger, _less_than_copy(ledger, rows)

    def _is_to_grow(self, ledger: Ledger) -> bool:
        """Return whether a larger map is asked for, and nobody uses the one that is there."""
        is_small = ledger.info()["map_bytes"] < self._place.map_bytes
        return is_small and not living_generations(self._place.state_dir)

    def _put_into(self, copy: LedgerCopy, ledger: Ledger) -> str:
        """Bring all of the ledger into its copy, to be made anew; return why it is."""
        for generation in ledger.orphans():
            ledger.recover(generation)
        copy.write([LedgerRow.of(row) for row in ledger.rows()], {}, self._unix_us())
        return "it is to be larger"

    def _create(self) -> Ledger:
        place = self._place
        return Ledger.create(place.state_dir, map_bytes=place.map_bytes, stamp=self._stamp)

    def _make_anew(self, copy: LedgerCopy, why: str) -> Ledger:
        place = self._place
        self._wait_for_workers()
        rows = copy.rows(self._cutoff_s())
        Ledger.discard(place.state_dir)
        for slots in place.state_dir.glob(f"{SLOTS_PREFIX}*"):
            slots.unlink(missing_ok=True)
        ledger = self._create()
        # Marks first: killed before the rows, the map says less than the copy, and this is
        # done again; killed between rows and marks, budgets would be taken in twice.
        for budget_id in sorted(copy.known() | {row.budget_id for row in rows}):
            ledger.add_backfill(budget_id, [])
        # What was held is charged by the import.
        ledger.import_rows([row.values() for row in rows])
        self._log.warning(
            "ledger_rebuilt",
            why=why,
            rows=len(rows),
            spent_usd=usd_text(sum(row.spent_nusd + row.held_nusd for row in rows)),
            charged_for_holds_usd=usd_text(sum(row.held_nusd for row in rows)),
        )
        return ledger

    def _wait_for_workers(self) -> None:
        """Let workers of a former supervisor end: what they settle is in the map they know."""
        end_us = self._mono_us() + self._place.patience_us
        is_told = False
        while alive := living_generations(self._place.state_dir):
            if self._mono_us() >= end_us:
                raise StoreError(
                    "the ledger has to be made anew, and workers of a former `serve` still use "
                    f"the old one (generations {alive}): end them first"
                )
            if not is_told:
                self._log.warning("waiting_for_former_workers", generations=alive)
                is_told = True
            self._pause_s(PAUSE_S)

    # --- workers that died -----------------------------------------------------------------

    def orphans(self) -> list[int]:
        """Return the generations that left slots or holds, living ones included.

        Raises:
            StoreError: The ledger cannot be read; so do all of these.
        """
        try:
            return list(self._open_ledger.orphans())
        except LedgerError as failure:
            raise _unusable(failure) from failure

    def recover(self, generation: int) -> bool:
        """End every hold of a worker and remove its slots; False while it lives."""
        try:
            found = self._open_ledger.recover(generation)
        except LedgerError as failure:
            raise _unusable(failure) from failure
        if found["alive"]:
            return False
        if found["released"] or found["settled"] or found["crashed"]:
            self._log.warning(
                "holds_recovered",
                generation=generation,
                released=found["released"],
                settled=found["settled"],
                charged=found["crashed"],
                charged_usd=usd_text(found["crash_nusd"]),
            )
        return True

    # --- what the configuration asks for ---------------------------------------------------

    def apply(self, orders: Orders) -> None:
        """Bring the ledger to what is configured; doing it twice changes nothing."""
        self._named = {
            one.id: Named(name=one.name, cap_nusd=one.cap_nusd) for one in orders.budgets
        }
        try:
            for budget in orders.budgets:
                self._take_in(budget)
            self._note({one.id for one in orders.budgets} - self._noted)
            for credit in orders.credits:
                if self._credits.get(credit.key) != credit.nusd:
                    self._open_ledger.set_credits(
                        credit.key, credit.subject, credit.window_end_s, credit.nusd
                    )
                    self._credits[credit.key] = credit.nusd
            self._reset(orders)
        except LedgerError as failure:
            raise _unusable(failure) from failure

    def _take_in(self, budget: BudgetOrder) -> None:
        if self._open_ledger.knows_budget(budget.id):
            return
        rows = budget.spent(self._unix_us())
        spent = [(row.key, row.subject, row.window_end_s, row.spent_nusd) for row in rows]
        self._open_ledger.add_backfill(budget.id, spent)
        self._log.info(
            "budget_taken_in",
            budget=budget.name,
            rows=len(rows),
            spent_usd=usd_text(sum(row.spent_nusd for row in rows)),
        )

    def _note(self, budget_ids: set[bytes]) -> None:
        """Remember durably that these are in the ledger: after power loss, they were."""
        if not budget_ids:
            return
        rows = [row for row in self._rows() if row.budget_id in budget_ids]
        # In this order: a budget that is known begins with the rows that are copied.
        self._open_copy_file.write(rows, self._named, self._unix_us())
        self._open_copy_file.note_known(sorted(budget_ids))
        self._noted |= budget_ids

    def _reset(self, orders: Orders) -> None:
        done = int(self._open_copy_file.meta(RESETS_META) or 0)
        for reset in sorted(orders.resets, key=lambda one: one.id):
            if reset.id > done:
                self._open_ledger.reset_bound(reset.model)
                self._open_copy_file.set_meta(RESETS_META, str(reset.id))
                self._log.info("bound_reset", model=reset.model)

    # --- now and then ----------------------------------------------------------------------

    def sweep(self, now_us: MonoUs) -> None:
        """Free what dead readers hold, drop rows that are past, look at the map's use."""
        try:
            self._watch_clock(now_us)
            if now_us >= self._next_readers_us:
                self._next_readers_us = now_us + SWEEP_READERS_US
                self._open_ledger.clear_stale_readers()
                self._watch_room(now_us)
            if now_us >= self._next_rows_us:
                self._next_rows_us = now_us + SWEEP_ROWS_US
                if now_us - self._steady_since_us >= STEADY_US:
                    self._drop_past()
        except LedgerError as failure:
            raise _unusable(failure) from failure

    def _watch_clock(self, now_us: MonoUs) -> None:
        """Keep since when the wall clock has not jumped, over restarts in this boot."""
        offset_us = self._unix_us() - now_us
        if self._offset_us is None:
            self._offset_us, self._steady_since_us = self._clock_before(offset_us, now_us)
        if abs(offset_us - self._offset_us) > JUMP_US:
            self._log.warning(
                "clock_jumped", by_s=round((offset_us - self._offset_us) / US_PER_S)
            )
            self._offset_us, self._steady_since_us = offset_us, now_us
        said = f"{self._offset_us} {self._steady_since_us} {self._stamp}"
        if said != self._clock_said:
            self._open_copy_file.set_meta(CLOCK_META, said)
            self._clock_said = said

    def _clock_before(self, offset_us: int, now_us: MonoUs) -> tuple[int, int]:
        """Return the clock's offset and since when it holds, as noted earlier in this boot."""
        said = self._open_copy_file.meta(CLOCK_META) or ""
        offset, _, rest = said.partition(" ")
        since, _, stamp = rest.partition(" ")
        if stamp != self._stamp:
            return offset_us, now_us
        self._clock_said = said
        return int(offset), min(int(since), now_us)

    def _drop_past(self) -> None:
        cutoff_s = self._cutoff_s()
        txn_id, found = self._open_ledger.changed_since(0)
        past = [row for row in map(LedgerRow.of, found) if row.is_past(cutoff_s)]
        if not past:
            return
        # What leaves the map has to be in the copy, whoever was to have copied it.
        self._open_copy_file.write(past, self._named, self._unix_us())
        dropped = self._open_ledger.drop_past(cutoff_s, txn_id)
        self._log.debug("rows_dropped", rows=dropped)

    def _watch_room(self, now_us: MonoUs) -> None:
        found = self._open_ledger.info()
        part, of = FULL_PARTS
        if found["used_bytes"] * of < found["map_bytes"] * part:
            return
        if now_us - self._warned_us >= WARN_AGAIN_US:
            self._warned_us = now_us
            self._log.warning(
                "ledger_filling",
                used_bytes=found["used_bytes"],
                map_bytes=found["map_bytes"],
                fix="raise `server.state_map_bytes`, or lower `max_subjects` of `*` budgets",
            )

    def copy_all(self) -> None:
        """Copy every row to the disk, once nobody else does any more."""
        try:
            rows = self._rows()
        except LedgerError as failure:
            raise _unusable(failure) from failure
        self._open_copy_file.write(rows, self._named, self._unix_us())

    def close(self) -> None:
        """Let go of both files."""
        if self._ledger is not None:
            self._ledger.close()
        if self._copy is not None:
            self._copy.close()

    def _rows(self) -> list[LedgerRow]:
        return [LedgerRow.of(row) for row in self._open_ledger.rows()]

    @property
    def _open_ledger(self) -> Ledger:
        assert self._ledger is not None, "opened first"
        return self._ledger

    @property
    def _open_copy_file(self) -> LedgerCopy:
        assert self._copy is not None, "opened first"
        return self._copy

    def _cutoff_s(self) -> int:
        return cutoff_of(self._unix_us(), PAST_S)


def living_generations(state_dir: Path) -> list[int]:
    """Return the generations of workers that hold the lock on their slots."""
    found = []
    for path in state_dir.glob(f"{SLOTS_PREFIX}*"):
        generation = path.name.removeprefix(SLOTS_PREFIX)
        if generation.isdecimal() and _is_locked(path):
            found.append(int(generation))
    return sorted(found)


def _is_locked(path: Path) -> bool:
    """Return whether a process holds the lock on the first byte, as the owner of slots does."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked)
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
    finally:
        os.close(fd)


def _less_than_copy(ledger: Ledger, rows: list[LedgerRow]) -> str | None:
    """Return which row says less than its copy; money that was spent is never unspent."""
    spent = {row.key: row.spent_nusd for row in map(LedgerRow.of, ledger.rows())}
    for row in rows:
        found = spent.get(row.key, 0)
        if found < row.spent_nusd:
            return f"a row has {usd_text(found)} USD spent, its copy {usd_text(row.spent_nusd)}"
    return None


def _stamp(boot: str, now_us: UnixUs) -> str:
    # Where boots cannot be told apart, no two starts are of the same one.
    return f"{boot or now_us} {LAYOUT_VERSION}"


def _unusable(failure: LedgerError) -> StoreError:
    return StoreError(f"the ledger cannot be used: {failure}")
