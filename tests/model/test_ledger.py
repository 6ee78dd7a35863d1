"""The real ledger beside a small model: any reserve, settle and edit, with kills in between.

Some workers are processes of their own and really killed, before any single step of a turn or
of what follows it. The model knows what was committed; the ledger has to agree with it to the
last nano-dollar after every step, and again after it was rebuilt from a copy.
"""

import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from modelux._native import Ledger, row_key
from tests.model.ledger_worker import (
    SLOTS,
    Command,
    FarWorker,
    LedgerRow,
    NearWorker,
    Reserve,
    Row,
    Settle,
    SlotStep,
)

MAP_BYTES: Final = 4 << 20
BUDGETS: Final = (b"o" * 16, b"t" * 16, b"u" * 16)
WINDOW_S: Final = 86_400
STAMP: Final = "boot"

amounts = st.integers(0, 400)
caps = st.sampled_from([0, 300, 1_000, 2_500])
choices = st.integers(0, 10**6)
kills = st.none() | st.none() | st.integers(0, 14)


@dataclass
class Held:
    """A hold that was committed, and what its slot says."""

    generation: int
    seq: int
    slot: int
    amount_nusd: int
    rows: list[Row]
    phase: str = "free"
    charge_if_dead: int = 0


@dataclass
class Sums:
    """What a row must say."""

    spent: int = 0
    clipped: int = 0
    overrun: int = 0
    crash: int = 0
    credits: int = 0
    ceiling: int = 0
    holds: dict[tuple[int, int], int] = field(default_factory=dict)


