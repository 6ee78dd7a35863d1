//! The money of an exchange: which budgets match, what is held for an attempt, what it is charged.
//!
//! An attempt that a budget matches is held for in full before a byte of it leaves, and ends in
//! exactly one settle. Where the hold is taken and ended is `holds`; here is how much, and why.
//!
//! ```text
//!          no budget matches
//!   start ───────────────────► Go ───► send
//!     │ a budget matches        ▲
//!     └──────► Wait ──turn──────┤
//!                ▲  │           └────► Stopped
//!                │  └─► Count (tokens are counted outside of the turn)
//!                └───────┘
//! ```

use std::borrow::Cow;
use std::rc::Rc;

use super::Plan;
use crate::attempt::{HeldBy, Outcome};
use crate::bound::{self, Bound, BoundFault, OutputLimit};
use crate::budget::display::{self, Refused, Shown};
use crate::budget::{self, Ask, Decision, Match, RowState, Who};
use crate::holds::Free;
use crate::ledger::row::{Balance, FLAG_EXCEEDED, FLAG_SUBJECTS_FULL, RowKey, SubjectId};
use crate::ledger::window::Window;
use crate::ledger::{HoldRow, LedgerFault, Turn};
use crate::request::{Choice, FlatRef};
use crate::routing::Leaf;
use crate::routing::state::BudgetState;
use crate::scan::{Facts, LimitKey, Shape};
use crate::tokens;
use crate::usage::Usage;

/// Output tokens that a cut answer may have had under way.
pub(super) const UNDER_WAY_TOKENS: u64 = 64;

/// A ledger that takes nothing now may do so again soon.
const RETRY_AFTER_UNAVAILABLE_S: u64 = 1;

/// A bound as it is computed, in thousandths.
pub(super) const FACTOR_NONE: u64 = 1000;

/// What is known of what an attempt was billed.
pub(crate) enum Evidence<'b> {
    /// Certainly nothing: no byte was sent, or a whole head says that it failed.
    Nothing,
    /// The answer came whole, with the provider's last word on usage, and this body.
    Whole(Option<Usage>, &'b [u8]),
    /// It ended in any other way.
    Cut,
}

/// What an attempt waits for before it may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verdict {
    /// Nothing: send it.
    #[default]
    Go,
    /// A turn of the ledger.
    Wait,
    /// Its tokens are to be counted first, then another turn.
    Count,
    /// It may not be sent: see `Plan::stopped`.
    Stopped,
    /// The calls of an ensemble: see `Plan::members`.
    Gather,
}

/// How much of what its budgets have left a call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// All: its output limit may be lowered to that.
    All,
    /// What it asks for, or nothing: others of the same request stand beside it.
    Whole,
    /// What it asks for with an output limit up to this one, which all of them can have.
    UpTo(u64),
}

/// What is held for an attempt that is under way.
pub(crate) struct Hold {
    pub(crate) seq: u64,
    pub(crate) slot: u32,
    pub(crate) amount_nusd: u64,
    /// The bound that it rests on, before it was multiplied; 0 where there is none.
    pub(super) plain_nusd: u64,
    /// What recovery would charge if this process died now.
    pub(super) charge_if_dead_nusd: u64,
    /// Set once the attempt has ended.
    pub(super) charge_nusd: Option<u64>,
}

/// What one attempt asks of the budgets that match it.
#[derive(Clone, Copy)]
pub(super) struct Stake {
    /// None where no bound is known and no enforcing budget needs one.
    pub(super) bound: Option<Bound>,
    /// The output limit that the bound rests on.
    pub(super) limit: Option<u64>,
    /// The least that may be sent instead.
    pub(super) least: u64,
    /// An enforcing budget matches and the caller set none, or none that counts: we send one.
    pub(super) sends_limit: bool,
    /// The spelling to send it in.
    pub(super) limit_key: LimitKey,
    pub(super) held_by: HeldBy,
    /// Whether the text has been counted, or cannot be.
    pub(super) is_counted: bool,
}

