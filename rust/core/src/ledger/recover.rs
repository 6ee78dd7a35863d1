//! The end of a dead worker's holds: what was never sent is released, the rest is charged.

use super::codec::{self, HOLD};
use super::slots::{self, DeadSlots, Left, Phase};
use super::turn::Cause;
use super::{Ledger, LedgerFault};

/// How the holds of one worker ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The worker lives: nothing was done.
    pub alive: bool,
    /// Holds of requests that were never sent.
    pub released: u64,
    /// Holds whose final charge was known.
    pub settled: u64,
    /// Holds of requests under way, charged with what the slot said.
    pub crashed: u64,
    /// What these were charged.
    pub crash_nusd: u64,
}

/// End the holds of a worker that is gone, and remove its slots.
///
/// Each hold ends in one transaction with the money it moves: killed in between, this is run
/// again and goes on. A hold that its slot does not know was never sent (`slots`). Without a
/// slot file that can be read nothing is proved, and every hold is charged in full.
///
/// # Errors
/// A record that contradicts its layout, or what the system says. What was ended stays so.
pub fn recover(ledger: &mut Ledger, generation: u64) -> Result<Recovered, LedgerFault> {
    let slots = match slots::left_of(&ledger.state_dir, generation)? {
        Left::Alive => return Ok(Recovered { alive: true, ..Recovered::default() }),
        Left::Dead(slots) => Some(slots),
        Left::Unknown => None,
    };
    // The dead may have been reading: that would keep every page freed from here on in use.
    ledger.clear_stale_readers()?;
    let mut recovered = Recovered::default();
    for (seq, end) in ends_of(ledger, generation, slots.as_ref())? {
        let (charge_nusd, cause) = match end {
            End::Release => (0, Cause::Settle),
            End::Settle(charge_nusd) => (charge_nusd, Cause::Settle),
            End::Crash(charge_nusd) => (charge_nusd, Cause::Crash),
        };
        let mut turn = ledger.turn()?;
        if turn.settle_of(generation, seq, charge_nusd, cause)?.is_none() {
            continue;
        }
        turn.commit()?;
        match end {
            End::Release => recovered.released += 1,
            End::Settle(_) => recovered.settled += 1,
            End::Crash(charge_nusd) => {
                recovered.crashed += 1;
                recovered.crash_nusd = recovered.crash_nusd.saturating_add(charge_nusd);
            }
        }
    }
    // Only now: without them, what is left would be charged in full.
    slots::remove(&ledger.state_dir, generation)?;
    Ok(recovered)
}

#[derive(Clone, Copy)]
enum End {
    Release,
    Settle(u64),
    Crash(u64),
}

/// How each hold of `generation` is to end.
fn ends_of(
    ledger: &Ledger,
    generation: u64,
    slots: Option<&DeadSlots>,
) -> Result<Vec<(u64, End)>, LedgerFault> {
    let mut ends = Vec::new();
    ledger.scan(HOLD, |_, key, value| {
        let (of, seq) = codec::hold_of(key)?;
        if of != generation {
            return Ok(());
        }
        let (head, _) = codec::decode_hold(value)?;
        let end = match slots.and_then(|slots| slots.read(head.slot)) {
            None => End::Crash(head.amount_nusd),
            Some((known_seq, _, _)) if known_seq != seq => End::Release,
            Some((_, Phase::Free | Phase::Held, _)) => End::Release,
            Some((_, Phase::Sent, charge_nusd)) => End::Crash(charge_nusd),
            Some((_, Phase::Done, charge_nusd)) => End::Settle(charge_nusd),
        };
        ends.push((seq, end));
        Ok(())
    })?;
    Ok(ends)
}
