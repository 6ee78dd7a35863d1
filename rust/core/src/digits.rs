//! Numbers as text, appended without an allocation.

/// Decimal digits.
pub fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

pub(crate) fn push_hex(out: &mut Vec<u8>, number: u64) {
    let digits = (64 - number.leading_zeros()).div_ceil(4).max(1);
    for index in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(number >> (4 * index) & 15) as usize]);
    }
}

/// USD with nine decimals; trailing zeros are dropped down to `decimals_min`.
pub fn push_usd(out: &mut Vec<u8>, nusd: u64, decimals_min: u32) {
    push_number(out, nusd / 1_000_000_000);
    let mut text = [b'0'; 10];
    text[0] = b'.';
    let mut rest = nusd % 1_000_000_000;
    let mut at = text.len();
    let mut end = decimals_min as usize + 1;
    while rest > 0 {
        at -= 1;
        let digit = (rest % 10) as u8;
        if digit > 0 {
            end = end.max(at + 1);
        }
        text[at] = b'0' + digit;
        rest /= 10;
    }
    out.extend_from_slice(&text[..end]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn usd(nusd: u64, decimals_min: u32) -> String {
        let mut out = Vec::new();
        push_usd(&mut out, nusd, decimals_min);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_amount_has_the_decimals_it_needs_and_at_least_those_asked_for() {
        assert_eq!(usd(0, 0), "0.");
        assert_eq!(usd(0, 2), "0.00");
        assert_eq!(usd(1, 4), "0.000000001");
        assert_eq!(usd(1_500_000_000, 4), "1.5000");
        assert_eq!(usd(12_340_000, 4), "0.01234");
        assert_eq!(usd(u64::MAX, 9), "18446744073.709551615");
    }

    proptest! {
        #[test]
        fn nine_decimals_say_the_amount_exactly(nusd: u64) {
            let text = usd(nusd, 9);
            prop_assert_eq!(text.replace('.', "").parse::<u64>().unwrap(), nusd);
            prop_assert_eq!(text.split_once('.').unwrap().1.len(), 9);
        }

        #[test]
        fn dropped_zeros_are_all_that_fewer_decimals_lose(nusd: u64, least in 0_u32..=9) {
            let (short, long) = (usd(nusd, least), usd(nusd, 9));
            prop_assert!(long.starts_with(&short));
            prop_assert!(long[short.len()..].bytes().all(|digit| digit == b'0'));
        }
    }
}
