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
#[expect(clippy::cast_possible_truncation, reason = "one decimal digit")]
pub fn push_usd(out: &mut Vec<u8>, nusd: u64, decimals_min: u32) {
    push_number(out, nusd / 1_000_000_000);
    out.push(b'.');
    let fraction = nusd % 1_000_000_000;
    let mut divisor = 100_000_000;
    let mut rest = fraction;
    let mut written = 0;
    while divisor > 0 {
        if written >= decimals_min && rest == 0 {
            break;
        }
        out.push(b'0' + (rest / divisor) as u8);
        rest %= divisor;
        divisor /= 10;
        written += 1;
    }
}
