"""The ledger over restarts and losses: what was spent is never less than its last copy."""

import json
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from modelux._native import Ledger, Slots, row_key
from modelux.errors import StoreError
from modelux.limits import MIB
from modelux.log import Log
from modelux.store.copy import LedgerCopy
from modelux.store.row import LedgerRow
from modelux.supervisor.accounts import (
    STEADY_US,
    Accounts,
    Place,
    living_generations,
)
from modelux.supervisor.orders import (
    PAST_S,
    BudgetOrder,
    CreditOrder,
    Orders,
    ResetOrder,
)
from modelux.units import US_PER_S, MonoUs, UnixUs

BUDGET: Final = b"b" * 16
OTHER: Final = b"o" * 16
KEY: Final = row_key(BUDGET, None, 0)
USD: Final = 1_000_000_000
NOON: Final = 1_800_000_000
MAP_BYTES: Final = 4 * MIB


class Bank:
    """One deployment's two directories, its clocks, and what was logged."""

    def __init__(self, root: Path) -> None:
        self.state = root / "state"
        self.data = root / "data"
        self.lines: list[dict[str, Any]] = []
        self.unix_s = NOON
        self.mono_us = 10**9
        self.paused: list[Callable[[], object]] = []
        self.opened: list[Accounts] = []
        for folder in (self.state, self.data):
            folder.mkdir()

    def open(self, boot: str = "this boot", map_bytes: int = MAP_BYTES) -> Accounts:
        """Open the ledger as a start of `serve` does, with no other open."""
        while self.opened:
            self.opened.pop().close()
        place = Place(
            state_dir=self.state,
            data_dir=self.data,
            map_bytes=map_bytes,
            patience_us=5 * US_PER_S,
        )
        accounts = Accounts(
            place,
            Log(
                "keeper",
                human=False,
                write=lambda line: self.lines.append(json.loads(line)),
                now=lambda: UnixUs(0),
            ),
            unix_us=lambda: UnixUs(self.unix_s * US_PER_S),
            mono_us=lambda: MonoUs(self.mono_us),
            pause_s=self.pause,
            boot=boot,
        )
        self.opened.append(accounts)
        accounts.open()
        return accounts

    def pause(self, seconds: float) -> None:
        self.mono_us += round(seconds * US_PER_S)
        while self.paused:
            self.paused.pop()()

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == name]


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    found = Bank(tmp_path)
    yield found
    for accounts in found.opened:
        accounts.close()


def ledger_of(accounts: Accounts) -> Ledger:
    assert accounts._ledger is not None
    return accounts._ledger


class Worker:
    """Holds and settles as a worker does."""

    def __init__(self, bank: Bank, accounts: Accounts, generation: int) -> None:
        self.ledger = ledger_of(accounts).as_worker(generation)
        self.slots = Slots(bank.state, generation, 16)
        self.seq = 0

    def hold(self, amount: int, key: bytes = KEY, end_s: int | None = None) -> tuple[int, int]:
        slot = self.slots.take()
        assert slot is not None
        self.seq += 1

        def steps() -> Generator[Any, object, None]:
            yield ("hold", self.seq, slot, amount, [(key, "", end_s)])

        self.ledger.turn(steps())
        self.slots.held(slot, self.seq)
        return self.seq, slot

    def send(self, held: tuple[int, int], charge_if_dead: int) -> None:
        self.slots.sent(held[1], charge_if_dead)

    def settle(self, held: tuple[int, int], charge: int) -> None:
        def steps() -> Generator[Any, object, None]:
            yield ("settle", held[0], charge)

        self.ledger.turn(steps())
        self.slots.free(held[1])

    def spend(self, amount: int, key: bytes = KEY, end_s: int | None = None) -> None:
        self.settle(self.hold(amount, key, end_s), amount)

    def die(self) -> None:
        self.ledger.close()
        self.slots.close()