class LedgerBesideModel(RuleBasedStateMachine):
    """The model: for each row its sums, for each hold that lives its rows and phase."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.dir = Path(self.folder.name)
        self.keeper = Ledger.create(self.dir, map_bytes=MAP_BYTES, stamp=STAMP)
        self.workers: dict[int, NearWorker | FarWorker] = {}
        self.dead: set[int] = set()
        self.free: dict[int, list[int]] = {}
        self.generation = 0
        self.seq = 0
        self.day = 0
        self.caps = dict.fromkeys(BUDGETS, 1_000)
        self.known: set[bytes] = set()
        self.holds: dict[tuple[int, int], Held] = {}
        self.model: defaultdict[str, Sums] = defaultdict(Sums)
        self.seen: dict[str, int] = {}
        self.copied = 0
        self.copy: dict[str, LedgerRow] = {}

    def teardown(self) -> None:
        for generation in list(self.workers):
            self.die(generation)
        for generation in list(self.dead):
            self.recover(generation)
        assert not self.holds
        self.rows_say_what_the_model_says()
        assert self.keeper.orphans() == []
        self.keeper.close()
        self.folder.cleanup()

    # --- the model -----------------------------------------------------------------------

    def rows(self, user: int | None) -> list[Row]:
        """Return the rows that a request counts against: two budgets, and one user's."""
        start_s = self.day * WINDOW_S
        subjects: list[tuple[bytes, str | None]] = [(BUDGETS[0], None), (BUDGETS[1], None)]
        if user is not None:
            subjects.append((BUDGETS[2], f"user-{user}"))
        return [
            Row(
                row_key(budget, None if name is None else [name], start_s).hex(),
                name or "",
                start_s + WINDOW_S,
                self.caps[budget],
            )
            for budget, name in subjects
        ]

    def fits(self, amount_nusd: int, rows: list[Row]) -> bool:
        return all(
            sums.spent + sum(sums.holds.values()) + amount_nusd <= row.cap_nusd + sums.credits
            for row in rows
            for sums in [self.model[row.key]]
        )

    def held(self, hold: Held) -> None:
        key = hold.generation, hold.seq
        self.holds[key] = hold
        for row in hold.rows:
            sums = self.model[row.key]
            sums.holds[key] = hold.amount_nusd
            sums.ceiling = max(sums.ceiling, row.cap_nusd + sums.credits)

    def ended(self, hold: Held, charge_nusd: int, *, crash: bool = False) -> None:
        key = hold.generation, hold.seq
        del self.holds[key]
        for row in hold.rows:
            sums = self.model[row.key]
            del sums.holds[key]
            sums.spent += charge_nusd
            sums.clipped += min(charge_nusd, hold.amount_nusd)
            sums.overrun += max(0, charge_nusd - hold.amount_nusd)
            sums.crash += charge_nusd if crash else 0

    def die(self, generation: int) -> None:
        self.workers.pop(generation).close()
        self.dead.add(generation)

    def of(self, generation: int) -> list[Held]:
        return [hold for hold in self.holds.values() if hold.generation == generation]

    def pick(self, choice: int) -> int:
        return sorted(self.workers)[choice % len(self.workers)]

    # --- workers -------------------------------------------------------------------------

    @precondition(lambda self: len(self.workers) < 3)
    @rule(far=st.sampled_from([False, False, True]))
    def start(self, *, far: bool) -> None:
        self.generation += 1
        kind = FarWorker if far else NearWorker
        self.workers[self.generation] = kind(self.keeper, self.dir, self.generation)
        self.free[self.generation] = list(range(SLOTS))

    @precondition(lambda self: self.workers)
    @rule(
        choice=choices,
        reserves=st.lists(st.tuples(amounts, st.none() | st.integers(0, 3)), max_size=3),
        settles=st.lists(st.tuples(choices, amounts), max_size=3),
        kill_at=kills,
    )
    def turn(
        self,
        choice: int,
        reserves: list[tuple[int, int | None]],
        settles: list[tuple[int, int]],
        kill_at: int | None,
    ) -> None:
        """Settle, reserve, commit, then tell the slots; perhaps die before any of the steps."""
        generation = self.pick(choice)
        worker, free = self.workers[generation], self.free[generation]
        ends: dict[int, tuple[Held, int]] = {}
        mine = self.of(generation)
        for which, charge_nusd in settles if mine else []:
            hold = mine[which % len(mine)]
            # What a slot says is done is what is settled.
            final_nusd = hold.charge_if_dead if hold.phase == "done" else charge_nusd
            ends.setdefault(hold.seq, (hold, final_nusd))
        begins: list[Held] = []
        for amount_nusd, user in reserves[: len(free)]:
            self.seq += 1
            slot = free[len(begins)]
            begins.append(Held(generation, self.seq, slot, amount_nusd, self.rows(user)))
        commands: list[Command] = [Settle(seq, charge) for seq, (_, charge) in ends.items()]
        commands += [Reserve(new.seq, new.slot, new.amount_nusd, new.rows) for new in begins]
        commands += [SlotStep("free", [hold.slot]) for hold, _ in ends.values()]
        # The slots of what is refused are told, too: they are free for the next turn anyway.
        commands += [SlotStep("held", [new.slot, new.seq]) for new in begins]
        steps_inside = self.steps_inside(ends, begins)
        answers = worker.run(commands, kill_at)
        if answers is None:
            assert kill_at is not None
            del self.workers[generation]
            self.dead.add(generation)
            if kill_at <= steps_inside:
                return
            told = kill_at - steps_inside - 1 - len(ends)
        else:
            assert answers[: len(ends)] == [True] * len(ends)
            told = len(begins)
        for hold, charge_nusd in ends.values():
            self.ended(hold, charge_nusd)
        taken = [new for new in begins if self.take(new)]
        if answers is not None:
            assert answers[len(ends) :] == [new in taken for new in begins]
        for new in begins[: max(told, 0)]:
            new.phase = "held"
        free.extend(hold.slot for hold, _ in ends.values())
        for new in taken:
            free.remove(new.slot)

    def take(self, new: Held) -> bool:
        if not self.fits(new.amount_nusd, new.rows):
            return False
        self.held(new)
        return True

    def steps_inside(self, ends: dict[int, tuple[Held, int]], begins: list[Held]) -> int:
        """Return how many steps the transaction has, by the model alone."""
        spent: defaultdict[str, int] = defaultdict(int)
        for hold, charge_nusd in ends.values():
            for row in hold.rows:
                spent[row.key] += charge_nusd - hold.amount_nusd
        steps = len(ends)
        for new in begins:
            steps += len(new.rows)
            fits = all(
                sums.spent + sum(sums.holds.values()) + spent[row.key] + new.amount_nusd
                <= row.cap_nusd + sums.credits
                for row in new.rows
                for sums in [self.model[row.key]]
            )
            if fits:
                steps += 1
                for row in new.rows:
                    spent[row.key] += new.amount_nusd
        return steps

    @precondition(lambda self: self.workers)
    @rule(choice=choices, which=choices, charge=amounts, kill_at=st.none() | st.just(1))
    def go_on(self, choice: int, which: int, charge: int, kill_at: int | None) -> None:
        """Send, count or finish one request; perhaps die before its slot says so."""
        generation = self.pick(choice)
        live = [hold for hold in self.of(generation) if hold.phase != "done"]
        if not live:
            return
        hold = live[which % len(live)]
        following = {"free": "held", "held": "sent", "sent": ("progress", "done")[which % 2]}
        method = following[hold.phase]
        argument = hold.seq if method == "held" else charge
        step = SlotStep(method, [hold.slot, argument])
        if self.workers[generation].run([step], kill_at) is None:
            del self.workers[generation]
            self.dead.add(generation)
            return
        match method:
            case "progress":
                hold.charge_if_dead = max(hold.charge_if_dead, charge)
            case "held":
                hold.phase = "held"
            case _:
                hold.phase, hold.charge_if_dead = method, charge

    @precondition(lambda self: self.workers)
    @rule(choice=choices)
    def is_killed(self, choice: int) -> None:
        self.die(self.pick(choice))

    # --- the supervisor ------------------------------------------------------------------

    @precondition(lambda self: self.dead)
    @rule(choice=choices)
    def recover_one(self, choice: int) -> None:
        self.recover(sorted(self.dead)[choice % len(self.dead)])

    def recover(self, generation: int) -> None:
        mine = self.of(generation)
        by_phase = [hold.phase for hold in mine]
        for hold in mine:
            charge_nusd = hold.charge_if_dead if hold.phase in {"sent", "done"} else 0
            self.ended(hold, charge_nusd, crash=hold.phase == "sent")
        recovered = self.keeper.recover(generation)
        assert not recovered["alive"]
        assert recovered["settled"] == by_phase.count("done")
        assert recovered["crashed"] == by_phase.count("sent")
        assert recovered["released"] == by_phase.count("held") + by_phase.count("free")
        assert self.keeper.recover(generation)["released"] == 0
        self.dead.remove(generation)

    @precondition(lambda self: self.workers)
    @rule(choice=choices)
    def a_living_worker_keeps_its_holds(self, choice: int) -> None:
        assert self.keeper.recover(self.pick(choice))["alive"]

    @rule(budget=st.sampled_from(BUDGETS), cap_nusd=caps)
    def edit_cap(self, budget: bytes, cap_nusd: int) -> None:
        self.caps[budget] = cap_nusd

    @rule(user=st.none() | st.integers(0, 3), nusd=amounts)
    def credit(self, user: int | None, nusd: int) -> None:
        row = self.rows(user)[-1]
        sums = self.model[row.key]
        # As the sum of a list that only grows.
        sums.credits += nusd
        self.keeper.set_credits(bytes.fromhex(row.key), row.subject, row.end_s, sums.credits)

    @rule(day=st.integers(0, 2))
    def clock_jumps(self, day: int) -> None:
        self.day = day

    @rule(user=st.integers(0, 3), nusd=amounts)
    def backfill(self, user: int, nusd: int) -> None:
        row = self.rows(user)[-1]
        budget = BUDGETS[2]
        was_new = self.keeper.add_backfill(
            budget, [(bytes.fromhex(row.key), row.subject, row.end_s, nusd)]
        )
        assert was_new == (budget not in self.known)
        if was_new:
            self.known.add(budget)
            self.model[row.key].spent += nusd
            self.model[row.key].clipped += nusd
            self.model[row.key].ceiling += nusd
        assert self.keeper.knows_budget(budget)

    @rule()
    def copy_what_changed(self) -> None:
        self.copied, rows = self.keeper.changed_since(self.copied)
        self.copy.update({row[0].hex(): row for row in rows})
        assert set(self.copy.values()) == set(self.keeper.rows())

    @precondition(lambda self: not self.workers and not self.dead)
    @rule(again=st.booleans())
    def power_fails(self, *, again: bool) -> None:
        """Rebuild from the copy: what it held is spent, what came after it is forgotten."""
        self.keeper.close()
        Ledger.discard(self.dir)
        self.keeper = Ledger.create(self.dir, map_bytes=MAP_BYTES, stamp=STAMP)
        for _ in range(1 + again):
            self.keeper.import_rows(list(self.copy.values()))
        self.keeper.verify()
        self.known.clear()
        self.model.clear()
        self.seen.clear()
        self.copied = 0
        for key, row in self.copy.items():
            spent, held, credits_nusd, overrun, crash = row[4:9]
            self.model[key] = Sums(
                spent=spent + held,
                clipped=spent + held,
                overrun=overrun,
                crash=crash + held,
                credits=credits_nusd,
                ceiling=spent + held + credits_nusd,
            )

    @precondition(lambda self: not self.workers and not self.dead)
    @rule()
    def starts_again(self) -> None:
        """Close the map and take it over, as the next supervisor of the same boot does."""
        self.keeper.close()
        self.keeper = Ledger.create(self.dir, map_bytes=MAP_BYTES, stamp=STAMP)

    @rule(day=st.integers(0, 3))
    def drop_past(self, day: int) -> None:
        """Drop rows of past windows that hold nothing; the clock does not go back to them."""
        self.keeper.drop_past(day * WINDOW_S)
        for row in list(self.model):
            end_s = self.end_of(row)
            if end_s <= day * WINDOW_S and not self.model[row].holds:
                del self.model[row]
                self.seen.pop(row, None)
                self.copy.pop(row, None)

    def end_of(self, key: str) -> int:
        return int.from_bytes(bytes.fromhex(key)[32:], "big") - (1 << 63) + WINDOW_S

    # --- what must hold ------------------------------------------------------------------

    @invariant()
    def rows_say_what_the_model_says(self) -> None:
        found = {row[0].hex(): row for row in self.keeper.rows()}
        for key, row in found.items():
            sums = self.model[key]
            _, _, _, _, spent, held, credits_nusd, overrun, crash, *_ = row
            assert spent == sums.spent
            assert held == sum(sums.holds.values())
            assert credits_nusd == sums.credits
            assert overrun == sums.overrun
            assert crash == sums.crash
        assert all(key in found for key, sums in self.model.items() if sums.spent or sums.holds)

    @invariant()
    def the_map_agrees_with_itself(self) -> None:
        self.keeper.verify()
        assert self.keeper.info()["holds"] == len(self.holds)

    @invariant()
    def spent_never_falls(self) -> None:
        for row in self.keeper.rows():
            assert row[4] >= self.seen.get(row[0].hex(), 0)
            self.seen[row[0].hex()] = row[4]

    @invariant()
    def no_cap_is_passed_but_by_overruns(self) -> None:
        for sums in self.model.values():
            assert sums.clipped + sum(sums.holds.values()) <= sums.ceiling


LedgerBesideModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestLedger = LedgerBesideModel.TestCase
