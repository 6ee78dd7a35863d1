//! A target's circuit breaker: one table of states and events, and the word it is kept in.
//!
//! ```text
//!            5 failures in a row, or over half
//!            of at least 20 results in 30 s
//!   CLOSED ───────────────────────────────────► OPEN ◄──────────────┐
//!     ▲                                          │ 5 s × 2^k over   │ failed: k + 1
//!     │                                          ▼                  │ neither: due at once
//!     └───────────────── ok: k = 0 ────────── HALF-OPEN ────────────┘
//!                                              one request probes
//! ```
//!
//! A result counts only where its attempt began after the state did: what was under way before
//! says nothing about what has been seen since. So a late success closes nothing, and a late
//! failure extends nothing. Nothing here knows a clock, or how many processes there are.

/// Failures in a row that open a breaker.
pub const FAILURES_IN_A_ROW: u8 = 5;
/// Results that the window must hold before its share of failures counts.
pub const WINDOW_RESULTS_MIN: u32 = 20;
/// How long the window looks back.
pub const WINDOW_MS: u64 = 30_000;
/// How long a breaker is open the first time; each failed probe doubles it.
pub const OPEN_MS: u64 = 5_000;
/// The longest that one is open before the next probe.
pub const OPEN_MS_MAX: u64 = 300_000;
/// A probe that has not come back for so long is given up, and another request may probe.
pub const PROBE_MS: u64 = 60_000;

/// 5 s × 2^6 is beyond the longest already.
const DOUBLINGS_MAX: u8 = 6;

const STATE_BITS: u64 = 0b11;
const DUE_BIT: u64 = 1 << 2;
const DOUBLINGS_SHIFT: u32 = 3;
const DOUBLINGS_BITS: u64 = 0b1_1111;
const FAILURES_SHIFT: u32 = 8;
const FAILURES_BITS: u64 = 0xFF;
const SINCE_SHIFT: u32 = 16;
const SINCE_MS_MAX: u64 = (1 << 48) - 1;

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u64)]
pub enum State {
    /// Requests go there.
    #[default]
    Closed = 0,
    /// It is passed over.
    Open = 1,
    /// One request is finding out whether it serves again.
    HalfOpen = 2,
}

impl State {
    /// The public word: `closed`, `open`, `half_open`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// What happened to an attempt, or is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The target served.
    Ok,
    /// A timeout, a connection that failed or broke, a 5xx, a 429 that names no time.
    Failed,
    /// It says nothing about the target: the caller's fault, or the caller went away.
    Neutral,
    /// A request offers to probe.
    Probe,
}

/// Results of the last [`WINDOW_MS`], the one at hand included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Attempts that were served.
    pub ok: u32,
    /// Attempts that failed.
    pub failed: u32,
}

impl Window {
    /// The share of failures; None without a result.
    #[must_use]
    pub fn error_rate(self) -> Option<f32> {
        let all = self.ok.saturating_add(self.failed);
        #[expect(clippy::cast_precision_loss, reason = "a share for people and rules")]
        let share = |part: u32| part as f32 / all as f32;
        (all > 0).then(|| share(self.failed))
    }

    fn is_mostly_failures(self) -> bool {
        let all = u64::from(self.ok) + u64::from(self.failed);
        all >= u64::from(WINDOW_RESULTS_MIN) && u64::from(self.failed) * 2 > all
    }
}

/// One breaker. The default is closed, and packs to 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    /// Where it stands.
    pub state: State,
    /// Open: a probe ended without a word on the target, so the next may begin at once.
    pub is_due: bool,
    /// Probes that failed one after the other: each doubled the time that it stays open.
    pub doublings: u8,
    /// Closed: failures in a row.
    pub failures: u8,
    /// When this state began, on the monotonic clock.
    pub since_ms: u64,
}

impl Breaker {
    /// The word that holds it: state (2 bits), due (1), doublings (5), failures (8), since (48).
    #[must_use]
    pub fn pack(self) -> u64 {
        (self.state as u64)
            | if self.is_due { DUE_BIT } else { 0 }
            | (u64::from(self.doublings) & DOUBLINGS_BITS) << DOUBLINGS_SHIFT
            | u64::from(self.failures) << FAILURES_SHIFT
            | self.since_ms.min(SINCE_MS_MAX) << SINCE_SHIFT
    }

