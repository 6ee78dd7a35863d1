//! Credentials: which a provider has refused, and which are to be left in peace for a while.
//!
//! ```text
//! word  of a credential                        of a pause
//! 0     key                                    key of target and credential
//! 1     last use, µs                           until, µs
//! 2     when it was refused, µs; 0: it is not
//! 3     hash of the secret that was refused
//! 4     until when it is to be left in peace, at any of its targets, µs
//! ```

use std::sync::atomic::{AtomicU64, Ordering};

use super::layout::{COOL_UNTIL_OFFSET, CREDENTIALS, PAUSES_MAX, PAUSES_OFFSET, TARGETS};
use super::{CredentialId, Live, TargetId};

/// A credential that a provider refused is passed over for so long.
pub const REJECTED_US: u64 = 60_000_000;
/// The longest pause that a provider may ask for.
pub const COOL_US_MAX: u64 = 300_000_000;

const USED: usize = 1;
const REJECTED: usize = 2;
const SECRET: usize = 3;
const COOL_UNTIL: usize = 4;

const PAUSE_PROBES: usize = 8;

/// A credential as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialRow {
    /// The provider's name.
    pub provider: String,
    /// The credential's id.
    pub credential: String,
    /// Until when it is passed over because the provider refused it; None: it is not.
    pub rejected_until_us: Option<u64>,
    /// Until when one of its targets asked to be left in peace; None: none does.
    pub cooling_until_us: Option<u64>,
}

impl Live {
    /// The provider asked that this credential leave the target in peace (429, `Retry-After`).
    ///
    /// Args: `until_us`: more than five minutes from now are five minutes.
    pub fn cool(&self, target: TargetId, credential: &str, until_us: u64, now_us: u64) {
        self.note_time(now_us);
        let until_us = until_us.min(now_us.saturating_add(COOL_US_MAX));
        if until_us <= now_us {
            return;
        }
        let key = self.pause_key(target, credential);
        let (owner, until) = self.pause_to_use(key, now_us);
        // In this order a writer killed in between leaves a pause that is over.
        owner.store(key, Ordering::Relaxed);
        until.store(until_us, Ordering::Relaxed);
        self.word(COOL_UNTIL_OFFSET).fetch_max(until_us, Ordering::Release);
        let Some(index) = self.target_index(target) else { return };
        if let Some([provider, ..]) = TARGETS.text(&self.mapped, index).as_deref() {
            let entry = self.credential(provider, credential);
            if let Some(index) = self.credential_index(entry) {
                self.of_credential(index, USED).store(now_us, Ordering::Relaxed);
                self.of_credential(index, COOL_UNTIL).fetch_max(until_us, Ordering::Relaxed);
            }
        }
    }

    /// Until when a credential is to leave a target in peace; None: it need not.
    #[must_use]
    pub fn cooling_until_us(
        &self,
        target: TargetId,
        credential: &str,
        now_us: u64,
    ) -> Option<u64> {
        // Nearly always nothing cools anywhere, and no key has to be made.
        if self.word(COOL_UNTIL_OFFSET).load(Ordering::Acquire) <= now_us {
            return None;
        }
        let key = self.pause_key(target, credential);
        self.pauses(key)
            .filter(|(owner, _)| owner.load(Ordering::Relaxed) == key)
            .map(|(_, until)| until.load(Ordering::Relaxed))
            .filter(|until_us| *until_us > now_us)
            .max()
    }

    /// The provider refused this credential (401, 402, 403).
    ///
    /// Args: `secret_hash`: of its value, so that another value is not passed over.
    pub fn reject_credential(&self, credential: CredentialId, now_us: u64, secret_hash: u64) {
        self.note_time(now_us);
        let key = credential.0.key;
        let made = || (key != 0).then(|| self.find_or_make(&CREDENTIALS, key, &[])).flatten();
        let Some(index) = self.credential_index(credential).or_else(made) else { return };
        self.of_credential(index, USED).store(now_us, Ordering::Relaxed);
        self.of_credential(index, SECRET).store(secret_hash, Ordering::Relaxed);
        self.of_credential(index, REJECTED).store(now_us.max(1), Ordering::Release);
    }

