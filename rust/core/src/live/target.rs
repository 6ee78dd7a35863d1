//! Targets: what is in flight, how they fare, how fast they are.
//!
//! ```text
//! word     what
//! 0        key
//! 1        last use, µs
//! 2        breaker
//! 3        attempts that have begun, since the entry was made
//! 4..14    window: 10 buckets of 3 s: number (24 bits), ok (20), failed (20)
//! 16..32   per size class: ttft, its run, total, its run
//! ```

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::histogram::{self, Counts};
use super::layout::{MINUTE_BYTES, MINUTES, TARGETS, in_flight_offset, minute_offset};
use super::{Live, TargetId, ewma};
use crate::breaker::{self, Breaker, Event, State, Window};

const USED: usize = 1;
const BREAKER: usize = 2;
const BEGUN: usize = 3;
const WINDOW: usize = 4;
const WINDOW_WORDS: Range<usize> = WINDOW..WINDOW + 10;
/// When the target answered last, or when the first of those that wait began to.
const PROGRESS: usize = 14;
const AVERAGES: usize = 16;

/// A slot's counter of a target: below, what is in flight; above, what of it has no answer yet.
const WAITS: u64 = 1 << 32;

const WINDOW_BUCKETS: u64 = 10;
const WINDOW_BUCKET_MS: u64 = breaker::WINDOW_MS / WINDOW_BUCKETS;
const FIELD_BITS: u32 = 20;
const FIELD_MAX: u32 = (1 << FIELD_BITS) - 1;
const NUMBER_MAX: u64 = (1 << 24) - 1;

const MINUTE_US: u64 = 60_000_000;
/// Figures for people look back so many minutes, the one that runs included.
const MINUTES_SHOWN: u64 = 5;
const CLASSES: usize = 4;

/// Size classes by their distance from each, the smaller of two first.
const NEAREST: [[usize; CLASSES]; CLASSES] =
    [[0, 1, 2, 3], [1, 0, 2, 3], [2, 1, 3, 0], [3, 2, 1, 0]];

/// How large a request is: a long prompt takes its time at any target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum SizeClass {
    /// Below 1,000 estimated input tokens.
    Small = 0,
    /// Below 8,000.
    Medium = 1,
    /// Below 32,000.
    Large = 2,
    /// All above.
    Huge = 3,
}

impl SizeClass {
    /// All of them, smallest first.
    pub const ALL: [Self; CLASSES] = [Self::Small, Self::Medium, Self::Large, Self::Huge];

    /// The class of a request with so many estimated input tokens.
    #[must_use]
    pub fn of(input_tokens: u64) -> Self {
        match input_tokens {
            0..1_000 => Self::Small,
            1_000..8_000 => Self::Medium,
            8_000..32_000 => Self::Large,
            _ => Self::Huge,
        }
    }

    /// `small`, `medium`, `large`, `huge`.
    #[must_use]
    pub fn name(self) -> &'static str {
        ["small", "medium", "large", "huge"][self as usize]
    }
}

/// Where a target's breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Requests go there.
    Closed,
    /// It is passed over.
    Open {
        /// When a request may probe.
        until_us: u64,
        /// When it opened, or last failed a probe.
        since_us: u64,
    },
    /// One request is probing.
    HalfOpen {
        /// When that request took the probe.
        since_us: u64,
    },
}

impl Health {
    /// The public word: `closed`, `open`, `half_open`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => State::Closed.name(),
            Self::Open { .. } => State::Open.name(),
            Self::HalfOpen { .. } => State::HalfOpen.name(),
        }
    }

    fn of(breaker: Breaker) -> Self {
        let since_us = breaker.since_ms * 1_000;
        match breaker.state {
            State::Closed => Self::Closed,
            State::Open => {
                Self::Open { until_us: breaker.until_ms().saturating_mul(1_000), since_us }
            }
            State::HalfOpen => Self::HalfOpen { since_us },
        }
    }
}

/// What a decision reads of a target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TargetView {
    /// Its breaker.
    pub health: Health,
    /// Failed attempts of all that ended in the last 30 s; None without any.
    pub error_rate: Option<f32>,
    /// Attempts under way, over all workers.
    pub in_flight: u32,
    /// When an attempt began there last; 0: never.
    pub last_used_us: u64,
    /// Of the attempts under way, those without a byte of an answer.
    pub waiting: u32,
    /// For how long none of them got one, as of all that the target was asked.
    pub quiet_us: u64,
}

