//! Instants as text: the one form that HTTP sends, and ISO 8601 for people and programs.

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Jan", "Feb"];
const SECONDS_OF_DAY: u64 = 86_400;
/// Days from 0000-03-01 to 1970-01-01: years that begin in March end with their leap day.
const DAYS_BEFORE_1970: u64 = 719_468;
const DAYS_OF_400_YEARS: u64 = 146_097;

/// `2026-12-01T00:00:00Z`; None beyond the year 9999.
pub(crate) fn iso_instant(unix_s: i64) -> Option<String> {
    jiff::Timestamp::from_second(unix_s).ok().map(|instant| instant.to_string())
}

/// Append `date: Sun, 06 Nov 1994 08:49:37 GMT` with its line end.
pub fn push_date_line(out: &mut Vec<u8>, unix_s: u64) {
    let days = unix_s / SECONDS_OF_DAY;
    let second = unix_s % SECONDS_OF_DAY;
    let from_march = days + DAYS_BEFORE_1970;
    let era = from_march / DAYS_OF_400_YEARS;
    let day_of_era = from_march % DAYS_OF_400_YEARS;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year_of_era + u64::from(month >= 10);
    out.extend_from_slice(b"date: ");
    out.extend_from_slice(name(&DAYS, days % 7));
    out.extend_from_slice(b", ");
    push_digits(out, day, 2);
    out.push(b' ');
    out.extend_from_slice(name(&MONTHS, month));
    out.push(b' ');
    push_digits(out, year, 4);
    out.push(b' ');
    push_digits(out, second / 3600, 2);
    out.push(b':');
    push_digits(out, second / 60 % 60, 2);
    out.push(b':');
    push_digits(out, second % 60, 2);
    out.extend_from_slice(b" GMT\r\n");
}

fn name(names: &[&'static str], index: u64) -> &'static [u8] {
    usize::try_from(index)
        .ok()
        .and_then(|index| names.get(index))
        .map_or(b"", |name| name.as_bytes())
}

fn push_digits(out: &mut Vec<u8>, number: u64, count: u32) {
    for place in (0..count).rev() {
        // A remainder of ten fits a byte.
        out.push(b'0' + u8::try_from(number / 10_u64.pow(place) % 10).unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(unix_s: u64) -> String {
        let mut out = Vec::new();
        push_date_line(&mut out, unix_s);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        // From RFC 9110 and `date -u`: an epoch, leap days, the ends of years and centuries.
        for (unix_s, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00"),
            (1_709_164_800, "Thu, 29 Feb 2024 00:00:00"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00"),
        ] {
            assert_eq!(line(unix_s), format!("date: {text} GMT\r\n"));
        }
    }

    #[test]
    fn each_day_of_four_centuries_follows_the_one_before() {
        let mut before = (1969, 12, 31);
        for day in 0..DAYS_OF_400_YEARS {
            let text = line(day * SECONDS_OF_DAY);
            let field = |index: usize| text.split([' ', ',']).nth(index).unwrap().to_owned();
            let month_name = field(4);
            let month =
                1 + (2 + MONTHS.iter().position(|known| *known == month_name).unwrap()) % 12;
            let today: (u32, usize, u32) =
                (field(5).parse().unwrap(), month, field(3).parse().unwrap());
            let next_day = (before.0, before.1, before.2 + 1);
            let next_month = (before.0, before.1 + 1, 1);
            let next_year = (before.0 + 1, 1, 1);
            assert!(
                today == next_day && today.2 <= 31 || today == next_month || today == next_year,
                "{before:?} {today:?}"
            );
            before = today;
        }
    }
}