    /// What a word holds; a state that does not exist counts as closed.
    #[must_use]
    pub fn unpack(word: u64) -> Self {
        let small = |shift: u32, bits: u64| u8::try_from(word >> shift & bits).unwrap_or(0);
        Self {
            state: match word & STATE_BITS {
                1 => State::Open,
                2 => State::HalfOpen,
                _ => State::Closed,
            },
            is_due: word & DUE_BIT != 0,
            doublings: small(DOUBLINGS_SHIFT, DOUBLINGS_BITS),
            failures: small(FAILURES_SHIFT, FAILURES_BITS),
            since_ms: word >> SINCE_SHIFT,
        }
    }

    /// Open: when a request may probe.
    #[must_use]
    pub fn until_ms(self) -> u64 {
        let open_ms = (OPEN_MS << self.doublings.min(DOUBLINGS_MAX)).min(OPEN_MS_MAX);
        if self.is_due { self.since_ms } else { self.since_ms.saturating_add(open_ms) }
    }

    /// Is `event` one that this state takes in, when its attempt began at `began_ms`?
    #[must_use]
    pub fn counts(self, began_ms: u64) -> bool {
        self.state != State::Open && began_ms >= self.since_ms
    }
}

/// What becomes of `breaker` by `event` at `now_ms`.
///
/// Args: `began_ms`: when the attempt began; of [`Event::Probe`] it does not matter; `window`:
/// the results so far, with this one.
#[must_use]
pub fn next(
    breaker: Breaker,
    event: Event,
    began_ms: u64,
    now_ms: u64,
    window: Window,
) -> Breaker {
    let open = |doublings: u8, is_due: bool| Breaker {
        state: State::Open,
        is_due,
        doublings: doublings.min(DOUBLINGS_MAX),
        failures: 0,
        since_ms: now_ms,
    };
    let half_open =
        Breaker { state: State::HalfOpen, is_due: false, since_ms: now_ms, ..breaker };
    if event != Event::Probe && !breaker.counts(began_ms) {
        return breaker;
    }
    match (breaker.state, event) {
        (State::Closed, Event::Ok | Event::Failed) => {
            let failures = match event {
                Event::Failed => breaker.failures.saturating_add(1),
                _ => 0,
            };
            if failures >= FAILURES_IN_A_ROW || window.is_mostly_failures() {
                open(0, false)
            } else {
                Breaker { failures, ..breaker }
            }
        }
        (State::Open, Event::Probe) if now_ms >= breaker.until_ms() => half_open,
        (State::HalfOpen, Event::Ok) => Breaker { since_ms: now_ms, ..Breaker::default() },
        (State::HalfOpen, Event::Failed) => open(breaker.doublings.saturating_add(1), false),
        (State::HalfOpen, Event::Neutral) => open(breaker.doublings, true),
        (State::HalfOpen, Event::Probe)
            if now_ms >= breaker.since_ms.saturating_add(PROBE_MS) =>
        {
            half_open
        }
        (State::Closed, Event::Neutral | Event::Probe) | (State::Open | State::HalfOpen, _) => {
            breaker
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_000_000;
    const CALM: Window = Window { ok: 1, failed: 0 };

    fn closed(failures: u8) -> Breaker {
        Breaker { failures, since_ms: NOW - 60_000, ..Breaker::default() }
    }

    fn open(doublings: u8, since_ms: u64) -> Breaker {
        Breaker { state: State::Open, doublings, since_ms, ..Breaker::default() }
    }

    fn half_open(doublings: u8, since_ms: u64) -> Breaker {
        Breaker { state: State::HalfOpen, doublings, since_ms, ..Breaker::default() }
    }

    #[test]
    fn each_state_answers_each_event() {
        let shut = Breaker { since_ms: NOW, ..Breaker::default() };
        let due = Breaker { is_due: true, ..open(2, NOW) };
        let probing = half_open(2, NOW - 10);
        let lost = half_open(2, NOW - PROBE_MS);
        let ready = open(0, NOW - OPEN_MS);
        let early = open(0, NOW - OPEN_MS + 1);
        let cases = [
            // Closed: only failures move it, and only five in a row.
            (closed(0), Event::Ok, closed(0)),
            (closed(4), Event::Ok, closed(0)),
            (closed(0), Event::Failed, closed(1)),
            (closed(3), Event::Failed, closed(4)),
            (closed(4), Event::Failed, open(0, NOW)),
            (closed(4), Event::Neutral, closed(4)),
            (closed(4), Event::Probe, closed(4)),
            // Open: no result of anything moves it, only a probe once it is time.
            (ready, Event::Ok, ready),
            (ready, Event::Failed, ready),
            (ready, Event::Neutral, ready),
            (ready, Event::Probe, half_open(0, NOW)),
            (early, Event::Probe, early),
            (due, Event::Probe, half_open(2, NOW)),
            // Half open: the probe decides.
            (probing, Event::Ok, shut),
            (probing, Event::Failed, open(3, NOW)),
            (probing, Event::Neutral, due),
            (probing, Event::Probe, probing),
            (lost, Event::Probe, half_open(2, NOW)),
        ];
        for (before, event, after) in cases {
            assert_eq!(next(before, event, NOW - 5, NOW, CALM), after, "{before:?} {event:?}");
        }
    }

    #[test]
    fn over_half_of_twenty_results_opens_it_and_half_or_nineteen_do_not() {
        let by = |ok, failed| next(closed(0), Event::Failed, NOW, NOW, Window { ok, failed });
        assert_eq!(by(9, 11).state, State::Open);
        assert_eq!(by(10, 10).state, State::Closed);
        assert_eq!(by(8, 11).state, State::Closed);
        assert_eq!(by(400, 402).state, State::Open);
        // The twentieth result may be the good one.
        let good = next(closed(0), Event::Ok, NOW, NOW, Window { ok: 9, failed: 11 });
        assert_eq!(good, open(0, NOW));
    }

    #[test]
    fn what_began_before_the_state_did_changes_nothing() {
        let probing = half_open(1, NOW - 10);
        for event in [Event::Ok, Event::Failed, Event::Neutral] {
            assert_eq!(next(probing, event, NOW - 11, NOW, CALM), probing, "{event:?}");
        }
        let reclosed = Breaker { since_ms: NOW - 10, failures: 4, ..Breaker::default() };
        let bad = Window { ok: 0, failed: 50 };
        assert_eq!(next(reclosed, Event::Failed, NOW - 11, NOW, bad), reclosed);
        assert_eq!(next(reclosed, Event::Failed, NOW - 10, NOW, CALM).state, State::Open);
    }

    #[test]
    fn it_stays_open_twice_as_long_after_each_failed_probe_and_five_minutes_at_most() {
        let mut breaker = open(0, NOW);
        let mut waits_s = Vec::new();
        for _ in 0..10 {
            let until_ms = breaker.until_ms();
            waits_s.push((until_ms - breaker.since_ms) / 1_000);
            assert_eq!(next(breaker, Event::Probe, 0, until_ms - 1, CALM), breaker);
            let probing = next(breaker, Event::Probe, 0, until_ms, CALM);
            assert_eq!(probing.state, State::HalfOpen);
            breaker = next(probing, Event::Failed, until_ms, until_ms + 7, CALM);
        }
        assert_eq!(waits_s, [5, 10, 20, 40, 80, 160, 300, 300, 300, 300]);
    }

    #[test]
    fn an_empty_word_is_a_closed_breaker() {
        assert_eq!(Breaker::unpack(0), Breaker::default());
        assert_eq!(Breaker::default().pack(), 0);
        assert_eq!(Breaker::unpack(u64::MAX).state, State::Closed);
    }

    fn breakers() -> impl Strategy<Value = Breaker> {
        let state = prop_oneof![Just(State::Closed), Just(State::Open), Just(State::HalfOpen)];
        (state, any::<bool>(), 0..32_u8, any::<u8>(), 0..=SINCE_MS_MAX).prop_map(
            |(state, is_due, doublings, failures, since_ms)| Breaker {
                state,
                is_due,
                doublings,
                failures,
                since_ms,
            },
        )
    }

    proptest! {
        #[test]
        fn the_word_holds_all_of_a_breaker(breaker in breakers()) {
            prop_assert_eq!(Breaker::unpack(breaker.pack()), breaker);
        }

        #[test]
        fn any_word_can_be_read_and_any_event_taken(
            word in any::<u64>(), kind in 0..4_usize, began in any::<u64>(), now in any::<u64>(),
            ok in any::<u32>(), failed in any::<u32>(),
        ) {
            let event = [Event::Ok, Event::Failed, Event::Neutral, Event::Probe][kind];
            let before = Breaker::unpack(word);
            let after = next(before, event, began, now, Window { ok, failed });
            let _ = (after.pack(), after.until_ms());
            if before.state == State::Open && event != Event::Probe {
                prop_assert_eq!(before, after);
            }
        }
    }
}