/// Latencies that a request of one size may expect; None: no sample, or none for ten minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClassView {
    /// To the first content byte.
    pub ttft_us: Option<f32>,
    /// To the end.
    pub total_us: Option<f32>,
}

/// A breaker that has just changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// What it was.
    pub before: Health,
    /// What it is.
    pub after: Health,
}

/// Percentiles of the last five minutes, in ms; None without a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Percentiles {
    /// Half of all are faster.
    pub p50_ms: Option<f32>,
    /// 95 of 100 are faster.
    pub p95_ms: Option<f32>,
    /// 99 of 100 are faster.
    pub p99_ms: Option<f32>,
}

/// The averages of one size class, as they are: no other class stands in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Averages {
    /// Which class.
    pub class: SizeClass,
    /// Its averages.
    pub view: ClassView,
}

/// A target as people see it.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetRow {
    /// The provider's name.
    pub provider: String,
    /// The model's name.
    pub model: String,
    /// Its breaker, error rate, and what is in flight.
    pub view: TargetView,
    /// When its breaker changed last; 0: never.
    pub since_us: u64,
    /// Attempts that have begun since the entry was made.
    pub attempts: u64,
    /// Attempts of the last five minutes that were served.
    pub ok: u64,
    /// Attempts of the last five minutes that failed.
    pub failed: u64,
    /// Latency to the first content byte.
    pub ttft: Percentiles,
    /// Latency to the end.
    pub total: Percentiles,
    /// Moving averages of the classes that have any.
    pub averages: Vec<Averages>,
}

#[derive(Clone, Copy)]
enum Metric {
    Ttft = 0,
    Total = 1,
}

impl Live {
    // --- read --------------------------------------------------------------------------------

    /// What a decision reads of a target; one that has no entry is healthy and unknown.
    #[must_use]
    pub fn read(&self, target: TargetId, now_us: u64) -> TargetView {
        match self.target_index(target) {
            Some(index) => self.view(index, now_us),
            None => TargetView {
                health: Health::Closed,
                error_rate: None,
                in_flight: 0,
                last_used_us: 0,
                waiting: 0,
                quiet_us: 0,
            },
        }
    }

    /// The latencies that a request of a class may expect there.
    ///
    /// A class without a sample goes by the nearest that has one, of two by the smaller.
    #[must_use]
    pub fn read_class(&self, target: TargetId, class: SizeClass, now_us: u64) -> ClassView {
        let Some(index) = self.target_index(target) else { return ClassView::default() };
        let nearest = |metric: Metric| {
            NEAREST[class as usize]
                .into_iter()
                .find_map(|place| self.average(index, place, metric, now_us))
        };
        ClassView { ttft_us: nearest(Metric::Ttft), total_us: nearest(Metric::Total) }
    }

    /// The median latency to the end over the last five minutes; None without a sample.
    #[must_use]
    pub fn p50_ms(&self, target: TargetId, now_us: u64) -> Option<f32> {
        let index = self.target_index(target)?;
        self.counts(index, Metric::Total, now_us).percentile_us(0.5).map(|us| us / 1_000.0)
    }

    /// Every target that has an entry, by provider and model.
    #[must_use]
    pub fn targets(&self, now_us: u64) -> Vec<TargetRow> {
        let mut rows: Vec<TargetRow> = TARGETS
            .entries(&self.mapped)
            .filter_map(|(index, _)| self.row(index, now_us))
            .collect();
        rows.sort_by(|a, b| (&a.provider, &a.model).cmp(&(&b.provider, &b.model)));
        rows
    }

    // --- write -------------------------------------------------------------------------------

    /// An attempt has begun there, in this worker slot.
    pub fn began(&self, target: TargetId, worker: u32, now_us: u64) {
        self.note_time(now_us);
        let Some(index) = self.target_index_made(target) else { return };
        self.entry(index, USED).store(now_us, Ordering::Relaxed);
        self.entry(index, BEGUN).fetch_add(1, Ordering::Relaxed);
        if worker < self.workers {
            let word = self.word(in_flight_offset(worker, index));
            let before = word.fetch_add(WAITS + 1, Ordering::Relaxed);
            if before < WAITS {
                self.entry(index, PROGRESS).store(now_us, Ordering::Relaxed);
            }
        }
    }