    /// The provider took this credential: what was said of it before is over.
    pub fn accept_credential(&self, credential: CredentialId) {
        let Some(index) = self.credential_index(credential) else { return };
        let rejected = self.of_credential(index, REJECTED);
        if rejected.load(Ordering::Relaxed) != 0 {
            rejected.store(0, Ordering::Relaxed);
        }
    }

    /// Has the provider refused this very secret within the last minute?
    #[must_use]
    pub fn is_rejected(&self, credential: CredentialId, now_us: u64, secret_hash: u64) -> bool {
        let Some(index) = self.credential_index(credential) else { return false };
        self.rejected_until_us(index, now_us).is_some()
            && self.of_credential(index, SECRET).load(Ordering::Relaxed) == secret_hash
    }

    /// Every credential that has an entry, by provider and id.
    #[must_use]
    pub fn credentials(&self, now_us: u64) -> Vec<CredentialRow> {
        let row = |index: usize| {
            let [provider, credential]: [String; 2] =
                CREDENTIALS.text(&self.mapped, index)?.try_into().ok()?;
            let cool_us = self.of_credential(index, COOL_UNTIL).load(Ordering::Relaxed);
            Some(CredentialRow {
                provider,
                credential,
                rejected_until_us: self.rejected_until_us(index, now_us),
                cooling_until_us: (cool_us > now_us).then_some(cool_us),
            })
        };
        let mut rows: Vec<CredentialRow> =
            CREDENTIALS.entries(&self.mapped).filter_map(|(index, _)| row(index)).collect();
        rows.sort_by(|a, b| (&a.provider, &a.credential).cmp(&(&b.provider, &b.credential)));
        rows
    }

    fn rejected_until_us(&self, index: usize, now_us: u64) -> Option<u64> {
        let at_us = self.of_credential(index, REJECTED).load(Ordering::Acquire);
        let until_us = at_us.saturating_add(REJECTED_US);
        (at_us != 0 && until_us > now_us).then_some(until_us)
    }

    fn credential_index(&self, credential: CredentialId) -> Option<usize> {
        CREDENTIALS.find(&self.mapped, credential.0.key, credential.0.index as usize)
    }

    fn of_credential(&self, index: usize, nth: usize) -> &AtomicU64 {
        CREDENTIALS.word(&self.mapped, index, nth)
    }

    fn pause_key(&self, target: TargetId, credential: &str) -> u64 {
        // Two keys of the same maker: neither can be chosen, so their mixture cannot.
        self.keys.key_of(b'p', &[credential]) ^ target.0.key.rotate_left(32)
    }

    fn pauses(&self, key: u64) -> impl Iterator<Item = (&AtomicU64, &AtomicU64)> {
        #[expect(clippy::cast_possible_truncation, reason = "taken modulo")]
        let home = key as usize;
        (0..PAUSE_PROBES).map(move |step| {
            let offset = PAUSES_OFFSET + (home.wrapping_add(step) % PAUSES_MAX) * 16;
            (self.word(offset), self.word(offset + 8))
        })
    }

    /// The pause of a key, or the one near it that ends first.
    fn pause_to_use(&self, key: u64, now_us: u64) -> (&AtomicU64, &AtomicU64) {
        let mut best = (u64::MAX, self.word(PAUSES_OFFSET), self.word(PAUSES_OFFSET + 8));
        for (owner, until) in self.pauses(key) {
            if owner.load(Ordering::Relaxed) == key {
                return (owner, until);
            }
            let until_us = until.load(Ordering::Relaxed);
            let rank = if until_us <= now_us { 0 } else { until_us };
            if rank < best.0 {
                best = (rank, owner, until);
            }
        }
        (best.1, best.2)
    }
}