/// What a budget that matched has to say of this request.
#[derive(Clone)]
pub struct Tally {
    /// Index of the budget in the snapshot.
    pub budget: usize,
    /// Whose row, as people read it; None where the budget has one row only.
    pub subject: Option<String>,
    /// Held for the attempts so far, in nano-USD.
    pub held_nusd: u64,
    /// Charged for them.
    pub charged_nusd: u64,
    /// Charged above what was held.
    pub overrun_nusd: u64,
    /// Left right after the last hold.
    pub remaining_nusd: u64,
    pub(super) key: RowKey,
    pub(super) window: Window,
    pub(super) balance: Balance,
    /// Calls have begun since that hold: what they find in the row is newer.
    pub(super) is_stale: bool,
}

impl Tally {
    /// Take in what another call of the same request held and was charged.
    pub(crate) fn add(&mut self, other: &Self) {
        self.held_nusd = self.held_nusd.saturating_add(other.held_nusd);
        self.charged_nusd = self.charged_nusd.saturating_add(other.charged_nusd);
        self.overrun_nusd = self.overrun_nusd.saturating_add(other.overrun_nusd);
    }

    /// See the row as another call of the same request saw it, if that held later: of calls that
    /// are held in one step each finds less than the one before it.
    pub(crate) fn see(&mut self, other: &Self) {
        if self.is_stale || other.remaining_nusd < self.remaining_nusd {
            self.remaining_nusd = other.remaining_nusd;
            self.balance = other.balance;
            self.is_stale = false;
        }
    }

    pub(super) fn hold_row(&self) -> HoldRow<'_> {
        HoldRow {
            key: self.key,
            subject: self.subject.as_deref().unwrap_or(""),
            window_end_s: self.window.end_s,
        }
    }
}

/// The tightest budget, for the response headers.
#[derive(Clone)]
pub struct BudgetShown {
    /// Its name.
    pub name: String,
    /// What is left after this request's hold.
    pub remaining_nusd: u64,
    /// `block`, `downgrade`, `warn_only`.
    pub action: &'static str,
    /// End of the window in seconds since 1970; None has none.
    pub resets_s: Option<i64>,
}

/// Why a budget stops a request: the answer that the caller gets.
#[derive(Debug, Clone)]
pub struct Stopped {
    /// The public cause, as `modelux/errors.py` has it.
    pub code: &'static str,
    /// For the caller.
    pub message: String,
    /// The field at fault.
    pub param: Option<&'static str>,
    /// Seconds; None sends none.
    pub retry_after_s: Option<u64>,
    /// What `error.budget` says.
    pub budget: Option<Shown>,
    /// The output limit that would have fitted the cap.
    pub affordable_tokens: Option<u64>,
}

/// A budget sent the request elsewhere.
pub(crate) struct Downgraded {
    /// How the configuration wrote the target that was left.
    pub(crate) from: String,
    /// The config that was left.
    pub(crate) choice: Choice,
}

/// Everything about budgets that one exchange carries.
#[derive(Default)]
pub struct Matched {
    matches: Vec<Match>,
    pub(crate) tallies: Vec<Tally>,
    pub(crate) verdict: Verdict,
    pub(super) stake: Option<Stake>,
    pub(crate) stopped: Option<Stopped>,
    /// The budget whose word that was.
    pub(crate) stopped_by: Option<usize>,
    pub(crate) downgraded: Option<Downgraded>,
    /// The budget that sends it elsewhere, where others have to go along.
    pub(super) leaves_by: Option<usize>,
    /// The output limit that is sent upstream in place of the caller's, or of none.
    pub(super) limit_sent: Option<u64>,
    shown: Option<BudgetShown>,
}

impl Matched {
    /// Fall under every budget that `other` does.
    pub(super) fn match_like(&mut self, other: &Self) {
        for one in &other.matches {
            if self.matches.iter().all(|own| own.budget != one.budget) {
                self.matches.push(one.clone());
            }
        }
    }

    /// The tightest budget after the last hold; None where none matched.
    #[must_use]
    pub fn shown(&self) -> Option<&BudgetShown> {
        self.shown.as_ref()
    }

    pub(super) fn matches(&self) -> &[Match] {
        &self.matches
    }

    /// What each budget that matched has to say.
    #[must_use]
    pub fn tallies(&self) -> &[Tally] {
        &self.tallies
    }
}

