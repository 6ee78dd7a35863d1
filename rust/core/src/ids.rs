//! Request ids.

/// Request ids: UUIDv7 (RFC 9562), ordered by time within a worker, unique by 62 random bits.
pub(crate) struct Ids {
    state: [u64; 2],
}

impl Ids {
    pub(crate) fn new(seed: [u64; 2]) -> Self {
        // xoroshiro must not start at zero.
        Self { state: [seed[0] | 1, seed[1]] }
    }

    fn random(&mut self) -> u64 {
        // xoroshiro128+: an id has to be unique, not secret.
        let [a, mut b] = self.state;
        let value = a.wrapping_add(b);
        b ^= a;
        self.state = [a.rotate_left(24) ^ b ^ (b << 16), b.rotate_left(37)];
        value
    }

    pub(crate) fn next(&mut self, unix_us: u64) -> String {
        let ms = u128::from(unix_us / 1000) & 0xffff_ffff_ffff;
        // The 12 bits behind the milliseconds carry the microseconds (RFC 9562, method 3).
        let fraction = u128::from((unix_us % 1000) * 4096 / 1000);
        let random = u128::from(self.random() & 0x3fff_ffff_ffff_ffff);
        let value = (ms << 80) | (0x7 << 76) | (fraction << 64) | (0b10 << 62) | random;
        let mut text = String::with_capacity(36);
        for (index, byte) in value.to_be_bytes().iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
        }
        text
    }
}
