//! Keys of entries: a keyed hash of the text that an entry stands for.
//!
//! Callers name models, so the key of the hash is drawn anew for each file and stays in it: nobody
//! outside can make two names collide. The hash is that of the standard library's maps (Sip, one
//! round a word and three at the end), whose own may change with each release. A text is looked
//! for several times a request, and SHA-256 would take ten times as long.

use std::hash::{BuildHasher, RandomState};

/// What the keys of one file are made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyMaker(pub(super) [u64; 2]);

impl KeyMaker {
    /// One that nobody knows.
    pub(super) fn random() -> Self {
        // The standard library draws its own keys from the system for each of these.
        let draw = || RandomState::new().hash_one(0_u64);
        Self([draw(), draw()])
    }

    /// The key of a text of several parts, in the table called `kind`.
    ///
    /// Never 0, and its top bit is never set: these have meanings of their own.
    pub(super) fn key_of(self, kind: u8, parts: &[&str]) -> u64 {
        let mut state = State::new(self.0);
        state.take(u64::from(kind));
        for part in parts {
            // With its length before it, a part may be filled up with zeroes.
            state.take(part.len() as u64);
            for chunk in part.as_bytes().chunks(8) {
                let mut eight = [0_u8; 8];
                eight[..chunk.len()].copy_from_slice(chunk);
                state.take(u64::from_le_bytes(eight));
            }
        }
        (state.finish() >> 1).max(1)
    }
}

struct State([u64; 4]);

impl State {
    fn new([k0, k1]: [u64; 2]) -> Self {
        Self([
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ])
    }

    fn take(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.0[0] ^= word;
    }

    fn finish(mut self) -> u64 {
        self.0[2] ^= 0xff;
        for _ in 0..3 {
            self.round();
        }
        let [a, b, c, d] = self.0;
        a ^ b ^ c ^ d
    }

    fn round(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.0;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        self.0 = [a, b, c, d];
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn parts_kinds_and_files_have_keys_of_their_own() {
        let (one, two) = (KeyMaker([1, 2]), KeyMaker::random());
        let texts: [(u8, &[&str]); 9] = [
            (b't', &["a", "bc"]),
            (b't', &["ab", "c"]),
            (b't', &["abc"]),
            (b't', &["abc", ""]),
            (b't', &["", "abc"]),
            (b'c', &["a", "bc"]),
            (b't', &["a", "bc\0"]),
            (b't', &["12345678", "9"]),
            (b't', &["123456789"]),
        ];
        let keys: HashSet<u64> = texts
            .iter()
            .flat_map(|(kind, parts)| [one, two].map(|maker| maker.key_of(*kind, parts)))
            .collect();
        assert_eq!(keys.len(), 2 * texts.len());
        assert_eq!(one.key_of(b't', &["a", "bc"]), KeyMaker([1, 2]).key_of(b't', &["a", "bc"]));
        assert_ne!(KeyMaker::random(), KeyMaker::random());
    }

    #[test]
    fn keys_are_spread_over_all_places() {
        let maker = KeyMaker([3, 4]);
        let mut places = [0_u32; 64];
        for number in 0..64_000 {
            let key = maker.key_of(b't', &["p", &format!("model-{number}")]);
            assert!(key > 0 && key >> 63 == 0);
            places[usize::try_from(key % 64).unwrap()] += 1;
        }
        assert!(places.iter().all(|count| (800..1_200).contains(count)), "{places:?}");
    }
}
