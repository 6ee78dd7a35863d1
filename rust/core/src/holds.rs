//! One worker's holds: taken and ended in turns of the ledger, marked in its slots.
//!
//! A turn is one write transaction for everything that one turn of the event loop has brought:
//! first every settle that is due, then every attempt that waits to be held. What is due is kept
//! until the transaction that wrote it has committed; a slot is free only then. A process that is
//! killed in between leaves its holds in the ledger and the truth about them in its slots.

use std::collections::HashMap;
use std::path::Path;

use crate::cells::Cells;
use crate::exchange::{Plan, Verdict};
use crate::ledger::row::{Balance, FLAG_EXCEEDED, FLAG_SOFT, RowKey};
use crate::ledger::{HoldRow, Ledger, LedgerFault, RowView, Slots, Turn};

const FACTOR_NONE: u64 = 1000;
const PERCENT: u128 = 100;

/// A row that a due settle moves, and when it is worth an event.
pub(crate) struct DueRow {
    pub(crate) key: RowKey,
    pub(crate) cap_nusd: u64,
    pub(crate) soft_pct: u32,
}

/// A hold that has ended and is not yet settled in the ledger.
pub(crate) struct Due {
    pub(crate) seq: u64,
    pub(crate) slot: u32,
    /// Whether a byte of the request left: else recovery knows by itself that nothing is owed.
    pub(crate) is_sent: bool,
    /// What the attempt was thought to cost at most; 0 where nothing was known.
    pub(crate) plain_nusd: u64,
    pub(crate) charge_nusd: u64,
    pub(crate) rows: Vec<DueRow>,
    pub(crate) provider: String,
    pub(crate) model: String,
}

/// What is left to give out: sequence numbers and slots.
pub(crate) struct Free<'h> {
    slots: &'h mut Slots,
    next_seq: &'h mut u64,
    factors: &'h HashMap<String, u64>,
}

impl Free<'_> {
    /// A number and a slot for one more hold; None where all slots are taken.
    pub(crate) fn take(&mut self) -> Option<(u64, u32)> {
        let slot = self.slots.take()?;
        let seq = *self.next_seq;
        *self.next_seq += 1;
        Some((seq, slot))
    }

    /// What the bound of a model is multiplied by, in thousandths.
    pub(crate) fn factor_permille(&self, provider: &str, model: &str) -> u64 {
        if self.factors.is_empty() {
            return FACTOR_NONE;
        }
        self.factors.get(&target_of(provider, model)).copied().unwrap_or(FACTOR_NONE)
    }
}

struct Open {
    ledger: Ledger,
    slots: Slots,
    next_seq: u64,
    /// What bounds are multiplied by, as of that generation.
    factors: HashMap<String, u64>,
    factors_generation: u64,
}

/// The holds of one worker.
#[derive(Default)]
pub struct Holds {
    open: Option<Open>,
    due: Vec<Due>,
}

impl Holds {
    /// Open the ledger of `state_dir` for the worker of that generation.
    ///
    /// # Errors
    /// There is no ledger, or it is not of this boot and layout.
    pub fn open(
        state_dir: &Path,
        generation: u64,
        slots: u32,
        cells: Cells,
        worker: u32,
    ) -> Result<Self, LedgerFault> {
        let mut ledger = Ledger::open_worker(state_dir, generation)?;
        ledger.watch(cells, worker);
        let slots = Slots::create(state_dir, generation, slots)
            .map_err(|fault| LedgerFault::Io(fault.to_string()))?;
        let mut open =
            Open { ledger, slots, next_seq: 1, factors: HashMap::new(), factors_generation: 0 };
        open.read_factors()?;
        Ok(Self { open: Some(open), due: Vec::new() })
    }

    /// Does a settle wait for the next turn.
    #[must_use]
    pub fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Every row; none without a ledger.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn rows(&self) -> Result<Vec<RowView>, LedgerFault> {
        self.open.as_ref().map_or(Ok(Vec::new()), |open| open.ledger.rows())
    }

    /// What stands in a row; nothing where there is none, or no ledger.
    pub(crate) fn balance(&self, key: &RowKey) -> Balance {
        let row = self.open.as_ref().and_then(|open| open.ledger.row(key).ok().flatten());
        row.map_or_else(Balance::default, |row| row.balance)
    }

    pub(crate) fn sent(&mut self, slot: u32, charge_if_dead_nusd: u64) {
        if let Some(open) = &self.open {
            open.slots.sent(slot, charge_if_dead_nusd);
        }
    }