    /// An attempt that began there, in this worker slot, waits no longer: its answer has begun at
    /// that time, or, without one, it has ended before.
    pub fn waited(&self, target: TargetId, worker: u32, answered_us: Option<u64>) {
        let Some(index) = self.target_index(target) else { return };
        if let Some(now_us) = answered_us {
            self.entry(index, PROGRESS).store(now_us, Ordering::Relaxed);
        }
        if worker < self.workers {
            let less = |count: u64| count.checked_sub(WAITS);
            let word = self.word(in_flight_offset(worker, index));
            let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }

    /// An attempt that began there, in this worker slot, has ended.
    pub fn ended(&self, target: TargetId, worker: u32) {
        let Some(index) = self.target_index(target) else { return };
        if worker < self.workers {
            // Never below 0: the slot may have been cleared since, for a worker that took over.
            let less = |count: u64| (count % WAITS > 0).then(|| count - 1);
            let word = self.word(in_flight_offset(worker, index));
            let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }

    /// Nothing is in flight in this worker slot: its process is gone, or a new one takes it.
    pub fn clear_worker(&self, worker: u32) {
        if worker < self.workers {
            for index in 0..TARGETS.count {
                self.word(in_flight_offset(worker, index)).store(0, Ordering::Relaxed);
            }
        }
    }

    /// The first content byte came after so long.
    pub fn ttft(&self, target: TargetId, class: SizeClass, ttft_us: u64, now_us: u64) {
        self.sample(target, class, Metric::Ttft, ttft_us, now_us);
    }

    /// The whole answer came after so long.
    pub fn total(&self, target: TargetId, class: SizeClass, total_us: u64, now_us: u64) {
        self.sample(target, class, Metric::Total, total_us, now_us);
    }

    /// Tell the breaker how an attempt ended that began at `began_us`; say if it changed.
    #[expect(clippy::must_use_candidate, reason = "it moves the breaker, whoever looks")]
    pub fn report(
        &self,
        target: TargetId,
        event: Event,
        began_us: u64,
        now_us: u64,
    ) -> Option<Change> {
        self.note_time(now_us);
        let index = self.target_index_made(target)?;
        self.count_result(index, event, now_us);
        let (began_ms, now_ms) = (began_us / 1_000, now_us / 1_000);
        let word = self.entry(index, BREAKER);
        let mut seen = word.load(Ordering::Acquire);
        let mut window = None;
        loop {
            let before = Breaker::unpack(seen);
            if event != Event::Probe && !before.counts(began_ms) {
                return None;
            }
            let results = match before.state {
                State::Closed => {
                    *window.get_or_insert_with(|| self.count_in_window(index, event, now_ms))
                }
                State::Open | State::HalfOpen => Window::default(),
            };
            let after = breaker::next(before, event, began_ms, now_ms, results);
            if after == before {
                return None;
            }
            match word.compare_exchange_weak(
                seen,
                after.pack(),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) if after.state == before.state => return None,
                Ok(_) => {
                    if after.state == State::Closed {
                        self.forget_window(index);
                    }
                    let change =
                        Change { before: Health::of(before), after: Health::of(after) };
                    return Some(change);
                }
                Err(current) => seen = current,
            }
        }
    }

    /// May this request probe a target whose breaker is open? Of all that ask, one is told so.
    #[must_use]
    pub fn take_probe(&self, target: TargetId, now_us: u64) -> bool {
        let Some(index) = self.target_index(target) else { return false };
        let word = self.entry(index, BREAKER);
        let mut seen = word.load(Ordering::Acquire);
        loop {
            let before = Breaker::unpack(seen);
            let now_ms = now_us / 1_000;
            let after = breaker::next(before, Event::Probe, now_ms, now_ms, Window::default());
            if after == before {
                return false;
            }
            let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
            match word.compare_exchange_weak(seen, after.pack(), success, failure) {
                Ok(_) => return true,
                Err(current) => seen = current,
            }
        }
    }

    // --- inside ------------------------------------------------------------------------------

    fn entry(&self, index: usize, nth: usize) -> &AtomicU64 {
        TARGETS.word(&self.mapped, index, nth)
    }

    fn view(&self, index: usize, now_us: u64) -> TargetView {
        let words = TARGETS.words(&self.mapped, index);
        let load = |nth: usize| words[nth].load(Ordering::Relaxed);
        let (in_flight, waiting) = self.under_way(index);
        let quiet_us = now_us.saturating_sub(load(PROGRESS));
        TargetView {
            health: Health::of(Breaker::unpack(load(BREAKER))),
            error_rate: window(words, now_us / 1_000).error_rate(),
            in_flight: u32::try_from(in_flight).unwrap_or(u32::MAX),
            waiting: u32::try_from(waiting).unwrap_or(u32::MAX),
            quiet_us: if waiting == 0 { 0 } else { quiet_us },
            last_used_us: if load(BEGUN) == 0 { 0 } else { load(USED) },
        }
    }

    fn row(&self, index: usize, now_us: u64) -> Option<TargetRow> {
        let [provider, model]: [String; 2] =
            TARGETS.text(&self.mapped, index)?.try_into().ok()?;
        let breaker = Breaker::unpack(self.entry(index, BREAKER).load(Ordering::Relaxed));
        let percentiles = |metric: Metric| {
            let counts = self.counts(index, metric, now_us);
            let ms = |share: f32| counts.percentile_us(share).map(|us| us / 1_000.0);
            Percentiles { p50_ms: ms(0.5), p95_ms: ms(0.95), p99_ms: ms(0.99) }
        };
        let averages = SizeClass::ALL.into_iter().filter_map(|class| {
            let view = ClassView {
                ttft_us: self.average(index, class as usize, Metric::Ttft, now_us),
                total_us: self.average(index, class as usize, Metric::Total, now_us),
            };
            (view != ClassView::default()).then_some(Averages { class, view })
        });
        let (ok, failed) = self.results(index, now_us);
        Some(TargetRow {
            provider,
            model,
            view: self.view(index, now_us),
            since_us: breaker.since_ms.saturating_mul(1_000),
            attempts: self.entry(index, BEGUN).load(Ordering::Relaxed),
            ok,
            failed,
            ttft: percentiles(Metric::Ttft),
            total: percentiles(Metric::Total),
            averages: averages.collect(),
        })
    }

    pub(super) fn in_flight(&self, index: usize) -> u64 {
        self.under_way(index).0
    }

    /// What is under way at a target, and what of it has no answer yet, over all workers.
    fn under_way(&self, index: usize) -> (u64, u64) {
        let mut sum = (0, 0);
        for worker in 0..self.workers {
            let word = self.word(in_flight_offset(worker, index)).load(Ordering::Relaxed);
            sum = (sum.0 + word % WAITS, sum.1 + word / WAITS);
        }
        sum
    }

    /// Empty what lies beside a target's entry.
    pub(super) fn forget_target(&self, index: usize) {
        for worker in 0..self.workers {
            self.word(in_flight_offset(worker, index)).store(0, Ordering::Relaxed);
        }
        for slot in 0..MINUTES {
            self.word(minute_offset(index, slot)).store(0, Ordering::Relaxed);
        }
    }

    fn average(&self, index: usize, class: usize, metric: Metric, now_us: u64) -> Option<f32> {
        ewma::fresh(self.entry(index, AVERAGES + class * 4 + metric as usize * 2), now_us)
    }

    #[expect(clippy::cast_precision_loss, reason = "an average of latencies")]
    fn sample(&self, target: TargetId, class: SizeClass, metric: Metric, us: u64, now_us: u64) {
        let Some(index) = self.target_index(target) else { return };
        let place = AVERAGES + class as usize * 4 + metric as usize * 2;
        let (average, run) = (self.entry(index, place), self.entry(index, place + 1));
        ewma::sample(average, run, us as f32, now_us);
        if let Some(minute) = self.minute(index, now_us) {
            let from = minute + 16 + metric as usize * histogram::WORDS * 8;
            histogram::count(self.mapped.words(from, histogram::WORDS), us);
        }
    }

    // --- the breaker's window ----------------------------------------------------------------

    /// Count a result and return the window with it.
    fn count_in_window(&self, index: usize, event: Event, now_ms: u64) -> Window {
        let number = now_ms / WINDOW_BUCKET_MS;
        let one = match event {
            Event::Ok => 1 << FIELD_BITS,
            Event::Failed => 1,
            Event::Neutral | Event::Probe => return Window::default(),
        };
        let place = WINDOW + usize::try_from(number % WINDOW_BUCKETS).unwrap_or(0);
        let head = (number & NUMBER_MAX) << (2 * FIELD_BITS);
        let add = |seen: u64| {
            let kept =
                if seen >> (2 * FIELD_BITS) == number & NUMBER_MAX { seen } else { head };
            let (ok, failed) = fields(kept);
            let is_full = ok.max(failed) >= FIELD_MAX;
            (!is_full).then_some(kept + one)
        };
        let word = self.entry(index, place);
        let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        window(TARGETS.words(&self.mapped, index), now_ms)
    }

    fn forget_window(&self, index: usize) {
        for bucket in &TARGETS.words(&self.mapped, index)[WINDOW_WORDS] {
            bucket.store(0, Ordering::Relaxed);
        }
    }

    // --- the last minutes --------------------------------------------------------------------

    /// Where the minute that runs lies, emptied if it is another's; None for one long past.
    fn minute(&self, index: usize, now_us: u64) -> Option<usize> {
        let number = now_us / MINUTE_US + 1;
        let slot = usize::try_from(number).ok()? % MINUTES;
        let offset = minute_offset(index, slot);
        let owner = self.word(offset);
        let seen = owner.load(Ordering::Relaxed);
        if seen > number {
            return None;
        }
        if seen < number
            && owner
                .compare_exchange(seen, number, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            // What others count here meanwhile may be lost: one sample of a minute.
            for word in &self.mapped.words(offset, MINUTE_BYTES / 8)[1..] {
                word.store(0, Ordering::Relaxed);
            }
        }
        Some(offset)
    }

    /// The minutes that people are shown.
    fn shown_minutes(&self, index: usize, now_us: u64) -> impl Iterator<Item = usize> + '_ {
        let number = now_us / MINUTE_US + 1;
        (0..MINUTES).map(move |slot| minute_offset(index, slot)).filter(move |offset| {
            let seen = self.word(*offset).load(Ordering::Relaxed);
            seen <= number && number - seen < MINUTES_SHOWN
        })
    }

