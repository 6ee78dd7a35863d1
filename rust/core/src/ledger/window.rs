//! Which window an instant lies in: a pure function of time zone, period and clock.
//!
//! A day begins at the first instant that exists at or after 00:00 on its local clock. Where the
//! clock is turned back over midnight, that is the first of two; where it is turned forward over
//! it, the turn itself. So windows follow each other without gap or overlap, whatever the clock
//! on the wall shows, and a day that a zone leaves out is a window without instants.

use std::cell::Cell;

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan};

/// How long a window lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Period {
    /// A day.
    Daily,
    /// Seven days from a Monday.
    Weekly,
    /// From the first of a month.
    Monthly,
    /// For ever.
    Total,
}

impl Period {
    /// The period that a word of the configuration means.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "daily" => Some(Self::Daily),
            "weekly" => Some(Self::Weekly),
            "monthly" => Some(Self::Monthly),
            "total" => Some(Self::Total),
            _ => None,
        }
    }
}

/// A span of time, its end not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its first second since 1970; 0 where it has no beginning.
    pub start_s: i64,
    /// The first second after it; None: there is none.
    pub end_s: Option<i64>,
}

impl Window {
    /// The window that everything lies in.
    pub const TOTAL: Self = Self { start_s: 0, end_s: None };

    fn contains(self, unix_s: i64) -> bool {
        unix_s >= self.start_s && self.end_s.is_some_and(|end_s| unix_s < end_s)
    }
}

/// The windows of one period in one time zone.
#[derive(Clone, Debug)]
pub struct Calendar {
    zone: TimeZone,
    period: Period,
    /// The window of the last answer, which is mostly that of the next.
    last: Cell<Window>,
}

impl Calendar {
    /// The calendar of an IANA time zone, from the data that is compiled in.
    ///
    /// # Errors
    /// The name is not in it.
    pub fn new(timezone: &str, period: Period) -> Result<Self, String> {
        let zone = zone_of(timezone).ok_or_else(|| {
            format!(
                "`{timezone}` is not a time zone: write an IANA name such as `Europe/Berlin`"
            )
        })?;
        Ok(Self { zone, period, last: Cell::new(Window::TOTAL) })
    }

    /// The window that a second since 1970 lies in.
    ///
    /// Beyond the years that a calendar has, it is the last or first window there is.
    #[must_use]
    pub fn window(&self, unix_s: i64) -> Window {
        if self.period == Period::Total {
            return Window::TOTAL;
        }
        let last = self.last.get();
        if last.contains(unix_s) {
            return last;
        }
        let found = self.find(unix_s);
        self.last.set(found);
        found
    }

    fn find(&self, unix_s: i64) -> Window {
        let unix_s = unix_s.clamp(FIRST_S, LAST_S);
        let Ok(instant) = Timestamp::from_second(unix_s) else { return Window::TOTAL };
        let mut day = self.first_day(self.zone.to_datetime(instant).date());
        let mut start_s = self.begin(day);
        // The clock may show a day that has ended, where it was turned back over midnight.
        let mut next = self.next(day);
        let mut end_s = self.begin(next);
        while end_s <= unix_s {
            day = next;
            start_s = end_s;
            next = self.next(day);
            end_s = self.begin(next);
        }
        Window { start_s, end_s: Some(end_s) }
    }

    /// The day that the period of `day` begins with.
    fn first_day(&self, day: Date) -> Date {
        match self.period {
            Period::Weekly => {
                let days = day.weekday().since(Weekday::Monday);
                day.saturating_sub(i64::from(days).days())
            }
            Period::Monthly => day.first_of_month(),
            Period::Daily | Period::Total => day,
        }
    }

    /// The first day of the next period.
    fn next(&self, day: Date) -> Date {
        match self.period {
            Period::Weekly => day.saturating_add(7.days()),
            Period::Monthly => day.saturating_add(1.month()),
            Period::Daily | Period::Total => day.saturating_add(1.day()),
        }
    }

    /// The first instant at or after 00:00 of `day` on the local clock.
    fn begin(&self, day: Date) -> i64 {
        let midnight = day.to_datetime(Time::midnight());
        let ambiguous = self.zone.to_ambiguous_timestamp(midnight);
        let as_utc_s =
            TimeZone::UTC.to_timestamp(midnight).map_or(LAST_S, Timestamp::as_second);
        match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { offset } => as_utc_s - i64::from(offset.seconds()),
            // The first time that the clock shows it.
            AmbiguousOffset::Fold { before, .. } => as_utc_s - i64::from(before.seconds()),
            // It never shows it: the turn of the clock lies between what the two offsets say.
            AmbiguousOffset::Gap { after, .. } => {
                let earlier = Timestamp::from_second(as_utc_s - i64::from(after.seconds()));
                let turn = earlier
                    .ok()
                    .and_then(|earlier| self.zone.following(earlier).next())
                    .map(|transition| transition.timestamp().as_second());
                turn.unwrap_or(as_utc_s)
            }
        }
    }
}

/// Ten years within what the calendar can count: no step from here leaves it.
const FIRST_S: i64 = -377_390_000_000;
const LAST_S: i64 = 253_080_000_000;

/// Whether the compiled-in data has a time zone of that name.
#[must_use]
pub fn is_timezone(name: &str) -> bool {
    zone_of(name).is_some()
}

fn zone_of(name: &str) -> Option<TimeZone> {
    // `jiff` also takes other spellings of a name, and `Etc/Unknown`; a configuration has one.
    let zone = TimeZone::get(name).ok()?;
    (zone.iana_name() == Some(name)).then_some(zone)
}