def row(accounts: Accounts, key: bytes = KEY) -> LedgerRow:
    found = ledger_of(accounts).row(key)
    return LedgerRow(key, "", 0, None) if found is None else LedgerRow.of(found)


def copied(bank: Bank) -> list[LedgerRow]:
    copy = LedgerCopy(bank.data)
    rows = copy.rows(0)
    copy.close()
    return rows


def order(rows: Sequence[LedgerRow] = (), budget_id: bytes = BUDGET) -> BudgetOrder:
    return BudgetOrder(id=budget_id, name="team-ml", cap_nusd=100 * USD, spent=lambda _: rows)


# --- starts and losses ---------------------------------------------------------------------


def test_the_first_start_has_nothing_to_make_anew(bank: Bank) -> None:
    accounts = bank.open()
    assert ledger_of(accounts).rows() == []
    assert bank.lines == []


def test_a_restart_in_the_same_boot_finds_everything(bank: Bank) -> None:
    worker = Worker(bank, bank.open(), 1)
    worker.spend(5 * USD)
    held = worker.hold(2 * USD)
    worker.send(held, 2 * USD)
    worker.die()
    # Never copied: it is the map that is believed.
    found = row(bank.open())
    assert (found.spent_nusd, found.held_nusd) == (5 * USD, 2 * USD)
    assert bank.lines == []


def lose_all(bank: Bank) -> None:
    shutil.rmtree(bank.state)
    bank.state.mkdir()