    pub(crate) fn progress(&mut self, slot: u32, charge_if_dead_nusd: u64) {
        if let Some(open) = &self.open {
            open.slots.progress(slot, charge_if_dead_nusd);
        }
    }

    /// Take note of the charge, so that it is never lost, and settle it in the next turn.
    pub(crate) fn end(&mut self, due: Due) {
        if let (Some(open), true) = (&self.open, due.is_sent) {
            open.slots.done(due.slot, due.charge_nusd);
        }
        self.due.push(due);
    }

    /// Settle what is due and decide on every plan that waits, alone or as one of several.
    pub(crate) fn turn(
        &mut self,
        plans: &mut [&mut Plan],
        groups: &mut [Group<'_>],
        now_us: u64,
        unix_us: u64,
    ) {
        let Some(open) = &mut self.open else {
            for plan in all(plans, groups) {
                plan.stop_unavailable("this worker has no ledger");
            }
            return;
        };
        match open.run(&self.due, plans, groups, now_us, unix_us) {
            Ok(stuck) => open.free_settled(&mut self.due, &stuck),
            Err(fault) => {
                for plan in all(plans, groups) {
                    open.refuse(plan, &fault);
                }
                // What is due has been used: it must not wait for room that a hold needs.
                if let Ok(stuck) = open.run(&self.due, &mut [], &mut [], now_us, unix_us) {
                    open.free_settled(&mut self.due, &stuck);
                }
            }
        }
    }
}

impl Open {
    /// One transaction. Returns which settles it could not take, by their place in `due`.
    ///
    /// What cannot be settled or held for itself is left out: it is nobody else's fault. A turn
    /// in which a write failed halfway fails as a whole when it commits.
    fn run(
        &mut self,
        due: &[Due],
        plans: &mut [&mut Plan],
        groups: &mut [Group<'_>],
        now_us: u64,
        unix_us: u64,
    ) -> Result<Vec<usize>, LedgerFault> {
        let mut turn = self.ledger.turn()?;
        if turn.bound_generation()? != self.factors_generation {
            drop(turn);
            self.read_factors()?;
            turn = self.ledger.turn()?;
        }
        let mut stuck = Vec::new();
        for (at, due) in due.iter().enumerate() {
            if settle(&mut turn, due, unix_us).is_err() {
                stuck.push(at);
            }
        }
        let mut free = Free {
            slots: &mut self.slots,
            next_seq: &mut self.next_seq,
            factors: &self.factors,
        };
        for plan in plans.iter_mut() {
            if let Err(fault) = plan.reserve(&mut turn, &mut free, now_us, unix_us) {
                refuse(free.slots, plan, &fault);
            }
        }
        for group in groups.iter_mut() {
            if let Err(fault) = reserve_group(group, &mut turn, &mut free, now_us, unix_us) {
                for plan in &mut group.plans {
                    refuse(free.slots, plan, &fault);
                }
            }
        }
        turn.commit()?;
        for plan in all(plans, groups) {
            if let Some((slot, seq)) = plan.held_slot()
                && plan.verdict() == Verdict::Go
            {
                self.slots.held(slot, seq);
            }
        }
        Ok(stuck)
    }

    fn refuse(&mut self, plan: &mut Plan, fault: &LedgerFault) {
        refuse(&mut self.slots, plan, fault);
    }

    /// Free the slots of all that was due, and keep what is stuck: its hold stays until this
    /// worker ends, and its slot knows the charge.
    fn free_settled(&mut self, due: &mut Vec<Due>, stuck: &[usize]) {
        let mut kept = Vec::new();
        for (at, due) in due.drain(..).enumerate() {
            if stuck.contains(&at) {
                kept.push(due);
            } else {
                self.slots.free(due.slot);
            }
        }
        *due = kept;
    }
}

/// Calls that one request makes side by side: held all in one step, or as many as it needs.
pub struct Group<'p> {
    /// In their order; a judge, which is needed whatever happens, is the last.
    pub plans: Vec<&'p mut Plan>,
    /// So many of them must fit, the judge not counted.
    pub least: usize,
    /// Is the last one a judge.
    pub has_judge: bool,
}

/// Every plan of a turn.
fn all<'a, 'p: 'a, 'q: 'a>(
    plans: &'a mut [&'p mut Plan],
    groups: &'a mut [Group<'q>],
) -> impl Iterator<Item = &'a mut Plan> {
    let grouped =
        groups.iter_mut().flat_map(|group| group.plans.iter_mut().map(|plan| &mut **plan));
    plans.iter_mut().map(|plan| &mut **plan).chain(grouped)
}

