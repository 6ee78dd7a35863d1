//! A calendar remembers its last answer, and nobody notices. What the answers are is judged in
//! Python, where there is a second calendar.

use modelux_core::ledger::window::{Calendar, Period};
use proptest::prelude::*;

const PERIODS: [Period; 4] = [Period::Daily, Period::Weekly, Period::Monthly, Period::Total];

proptest! {
    #[test]
    fn a_calendar_that_was_used_answers_as_one_that_was_not(
        zone in prop::sample::select(vec!["UTC", "America/Sao_Paulo", "Pacific/Apia"]),
        period in prop::sample::select(PERIODS.to_vec()),
        from_s in 0..1_900_000_000_i64,
        steps_s in prop::collection::vec(-200_000..200_000_i64, 1..40),
    ) {
        let used = Calendar::new(zone, period).unwrap();
        let mut unix_s = from_s;
        for step_s in steps_s {
            unix_s += step_s;
            let fresh = Calendar::new(zone, period).unwrap();
            prop_assert_eq!(used.window(unix_s), fresh.window(unix_s));
        }
    }
}

#[test]
fn the_first_second_and_the_one_before_lie_in_two_windows_of_one_calendar() {
    let calendar = Calendar::new("Europe/Berlin", Period::Daily).unwrap();
    let today = calendar.window(1_790_000_000);
    let end_s = today.end_s.unwrap();
    assert_eq!(calendar.window(end_s - 1), today);
    assert_eq!(calendar.window(end_s).start_s, end_s);
    assert_eq!(calendar.window(today.start_s), today);
    assert_eq!(calendar.window(today.start_s - 1).end_s, Some(today.start_s));
}