impl Plan {
    /// What the current attempt waits for.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.budgets.verdict
    }

    /// Why a budget stops this request.
    #[must_use]
    pub fn stopped(&self) -> Option<&Stopped> {
        self.budgets.stopped.as_ref()
    }

    /// Does the current attempt still wait for its hold.
    pub(super) fn wants_hold(&self) -> bool {
        self.budgets.verdict != Verdict::Go
    }

    /// The output limit that goes upstream, where it is not the caller's own.
    pub(super) fn sent_limit(&self) -> Option<(u64, LimitKey)> {
        let stake = self.budgets.stake.as_ref()?;
        Some((self.budgets.limit_sent?, stake.limit_key))
    }

    /// Settle what the attempt that has just begun asks of the budgets that match it.
    pub(super) fn stake(&mut self) {
        self.budgets.verdict = Verdict::Go;
        self.budgets.stake = None;
        self.budgets.limit_sent = None;
        let snapshot = Rc::clone(&self.snapshot);
        if snapshot.budgets.is_empty() {
            return;
        }
        self.find_matches();
        if self.budgets.matches.is_empty() {
            return;
        }
        match self.make_stake() {
            Ok(stake) => {
                self.budgets.stake = Some(stake);
                self.budgets.verdict = Verdict::Wait;
            }
            Err(stopped) => self.stop(*stopped),
        }
    }

    /// Add the budgets that match the current attempt; those of earlier ones stay.
    fn find_matches(&mut self) {
        let mut matches = std::mem::take(&mut self.budgets.matches);
        if let Some(attempt) = self.attempts.last() {
            let slugs: Vec<&str> = attempt.target().slugs.iter().map(String::as_str).collect();
            self.match_budgets(&slugs, &mut matches);
        }
        self.budgets.matches = matches;
    }

    /// Add the budgets that match this request where it goes through the configs `slugs`.
    pub(super) fn match_budgets(&self, slugs: &[&str], matches: &mut Vec<Match>) {
        let (subject, snapshot) = (&self.subject, &self.snapshot);
        let (Some(project), Some(key)) = (subject.project, subject.key.as_ref()) else {
            return;
        };
        let hashed = subject.end_user.as_deref().filter(|_| snapshot.server.hash_end_users);
        let hashed = hashed.map(|end_user| snapshot.hash_end_user(end_user));
        let who = Who {
            project,
            key_id: &key.id,
            tags: &subject.tags,
            end_user: hashed.as_deref().or(subject.end_user.as_deref()),
            slugs,
        };
        snapshot.budgets.matching(&who, matches);
    }

    /// What the current attempt asks of the budgets that match it; None where none does.
    pub(super) fn dry_ask(&self) -> Option<Ask> {
        let stake = self.budgets.stake.as_ref()?;
        let bound = stake.bound?;
        Some(Ask { bound, limit: stake.limit, least: stake.least })
    }

    /// What the current attempt could cost at most, where no budget asks.
    pub(super) fn unheld_bound(&self) -> Option<u64> {
        let limit =
            self.output_limit(self.attempts.last()?.target()).map(|output| output.limit);
        self.bound_by_bytes(limit).ok()?.at(limit)
    }

    /// The output limit of this request at a target, and how it is said there.
    pub(super) fn output_limit(&self, leaf: &Leaf) -> Option<OutputLimit> {
        let model = self.snapshot.model(&self.world.catalogue, leaf.provider, &leaf.model);
        bound::output_limit(
            &self.facts,
            self.endpoint.shape(),
            model.as_ref(),
            &self.snapshot.providers[leaf.provider].vendor,
            leaf,
            self.snapshot.server.limit_defaults(),
        )
    }

    fn is_enforced(&self) -> bool {
        let budgets = &self.snapshot.budgets;
        self.budgets.matches.iter().any(|one| budgets.get(one.budget).is_enforcing())
    }

    fn make_stake(&self) -> Result<Stake, Box<Stopped>> {
        let Some(attempt) = self.attempts.last() else {
            return Err(Box::new(unavailable("no target")));
        };
        let (leaf, provider) = self.target_of(attempt);
        let output = self.output_limit(leaf);
        let limit = output.map(|output| output.limit);
        let enforced = self.is_enforced();
        let bound = match self.bound_by_bytes(limit) {
            Ok(bound) => Some(bound),
            Err(_) if !enforced => None,
            Err(fault) => return Err(Box::new(no_bound(fault, leaf, &provider.name))),
        };
        // The statement of a target is taken only where nothing else bounds it.
        let is_stated =
            leaf.max_cost_nusd.is_some_and(|nusd| bound == Some(Bound::fixed(nusd)));
        Ok(Stake {
            bound,
            limit,
            least: output.map_or(0, |output| output.least),
            sends_limit: enforced && output.is_some_and(|output| output.must_send),
            limit_key: output.map_or(LimitKey::MaxTokens, |output| output.key),
            held_by: if is_stated { HeldBy::MaxCost } else { HeldBy::Bytes },
            is_counted: is_stated,
        })
    }

    /// The request as its target makes it: what it sets in the body is text like the rest.
    fn facts_with_params(&self, leaf: &Leaf) -> Cow<'_, Facts> {
        match &leaf.params {
            None => Cow::Borrowed(&self.facts),
            Some(params) => Cow::Owned(Facts {
                text_bytes: self.facts.text_bytes.saturating_add(params.len() as u64),
                ..self.facts.clone()
            }),
        }
    }

    /// The bound of the current attempt with a token for each byte of its text.
    fn bound_by_bytes(&self, limit: Option<u64>) -> Result<Bound, BoundFault> {
        let Some(attempt) = self.attempts.last() else { return Err(BoundFault::NotPriced) };
        let (leaf, provider) = self.target_of(attempt);
        let model = self.snapshot.model(&self.world.catalogue, leaf.provider, &leaf.model);
        let bound = bound::bound(
            &self.facts_with_params(leaf),
            self.endpoint.shape(),
            self.price.as_ref(),
            model.as_ref(),
            &provider.vendor,
            leaf.max_cost_nusd,
        )?;
        // A caller's limit that nothing can pay for is no bound either.
        match (bound.at(limit), leaf.max_cost_nusd) {
            (Some(_), _) => Ok(bound),
            (None, Some(nusd)) => Ok(Bound::fixed(nusd)),
            (None, None) => {
                Err(BoundFault::Unbounded("its worst case is more than can be counted"))
            }
        }
    }

    pub(super) fn stop(&mut self, stopped: Stopped) {
        self.budgets.verdict = Verdict::Stopped;
        self.budgets.stopped = Some(stopped);
        self.skip();
    }

    /// The attempt that has begun is not made.
    pub(super) fn skip(&mut self) {
        if let Some(attempt) = self.attempts.last_mut().filter(|last| last.outcome.is_none()) {
            attempt.outcome = Some(Outcome::Skipped);
            attempt.ended_us = Some(attempt.started_us);
        }
        if let Some(attempt) = self.attempts.last()
            && attempt.outcome == Some(Outcome::Skipped)
        {
            self.report_unsent(attempt);
        }
    }

    /// The ledger cannot be used: nothing was held, so nothing is sent.
    pub(crate) fn stop_unavailable(&mut self, why: &str) {
        self.stop(unavailable(why));
    }

    pub(super) fn factor_permille(&self, free: &Free<'_>) -> u64 {
        self.attempts.last().map_or(FACTOR_NONE, |attempt| {
            let (leaf, provider) = self.target_of(attempt);
            free.factor_permille(&provider.name, &leaf.model)
        })
    }

    /// What the current attempt asks of its budgets.
    fn ask(&self, stake: &Stake, bound: Option<Bound>) -> Ask {
        let bound = bound.unwrap_or(Bound::fixed(0));
        match self.share {
            // One of several would take all that is left, and leave the others out.
            Share::Whole => Ask { bound, limit: stake.limit, least: stake.limit.unwrap_or(0) },
            Share::UpTo(most) => {
                let lowered = |limit: u64| limit.min(most.max(stake.least.min(limit)));
                let limit = stake.limit.map(lowered);
                Ask { bound, limit, least: limit.unwrap_or(0) }
            }
            Share::All => Ask { bound, limit: stake.limit, least: stake.least },
        }
    }

    /// Decide on the current attempt, inside of the turn's transaction, and hold if it may go.
    ///
    /// # Errors
    /// The ledger cannot be read or written; the turn is void then.
    pub(crate) fn reserve(
        &mut self,
        turn: &mut Turn<'_>,
        free: &mut Free<'_>,
        now_us: u64,
        unix_us: u64,
    ) -> Result<(), LedgerFault> {
        let unix_s = i64::try_from(unix_us / 1_000_000).unwrap_or(i64::MAX);
        while self.budgets.verdict == Verdict::Wait {
            let Some(stake) = self.budgets.stake else { return Ok(()) };
            self.read_rows(turn, unix_s)?;
            let factor = self.factor_permille(free);
            let bound = stake.bound.map(|bound| bound.times(factor));
            let ask = self.ask(&stake, bound);
            // Where a call of several does not fit, it is for the whole request to go elsewhere;
            // and a judge that cannot be asked is no reason to.
            let may_downgrade =
                self.budgets.downgraded.is_none() && !self.is_captured && self.aside.is_none();
            let decision = budget::decide(&self.row_states(), &ask, may_downgrade);
            if let Decision::Hold { limit, amount_nusd, fitted } = decision {
                let fitted = fitted || limit != stake.limit;
                let limit_sent = limit.filter(|_| fitted || stake.sends_limit);
                self.budgets.limit_sent = limit_sent;
                self.attempt().limit_sent = limit_sent;
                if fitted {
                    self.mark_tightest(unix_s);
                }
                self.take_hold(turn, free, (bound, limit), amount_nusd, now_us)?;
                continue;
            }
            if self.counting_may_help(&stake, factor) {
                self.budgets.verdict = Verdict::Count;
                continue;
            }
            if let Decision::Exceeded { row }
            | Decision::Downgrade { row, exceeds_cap: false } = decision
            {
                turn.flag(&self.budgets.tallies[row].hold_row(), FLAG_EXCEEDED)?;
            }
            if let Decision::Downgrade { row, .. } = decision {
                if self.downgrade(row, now_us, unix_us) {
                    continue;
                }
                // Where a budget cannot send this caller anywhere else, it blocks.
                let decision = budget::decide(&self.row_states(), &ask, false);
                self.refuse(&decision, &ask, unix_us);
                continue;
            }
            self.refuse(&decision, &ask, unix_us);
        }
        Ok(())
    }

    /// Read the row of each budget that matches, in the window that the wall clock is in.
    pub(super) fn read_rows(
        &mut self,
        turn: &mut Turn<'_>,
        unix_s: i64,
    ) -> Result<(), LedgerFault> {
        let snapshot = Rc::clone(&self.snapshot);
        let before = std::mem::take(&mut self.budgets.tallies);
        for one in &self.budgets.matches {
            let budget = snapshot.budgets.get(one.budget);
            let window = budget.calendar.window(unix_s);
            let has_subjects = one.subject_id != SubjectId::NONE;
            let mut key = RowKey::new(&budget.id, one.subject_id, window.start_s);
            let mut subject = has_subjects.then(|| one.subject.clone());
            if has_subjects
                && turn.is_new(&key)?
                && turn.subjects(&budget.id, window.start_s)? >= budget.max_subjects
            {
                let overflow = one.overflow();
                key = RowKey::new(&budget.id, overflow.subject_id, window.start_s);
                subject = Some(overflow.subject);
                let row = HoldRow { key, subject: "*", window_end_s: window.end_s };
                turn.flag(&row, FLAG_SUBJECTS_FULL)?;
            }
            let balance = turn.balance(&key)?;
            let known = before.iter().find(|tally| tally.budget == one.budget);
            self.budgets.tallies.push(Tally {
                budget: one.budget,
                subject,
                is_stale: false,
                held_nusd: known.map_or(0, |tally| tally.held_nusd),
                charged_nusd: known.map_or(0, |tally| tally.charged_nusd),
                overrun_nusd: known.map_or(0, |tally| tally.overrun_nusd),
                remaining_nusd: 0,
                key,
                window,
                balance,
            });
        }
        Ok(())
    }

    fn row_states(&self) -> Vec<RowState<'_>> {
        self.budgets
            .tallies
            .iter()
            .map(|tally| RowState {
                budget: self.snapshot.budgets.get(tally.budget),
                balance: tally.balance,
            })
            .collect()
    }

    fn take_hold(
        &mut self,
        turn: &mut Turn<'_>,
        free: &mut Free<'_>,
        (bound, limit): (Option<Bound>, Option<u64>),
        amount_nusd: u64,
        now_us: u64,
    ) -> Result<(), LedgerFault> {
        let attempt = self.attempts.len() - 1;
        self.budgets.verdict = Verdict::Go;
        // What is free holds nothing and is charged nothing. A price that a limit of 0 brings to
        // nothing is none: what is billed all the same has to be settled somewhere.
        let is_free = bound.is_some_and(|bound| bound.with_output(1) == Some(0));
        let place = if is_free { None } else { free.take() };
        if place.is_none() && !is_free {
            self.stop_unavailable("this worker has no room for another hold");
            return Ok(());
        }
        let stake = self.budgets.stake.as_mut();
        let held_by = stake.map(|stake| {
            stake.bound = bound;
            stake.held_by
        });
        for tally in &mut self.budgets.tallies {
            tally.held_nusd = tally.held_nusd.saturating_add(amount_nusd);
            tally.balance.held_nusd = tally.balance.held_nusd.saturating_add(amount_nusd);
        }
        self.show();
        self.attempts[attempt].held_nusd = Some(amount_nusd);
        self.attempts[attempt].held_by = held_by;
        let Some((seq, slot)) = place else {
            self.attempts[attempt].charged_nusd = Some(0);
            return Ok(());
        };
        let rows: Vec<HoldRow<'_>> = self.budgets.tallies.iter().map(Tally::hold_row).collect();
        let leaf = self.attempts[attempt].target();
        let deadline_us = now_us.saturating_add(leaf.attempt_max_ms.saturating_mul(1000));
        let request = request_bytes(&self.subject.id);
        self.hold = Some(Hold {
            seq,
            slot,
            amount_nusd,
            plain_nusd: bound.and_then(|bound| bound.times(FACTOR_NONE).at(limit)).unwrap_or(0),
            charge_if_dead_nusd: 0,
            charge_nusd: None,
        });
        turn.hold(seq, request, slot, amount_nusd, deadline_us, &rows)
    }

    /// Slot and number of the present hold.
    pub(crate) fn held_slot(&self) -> Option<(u32, u64)> {
        self.hold.as_ref().map(|hold| (hold.slot, hold.seq))
    }

    /// The turn in which this plan was held is void: so is the hold.
    pub(crate) fn undo_hold(&mut self) -> Option<u32> {
        let hold = self.hold.take()?;
        for tally in &mut self.budgets.tallies {
            tally.held_nusd = tally.held_nusd.saturating_sub(hold.amount_nusd);
            tally.balance.held_nusd = tally.balance.held_nusd.saturating_sub(hold.amount_nusd);
        }
        self.show();
        let attempt = self.attempt();
        attempt.held_nusd = None;
        attempt.held_by = None;
        Some(hold.slot)
    }

    /// Settle which budget the headers name, and what is left in each.
    pub(super) fn show(&mut self) {
        let snapshot = Rc::clone(&self.snapshot);
        for tally in &mut self.budgets.tallies {
            let budget = snapshot.budgets.get(tally.budget);
            tally.remaining_nusd = budget::remaining_nusd(budget, &tally.balance);
        }
        let tightest = budget::decide::tightest(&self.row_states());
        self.budgets.shown = tightest.map(|row| {
            let tally = &self.budgets.tallies[row];
            let budget = snapshot.budgets.get(tally.budget);
            BudgetShown {
                name: budget.name.clone(),
                remaining_nusd: tally.remaining_nusd,
                action: budget.action.name(),
                resets_s: tally.window.end_s,
            }
        });
    }

    /// Note that a budget mattered: it refused, sent elsewhere, or lowered a limit.
    fn mark_budget(&self, budget: usize, unix_s: u64) {
        let live = &self.world.live;
        let name = &self.snapshot.budgets.get(budget).name;
        live.touch(live.mark(&format!("budget {name}")), unix_s);
    }

    fn mark_tightest(&self, unix_s: i64) {
        if let Some(row) = budget::decide::tightest(&self.row_states()) {
            self.mark_budget(self.budgets.tallies[row].budget, unix_s.unsigned_abs());
        }
    }

    pub(super) fn refuse(&mut self, decision: &Decision, ask: &Ask, unix_us: u64) {
        self.show();
        let Some(row) = decision.row() else { return };
        self.mark_budget(self.budgets.tallies[row].budget, unix_us / 1_000_000);
        let window = self.budgets.tallies[row].window;
        self.budgets.stopped_by = Some(self.budgets.tallies[row].budget);
        let refused = display::refused(decision, &self.row_states(), ask, &window, unix_us);
        if let Some(refused) = refused {
            self.stop(refused.into());
        }
    }

    /// Put the budget's `downgrade_to` in the place of the attempt's target, once a request.
    ///
    /// False where there is nowhere to go for this project or key.
    fn downgrade(&mut self, row: usize, now_us: u64, unix_us: u64) -> bool {
        self.downgrade_by(self.budgets.tallies[row].budget, now_us, unix_us)
    }

    /// The same, by the number of the budget.
    pub(super) fn downgrade_by(&mut self, number: usize, now_us: u64, unix_us: u64) -> bool {
        let Some(project) = self.subject.project else { return false };
        let snapshot = Rc::clone(&self.snapshot);
        let budget = snapshot.budgets.get(number);
        let Some(flat) = budget.downgrade_for(project).cloned() else { return false };
        let left = std::mem::replace(
            &mut self.choice,
            super::choice::undecided(FlatRef::Own(Rc::clone(&flat))),
        );
        let budgets = states_of(&self.row_states());
        let world = self.world.clone();
        let decision = world.route(&self.asking(now_us, unix_us), &flat, budgets);
        let Some(first) = decision.order.first().copied() else {
            self.choice = left;
            return false;
        };
        // What has not been held yet is not an attempt; an ensemble has none of its own.
        let is_open = self.attempts.last().is_some_and(|attempt| attempt.outcome.is_none());
        let attempt = if is_open { self.attempts.pop() } else { None };
        if let Some(attempt) = &attempt {
            self.report_unsent(attempt);
        }
        self.mark_budget(number, unix_us / 1_000_000);
        let from = match &attempt {
            Some(attempt) => attempt.target().label.clone(),
            None => self.subject.model_requested.clone(),
        };
        self.choice.decision = decision;
        self.budgets.downgraded = Some(Downgraded { from, choice: left });
        self.subject.warnings.push("budget_downgrade");
        self.entered_us.clear();
        self.tries_here = 0;
        self.tried_fresh = false;
        let reason = format!("budget `{}` is spent", budget.name);
        self.start_or_pass(first, reason.into(), now_us);
        true
    }

    // --- counting ---------------------------------------------------------------------------

    /// Could the exact count of the text let through what its bytes do not?
    fn counting_may_help(&self, stake: &Stake, factor_permille: u64) -> bool {
        if self.is_captured
            || stake.is_counted
            || stake.bound.is_none()
            || self.vocabulary().is_none()
        {
            return false;
        }
        // The estimate says whether it is worth the time: a text that would not fit even so is
        // refused by its bytes.
        let Some(attempt) = self.attempts.last() else { return false };
        let (leaf, provider) = self.target_of(attempt);
        let ratio = self.world.learnt.ratio(&provider.name, &provider.vendor, &leaf.model);
        let estimate = tokens::estimate(self.facts.text_bytes, self.facts.messages, ratio);
        let Some(bound) = self.bound_by_count(estimate) else { return false };
        let ask =
            Ask { bound: bound.times(factor_permille), limit: stake.limit, least: stake.least };
        matches!(budget::decide(&self.row_states(), &ask, false), Decision::Hold { .. })
    }

    /// The bound with this many tokens in the place of the text's bytes.
    fn bound_by_count(&self, text_tokens: u64) -> Option<Bound> {
        let limit = self.budgets.stake?.limit;
        let (leaf, provider) = self.target_of(self.attempts.last()?);
        let model = self.snapshot.model(&self.world.catalogue, leaf.provider, &leaf.model);
        let params = leaf.params.as_ref().map_or(0, String::len) as u64;
        let bound = bound::bound_by_count(
            &self.facts,
            self.endpoint.shape(),
            self.price.as_ref()?,
            model.as_ref(),
            &provider.vendor,
            text_tokens.saturating_add(params),
        );
        bound.ok().filter(|bound| bound.at(limit).is_some())
    }

    pub(super) fn vocabulary(&self) -> Option<tokens::Vocabulary> {
        let (leaf, provider) = self.target_of(self.attempts.last()?);
        tokens::vocabulary(&provider.vendor, &leaf.model)
    }

    /// Which path the request came on.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.endpoint.shape()
    }

    /// What has to be counted: the vocabulary, where that is known.
    #[must_use]
    pub fn counts_with(&self) -> Option<tokens::Vocabulary> {
        if self.counts_for_rules {
            return self.rules_vocabulary();
        }
        (self.budgets.verdict == Verdict::Count).then(|| self.vocabulary()).flatten()
    }

    /// Take in the count of the text, or that it cannot be counted, and ask again.
    ///
    /// # Panics
    /// If nobody asked for one.
    pub fn counted(&mut self, text_tokens: Option<u64>, now_us: u64, unix_us: u64) {
        assert!(self.budgets.verdict == Verdict::Count, "nobody asked for a count");
        if self.counts_for_rules {
            self.routed_by(text_tokens, now_us, unix_us);
            return;
        }
        let bound = text_tokens.and_then(|count| self.bound_by_count(count));
        if let Some(stake) = &mut self.budgets.stake {
            stake.is_counted = true;
            if let Some(bound) = bound {
                stake.bound = Some(bound);
                stake.held_by = HeldBy::Count;
            }
        }
        self.budgets.verdict = Verdict::Wait;
    }
}