    fn counts(&self, index: usize, metric: Metric, now_us: u64) -> Counts {
        let mut counts = Counts::new();
        for minute in self.shown_minutes(index, now_us) {
            let from = minute + 16 + metric as usize * histogram::WORDS * 8;
            counts.add(self.mapped.words(from, histogram::WORDS));
        }
        counts
    }

    fn count_result(&self, index: usize, event: Event, now_us: u64) {
        let one = match event {
            Event::Ok => 1,
            Event::Failed => 1 << 32,
            Event::Neutral | Event::Probe => return,
        };
        if let Some(minute) = self.minute(index, now_us) {
            self.word(minute + 8).fetch_add(one, Ordering::Relaxed);
        }
    }

    fn results(&self, index: usize, now_us: u64) -> (u64, u64) {
        self.shown_minutes(index, now_us).fold((0, 0), |(ok, failed), minute| {
            let seen = self.word(minute + 8).load(Ordering::Relaxed);
            (ok + (seen & u64::from(u32::MAX)), failed + (seen >> 32))
        })
    }
}

/// What a target's buckets hold of the last 30 s.
fn window(words: &[AtomicU64], now_ms: u64) -> Window {
    let number = now_ms / WINDOW_BUCKET_MS;
    let mut window = Window::default();
    for bucket in &words[WINDOW_WORDS] {
        let seen = bucket.load(Ordering::Relaxed);
        let age = number.wrapping_sub(seen >> (2 * FIELD_BITS)) & NUMBER_MAX;
        if age < WINDOW_BUCKETS {
            let (ok, failed) = fields(seen);
            window.ok = window.ok.saturating_add(ok);
            window.failed = window.failed.saturating_add(failed);
        }
    }
    window
}

/// Served and failed results of a window's bucket.
#[expect(clippy::cast_possible_truncation, reason = "masked to 20 bits")]
fn fields(word: u64) -> (u32, u32) {
    ((word >> FIELD_BITS) as u32 & FIELD_MAX, word as u32 & FIELD_MAX)
}