def tear(bank: Bank) -> None:
    """A copy of which the second half is not written, in the place of the map."""
    path = bank.state / "ledger.mdb"
    torn = bytearray(path.read_bytes())
    torn[len(torn) // 2 :] = bytes(len(torn) - len(torn) // 2)
    path.unlink()
    path.write_bytes(torn)


def shorten(bank: Bank) -> None:
    with (bank.state / "ledger.mdb").open("r+b") as file:
        file.truncate(MAP_BYTES // 2)


def empty(bank: Bank) -> None:
    (bank.state / "ledger.mdb").write_bytes(b"")


def overwrite(bank: Bank) -> None:
    (bank.state / "ledger.mdb").write_bytes(b"x" * MAP_BYTES)


def nothing(_: Bank) -> None:
    pass


@pytest.mark.parametrize(
    ("lose", "boot"),
    [
        (lose_all, "this boot"),
        (tear, "this boot"),
        (shorten, "this boot"),
        (empty, "this boot"),
        (overwrite, "this boot"),
        (nothing, "the next boot"),
    ],
)
def test_a_ledger_that_cannot_be_trusted_is_made_anew_from_the_last_copy(
    bank: Bank, lose: Callable[[Bank], None], boot: str
) -> None:
    accounts = bank.open()
    worker = Worker(bank, accounts, 1)
    worker.spend(5 * USD)
    worker.send(worker.hold(2 * USD), 1)
    accounts.copy_all()
    worker.spend(USD)  # After the last copy: this is what a power loss may cost.
    worker.die()
    accounts.close()
    lose(bank)
    accounts = bank.open(boot)
    found = row(accounts)
    assert (found.spent_nusd, found.held_nusd) == (7 * USD, 0)
    assert found.crash_nusd == 2 * USD
    (said,) = bank.events("ledger_rebuilt")
    assert said["rows"] == 1
    assert said["spent_usd"] == "7.000000000"
    assert said["charged_for_holds_usd"] == "2.000000000"
    ledger_of(accounts).verify()
    assert accounts.orphans() == []
    # And the next start believes it.
    bank.lines.clear()
    assert row(bank.open(boot)) == found
    assert bank.lines == []


def test_an_older_copy_put_back_into_the_very_file_is_noticed(bank: Bank) -> None:
    accounts = bank.open()
    worker = Worker(bank, accounts, 1)
    worker.spend(USD)
    path = bank.state / "ledger.mdb"
    older = path.read_bytes()
    worker.spend(USD)
    accounts.copy_all()
    worker.die()
    accounts.close()
    with path.open("r+b") as file:
        file.write(older)
    assert row(bank.open()).spent_nusd == 2 * USD
    assert (
        "1.000000000 USD spent, its copy 2.000000000" in bank.events("ledger_rebuilt")[0]["why"]
    )


def test_a_start_killed_while_it_made_the_ledger_anew_begins_again(bank: Bank) -> None:
    accounts = bank.open()
    worker = Worker(bank, accounts, 1)
    worker.spend(5 * USD)
    accounts.apply(Orders(budgets=[order()]))
    accounts.copy_all()
    worker.die()
    accounts.close()
    lose_all(bank)
    # Killed after the marks, before the rows.
    half = Ledger.create(bank.state, map_bytes=MAP_BYTES, stamp=accounts._stamp)
    half.add_backfill(BUDGET, [])
    half.close()
    accounts = bank.open()
    assert row(accounts).spent_nusd == 5 * USD
    assert len(bank.events("ledger_rebuilt")) == 1


def test_power_lost_twice_before_the_next_copy_charges_holds_once(bank: Bank) -> None:
    accounts = bank.open()
    worker = Worker(bank, accounts, 1)
    worker.hold(2 * USD)
    accounts.copy_all()
    worker.die()
    for boot in ("second", "third"):
        assert row(bank.open(boot)).spent_nusd == 2 * USD


def test_windows_that_are_long_over_are_not_brought_back(bank: Bank) -> None:
    accounts = bank.open()
    worker = Worker(bank, accounts, 1)
    over_s, fresh_s = NOON - PAST_S, NOON - PAST_S + 1
    worker.spend(USD, row_key(BUDGET, None, 1), over_s)
    worker.spend(USD, row_key(BUDGET, None, 2), fresh_s)
    accounts.copy_all()
    worker.die()
    rows = ledger_of(bank.open("next")).rows()
    assert [LedgerRow.of(one).window_end_s for one in rows] == [fresh_s]


def test_a_start_waits_for_workers_that_still_use_a_ledger_that_is_given_up(
    bank: Bank,
) -> None:
    worker = Worker(bank, bank.open(), 7)
    worker.ledger.close()  # One process, one map; its slots stay locked.
    bank.paused.append(worker.slots.close)
    bank.open("next")
    assert bank.events("waiting_for_former_workers")[0]["generations"] == [7]
    assert len(bank.events("ledger_rebuilt")) == 1


def test_workers_that_never_end_keep_the_ledger_from_being_given_up(bank: Bank) -> None:
    worker = Worker(bank, bank.open(), 7)
    worker.spend(USD)
    worker.ledger.close()
    before = (bank.state / "ledger.mdb").stat().st_ino
    with pytest.raises(StoreError, match=r"generations \[7\]"):
        bank.open("next")
    assert (bank.state / "ledger.mdb").stat().st_ino == before
    worker.slots.close()


def test_only_slots_whose_owner_lives_count_as_living(bank: Bank) -> None:
    slots = Slots(bank.state, 3, 1)
    Slots(bank.state, 4, 1).close()
    (bank.state / "slots.x").write_bytes(b"")
    (bank.state / "slots.5").mkdir()
    assert living_generations(bank.state) == [3]
    slots.close()
    assert living_generations(bank.state) == []


def test_a_broken_copy_beside_a_ledger_that_is_whole_is_made_anew_from_it(
    bank: Bank,
) -> None:
    accounts = bank.open()
    worker = Worker(bank, accounts, 1)
    worker.spend(5 * USD)
    accounts.copy_all()
    worker.die()
    accounts.close()
    for path in bank.data.glob("ledger.db*"):
        path.unlink()
    (bank.data / "ledger.db").write_bytes(b"torn" * 4_096)
    accounts = bank.open()
    assert row(accounts).spent_nusd == 5 * USD
    assert len(list(bank.data.glob("ledger.db.damaged-*"))) == 1
    accounts.copy_all()
    assert [one.spent_nusd for one in copied(bank)] == [5 * USD]


def test_with_ledger_and_copy_both_lost_nothing_starts_and_it_says_what_to_do(
    bank: Bank,
) -> None:
    bank.open().close()
    lose_all(bank)
    for path in bank.data.glob("ledger.db*"):
        path.unlink()
    (bank.data / "ledger.db").write_bytes(b"torn" * 4_096)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"move that file away"):
            bank.open()
    (bank.data / "ledger.db").unlink()
    assert ledger_of(bank.open()).rows() == []


def test_a_ledger_that_has_no_room_is_refused_with_the_reason(bank: Bank) -> None:
    with pytest.raises(StoreError, match="cannot be used"):
        bank.open(map_bytes=1)


def test_a_ledger_that_is_to_be_larger_is_made_anew_and_loses_nothing(bank: Bank) -> None:
    """Never copied before: what is in the map only must get into the larger one."""
    worker = Worker(bank, bank.open(), 3)
    worker.spend(5 * USD)
    worker.hold(3 * USD)
    worker.send(worker.hold(2 * USD), USD)
    worker.die()
    accounts = bank.open(map_bytes=2 * MAP_BYTES)
    found = row(accounts)
    assert (found.spent_nusd, found.held_nusd, found.crash_nusd) == (6 * USD, 0, USD)
    assert ledger_of(accounts).info()["map_bytes"] == 2 * MAP_BYTES
    (said,) = bank.events("ledger_rebuilt")
    assert said["why"] == "it is to be larger"
    # One that is to be smaller stays as large as it is.
    assert ledger_of(bank.open()).info()["map_bytes"] == 2 * MAP_BYTES


def test_a_ledger_that_living_workers_use_grows_another_time(bank: Bank) -> None:
    worker = Worker(bank, bank.open(), 3)
    worker.ledger.close()
    accounts = bank.open(map_bytes=2 * MAP_BYTES)
    assert ledger_of(accounts).info()["map_bytes"] == MAP_BYTES
    worker.slots.close()


# --- workers that died ---------------------------------------------------------------------


def test_what_was_sent_is_charged_and_what_was_not_is_released_once(bank: Bank) -> None:
    accounts = bank.open()
    worker = Worker(bank, accounts, 3)
    worker.hold(4 * USD)
    worker.send(worker.hold(2 * USD), USD)
    done = worker.hold(2 * USD)
    worker.send(done, 2 * USD)
    worker.slots.done(done[1], USD // 2)
    assert not accounts.recover(3)
    worker.die()
    assert accounts.orphans() == [3]
    assert accounts.recover(3)
    after = row(accounts)
    assert (after.spent_nusd, after.held_nusd) == (USD + USD // 2, 0)
    assert after.crash_nusd == USD
    assert accounts.recover(3)
    assert row(accounts) == after
    assert accounts.orphans() == []
    (said,) = bank.events("holds_recovered")
    assert (said["released"], said["settled"], said["charged"]) == (1, 1, 1)
    assert said["charged_usd"] == "1.000000000"


def test_a_worker_that_held_nothing_leaves_nothing_to_say(bank: Bank) -> None:
    accounts = bank.open()
    Worker(bank, accounts, 3).die()
    assert accounts.recover(3)
    assert accounts.orphans() == []
    assert bank.lines == []


# --- what the configuration asks for -------------------------------------------------------


def shown(spent: int, budget_id: bytes = BUDGET) -> LedgerRow:
    return LedgerRow(row_key(budget_id, None, 0), "", 0, None, spent_nusd=spent)


def test_a_budget_begins_at_what_the_traces_show_once(bank: Bank) -> None:
    accounts = bank.open()
    accounts.apply(Orders(budgets=[order([shown(7 * USD)])]))
    accounts.apply(Orders(budgets=[order([shown(9 * USD)])]))
    assert row(accounts).spent_nusd == 7 * USD
    accounts = bank.open()
    accounts.apply(Orders(budgets=[order([shown(9 * USD)])]))
    assert row(accounts).spent_nusd == 7 * USD
    assert [said["spent_usd"] for said in bank.events("budget_taken_in")] == ["7.000000000"]


@pytest.mark.parametrize("spent", [0, 7 * USD])
def test_a_budget_that_was_taken_in_stays_so_over_power_loss(bank: Bank, spent: int) -> None:
    """At once: the trace writer has not copied anything yet."""
    bank.open().apply(Orders(budgets=[order([shown(spent)] if spent else [])]))
    accounts = bank.open("next")
    accounts.apply(Orders(budgets=[order([shown(9 * USD)])]))
    assert row(accounts).spent_nusd == spent


def test_a_budget_killed_between_its_mark_and_its_copy_is_copied_by_the_next_start(
    bank: Bank,
) -> None:
    accounts = bank.open()
    ledger_of(accounts).add_backfill(BUDGET, [(KEY, "", None, 7 * USD)])
    bank.open().apply(Orders(budgets=[order([shown(9 * USD)])]))
    accounts = bank.open("next")
    accounts.apply(Orders(budgets=[order([shown(9 * USD)])]))
    assert row(accounts).spent_nusd == 7 * USD


def test_a_trace_store_that_cannot_be_read_refuses_the_orders_and_is_asked_again(
    bank: Bank,
) -> None:
    def broken(_: UnixUs) -> list[LedgerRow]:
        raise StoreError("traces/2027-01-15.db: broken")

    accounts = bank.open()
    bad = BudgetOrder(id=BUDGET, name="team-ml", cap_nusd=USD, spent=broken)
    with pytest.raises(StoreError, match="broken"):
        accounts.apply(Orders(budgets=[bad]))
    accounts.apply(Orders(budgets=[order([shown(7 * USD)])]))
    assert row(accounts).spent_nusd == 7 * USD


def test_credits_are_what_they_sum_to_however_often_they_are_said(bank: Bank) -> None:
    def credited(nusd: int) -> Orders:
        credit = CreditOrder(key=KEY, subject="", window_end_s=None, nusd=nusd)
        return Orders(budgets=[order()], credits=[credit])

    accounts = bank.open()
    for nusd in (3 * USD, 3 * USD, 5 * USD):
        accounts.apply(credited(nusd))
        assert row(accounts).credits_nusd == nusd
    accounts = bank.open()
    accounts.apply(credited(5 * USD))
    assert row(accounts).credits_nusd == 5 * USD


def overrun(accounts: Accounts) -> None:
    def steps() -> Generator[Any, object, None]:
        for at_us in range(1, 4):
            yield ("overrun", "openai/gpt-5", 20, 10, at_us)

    ledger_of(accounts).turn(steps())


def test_the_reset_of_a_bound_is_obeyed_once(bank: Bank) -> None:
    resets = Orders(resets=[ResetOrder(id=4, model="openai/gpt-5")])
    accounts = bank.open()
    overrun(accounts)
    accounts.apply(resets)
    assert ledger_of(accounts).bound_factors()[1] == []
    overrun(accounts)
    accounts.apply(resets)
    accounts = bank.open()
    accounts.apply(resets)
    assert ledger_of(accounts).bound_factors()[1] == [("openai/gpt-5", 2_200, 2_000)]


# --- now and then --------------------------------------------------------------------------


def sweep(bank: Bank, accounts: Accounts, after_us: int = 0) -> None:
    bank.mono_us += after_us
    bank.unix_s += after_us // US_PER_S
    accounts.sweep(MonoUs(bank.mono_us))


def has_past_row(accounts: Accounts) -> bool:
    return row(accounts, row_key(BUDGET, None, 1)).spent_nusd > 0


def with_past_row(bank: Bank, accounts: Accounts) -> Worker:
    worker = Worker(bank, accounts, 1)
    worker.spend(USD, row_key(BUDGET, None, 1), NOON - PAST_S)
    worker.spend(USD)
    return worker


def test_a_window_long_over_leaves_the_map_and_stays_in_the_copy(bank: Bank) -> None:
    accounts = bank.open()
    with_past_row(bank, accounts)
    sweep(bank, accounts)
    sweep(bank, accounts, STEADY_US - US_PER_S)
    assert has_past_row(accounts)
    sweep(bank, accounts, 120 * US_PER_S)
    assert not has_past_row(accounts)
    assert row(accounts).spent_nusd == USD
    assert [one.window_start_s for one in copied(bank)] == [1]
    # What left it is not missed at the next start.
    bank.open()
    assert bank.events("ledger_rebuilt") == []


def test_a_window_that_holds_something_stays(bank: Bank) -> None:
    accounts = bank.open()
    worker = with_past_row(bank, accounts)
    worker.hold(USD, row_key(BUDGET, None, 1), NOON - PAST_S)
    sweep(bank, accounts)
    sweep(bank, accounts, STEADY_US + US_PER_S)
    assert has_past_row(accounts)


def test_a_clock_that_has_just_jumped_is_not_believed(bank: Bank) -> None:
    accounts = bank.open()
    with_past_row(bank, accounts)
    sweep(bank, accounts)
    sweep(bank, accounts, STEADY_US - US_PER_S)
    bank.unix_s += 3_600
    sweep(bank, accounts, 120 * US_PER_S)
    assert has_past_row(accounts)
    assert bank.events("clock_jumped")[0]["by_s"] == 3_600
    sweep(bank, accounts, STEADY_US)
    assert not has_past_row(accounts)


def test_how_long_the_clock_was_steady_is_known_over_restarts_of_one_boot(
    bank: Bank,
) -> None:
    accounts = bank.open()
    with_past_row(bank, accounts).die()
    sweep(bank, accounts)
    accounts = bank.open()
    sweep(bank, accounts, STEADY_US + US_PER_S)
    assert not has_past_row(accounts)


def test_a_map_that_fills_up_is_told_before_it_is_full_and_not_each_time(bank: Bank) -> None:
    accounts = bank.open()
    subjects = [
        LedgerRow(row_key(OTHER, [f"{n:06}"], 0), f"{n:06}", 0, None, spent_nusd=1)
        for n in range(11_500)
    ]
    sweep(bank, accounts)
    assert bank.events("ledger_filling") == []
    accounts.apply(Orders(budgets=[order(subjects, OTHER)]))
    for _ in range(3):
        sweep(bank, accounts, 6 * US_PER_S)
    (said,) = bank.events("ledger_filling")
    assert said["used_bytes"] * 4 >= said["map_bytes"] * 3
    assert "state_map_bytes" in said["fix"]


def test_a_full_disk_fails_the_copy_and_harms_nothing_else(bank: Bank) -> None:
    accounts = bank.open()
    worker = Worker(bank, accounts, 1)
    worker.spend(USD)
    copy = accounts._copy
    assert copy is not None
    pages = copy._connection.execute("PRAGMA page_count").fetchone()[0]
    copy._connection.execute(f"PRAGMA max_page_count = {pages}")
    many = [shown(1, n.to_bytes(16, "big")) for n in range(2_000)]
    accounts.apply(Orders(budgets=[order(many[:1], many[0].budget_id)]))
    with pytest.raises(StoreError, match="full"):
        copy.write(many, {}, UnixUs(0))
    worker.spend(USD)
    copy._connection.execute("PRAGMA max_page_count = 1000000")
    accounts.copy_all()
    assert max(one.spent_nusd for one in copied(bank)) == 2 * USD