impl From<Refused> for Stopped {
    fn from(refused: Refused) -> Self {
        Self {
            code: refused.code,
            message: refused.message,
            param: None,
            retry_after_s: refused.retry_after_s,
            budget: Some(refused.budget),
            affordable_tokens: refused.max_affordable_output_tokens,
        }
    }
}

impl Stopped {
    pub(super) fn plain(code: &'static str, message: String) -> Self {
        Self {
            code,
            message,
            param: None,
            retry_after_s: None,
            budget: None,
            affordable_tokens: None,
        }
    }
}

fn unavailable(why: &str) -> Stopped {
    let message = format!("a budget covers this request and its cost cannot be held: {why}");
    let mut stopped = Stopped::plain("ledger_unavailable", message);
    stopped.retry_after_s = Some(RETRY_AFTER_UNAVAILABLE_S);
    stopped
}

fn no_bound(fault: BoundFault, leaf: &Leaf, provider: &str) -> Stopped {
    let mut stopped = match fault {
        BoundFault::NotPriced => Stopped::plain(
            "model_not_priced",
            format!(
                "a budget covers this request and `{}` at `{provider}` has no price, so that its cost cannot be held; set `[prices.\"{provider}/{}\"]`",
                leaf.model, leaf.model
            ),
        ),
        BoundFault::Unbounded(why) => Stopped::plain(
            "cost_unbounded",
            format!(
                "a budget covers this request and nothing bounds what it may cost: {why}; leave that out, or set `max_cost_usd` on the target `{}`",
                leaf.label
            ),
        ),
    };
    stopped.param = matches!(fault, BoundFault::NotPriced).then_some("model");
    stopped
}

/// A UUID as its 16 bytes; what is no hex digit is left out.
fn request_bytes(id: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let digits = id.bytes().filter_map(|byte| char::from(byte).to_digit(16));
    for (place, digit) in digits.take(32).enumerate() {
        let digit = u8::try_from(digit).unwrap_or(0);
        bytes[place / 2] |= if place % 2 == 0 { digit << 4 } else { digit };
    }
    bytes
}

/// Rows as expressions read them.
pub(super) fn states_of(rows: &[RowState<'_>]) -> Vec<BudgetState> {
    let tightest = budget::decide::tightest(rows);
    rows.iter()
        .enumerate()
        .map(|(at, row)| BudgetState {
            name: row.budget.name.clone(),
            spent_nusd: row.balance.spent_nusd,
            held_nusd: row.balance.held_nusd,
            allowed_nusd: u64::try_from(row.allowed_nusd()).unwrap_or(u64::MAX),
            is_tightest: tightest == Some(at),
        })
        .collect()
}