/// Hold for the calls of one request: members are left out from the end until the rest fits. If
/// fewer fit whole than it needs, those that it needs share what is left, or nothing is held.
fn reserve_group(
    group: &mut Group<'_>,
    turn: &mut Turn<'_>,
    free: &mut Free<'_>,
    now_us: u64,
    unix_us: u64,
) -> Result<(), LedgerFault> {
    let count = group.plans.len();
    // An ensemble inside of this one holds for its own members once it begins.
    let hold_all = |plans: &mut [&mut Plan], turn: &mut Turn<'_>, free: &mut Free<'_>| {
        let mut held = 0;
        for plan in plans.iter_mut() {
            plan.reserve(turn, free, now_us, unix_us)?;
            // An ensemble inside of this one holds for its own members once it begins.
            if !matches!(plan.verdict(), Verdict::Go | Verdict::Gather) {
                break;
            }
            held += 1;
        }
        Ok::<usize, LedgerFault>(held)
    };
    // The judge first: members are of no use without it.
    let judges = usize::from(group.has_judge);
    group.plans.rotate_right(judges);
    let needed = judges + group.least.min(count - judges);
    let mut held = hold_all(&mut group.plans, turn, free)?;
    if held < needed {
        for plan in &mut group.plans {
            undo(plan, turn, free)?;
        }
        held = 0;
        if Plan::stand_together(&mut group.plans[..needed], turn, free, unix_us)? {
            held = hold_all(&mut group.plans[..needed], turn, free)?;
        }
    }
    let is_enough = held >= needed;
    for (at, plan) in group.plans.iter_mut().enumerate() {
        if !is_enough || at >= held {
            undo(plan, turn, free)?;
            plan.leave_out();
        }
        if at >= needed {
            // It is no failure of the others.
            plan.forget_stop();
        }
    }
    group.plans.rotate_left(judges);
    Ok(())
}

/// End the hold of a plan in the turn that it was taken in, as if it had never been.
fn undo(plan: &mut Plan, turn: &mut Turn<'_>, free: &mut Free<'_>) -> Result<(), LedgerFault> {
    if let Some((slot, seq)) = plan.held_slot() {
        turn.settle(seq, 0)?;
        plan.undo_hold();
        free.slots.free(slot);
    }
    Ok(())
}

/// Nothing is held for this plan, so nothing of it is sent.
fn refuse(slots: &mut Slots, plan: &mut Plan, fault: &LedgerFault) {
    if let Some(slot) = plan.undo_hold() {
        slots.free(slot);
    }
    plan.stop_unavailable(&fault.to_string());
}

impl Open {
    /// Read what bounds are multiplied by: only after a model billed more than its bound again
    /// and again, or an operator forgave it.
    fn read_factors(&mut self) -> Result<(), LedgerFault> {
        let (generation, factors) = self.ledger.bound_factors()?;
        self.factors_generation = generation;
        self.factors = factors
            .into_iter()
            .map(|factor| (factor.target, u64::from(factor.factor_permille)))
            .collect();
        Ok(())
    }
}

fn settle(turn: &mut Turn<'_>, due: &Due, unix_us: u64) -> Result<(), LedgerFault> {
    let Some(settled) = turn.settle(due.seq, due.charge_nusd)? else { return Ok(()) };
    for row in &due.rows {
        let balance = turn.balance(&row.key)?;
        let most = u128::from(row.cap_nusd) + u128::from(balance.credits_nusd);
        let spent = u128::from(balance.spent_nusd);
        let mut flags = 0;
        if spent * PERCENT >= most * u128::from(row.soft_pct) {
            flags |= FLAG_SOFT;
        }
        if spent >= most {
            flags |= FLAG_EXCEEDED;
        }
        if flags & !balance.flags != 0 {
            // The row is there: its subject and its end stand in it.
            turn.flag(&HoldRow { key: row.key, subject: "", window_end_s: None }, flags)?;
        }
    }
    if settled.overrun_nusd > 0 {
        let target = target_of(&due.provider, &due.model);
        turn.record_overrun(&target, due.charge_nusd, due.plain_nusd, unix_us)?;
    }
    Ok(())
}

/// How a model is named where its overruns are remembered.
fn target_of(provider: &str, model: &str) -> String {
    format!("{provider}/{model}")
}
