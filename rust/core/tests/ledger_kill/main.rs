//! Real processes, killed with SIGKILL while they hold, settle, recover, or stand in a transaction.

#![expect(clippy::unwrap_used, reason = "a test that unwraps names the line that failed")]

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use modelux_core::ledger::row::{Balance, RowKey, SubjectId};
use modelux_core::ledger::{HoldRow, Ledger, MAP_BYTES_MIN, Slots, recover};

const AMOUNT: u64 = 100;
const BUDGET: [u8; 16] = [1; 16];
const OTHER: [u8; 16] = [2; 16];
const PLACE: &str = "MODELUX_TEST_LEDGER_DIR";

/// One test at a time: a process that is just being started has, until it executes, a copy of
/// every open file, and with it the locks of slots that another test takes for free.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn make() -> (tempfile::TempDir, Ledger) {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::create(dir.path(), MAP_BYTES_MIN, "boot 1").unwrap();
    (dir, ledger)
}

fn row_of(budget: [u8; 16]) -> HoldRow<'static> {
    let key = RowKey::new(&budget, SubjectId::NONE, 0);
    HoldRow { key, subject: "", window_end_s: Some(86_400) }
}

fn hold(ledger: &mut Ledger, seq: u64, amount_nusd: u64) {
    let mut turn = ledger.turn().unwrap();
    turn.hold(seq, [0; 16], 0, amount_nusd, 0, &[row_of(BUDGET)]).unwrap();
    turn.commit().unwrap();
}

fn balance(ledger: &Ledger, budget: [u8; 16]) -> Balance {
    ledger.row(&row_of(budget).key).unwrap().map(|row| row.balance).unwrap_or_default()
}

/// Run one test of this file as a process of its own, on the ledger in `dir`.
fn spawn(test: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(PLACE, dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Wait until the child has said one byte.
fn wait_for(child: &mut Child) {
    child.stderr.as_mut().unwrap().read_exact(&mut [0]).unwrap();
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// In the child: say one byte, then stand still until killed (or the parent is gone).
fn stand_still() {
    std::io::Write::write_all(&mut std::io::stderr(), b".").unwrap();
    drop(std::io::stdin().read_to_end(&mut Vec::new()));
}

fn place() -> Option<PathBuf> {
    std::env::var_os(PLACE).map(PathBuf::from)
}

/// Nothing but a child of the test below; so are all tests whose names begin so.
#[test]
fn child_stands_in_a_transaction() {
    let Some(dir) = place() else { return };
    let mut ledger = Ledger::open_worker(&dir, 5).unwrap();
    let mut turn = ledger.turn().unwrap();
    turn.hold(2, [0; 16], 0, AMOUNT, 0, &[row_of(BUDGET)]).unwrap();
    turn.settle(1, 1).unwrap();
    stand_still();
}

#[test]
fn a_process_killed_inside_a_transaction_leaves_the_lock_and_nothing_of_its_turn() {
    let _alone = alone();
    let (dir, mut ledger) = make();
    let mut worker = ledger.as_worker(5);
    hold(&mut worker, 1, AMOUNT);
    for round in 0..5 {
        let mut child = spawn("child_stands_in_a_transaction", dir.path());
        wait_for(&mut child);
        kill(child);
        // Would wait for ever if the lock had died with its holder.
        hold(&mut ledger, 10 + round, 1);
        assert_eq!(balance(&ledger, BUDGET).held_nusd, AMOUNT + 1 + round);
        ledger.verify().unwrap();
    }
    assert!(worker.turn().unwrap().settle(1, 1).unwrap().is_some());
}

/// Hold, send, settle without end; each step is told on stderr after it has committed.
#[test]
fn child_holds_and_settles_until_it_is_killed() {
    let Some(dir) = place() else { return };
    let mut generation = String::new();
    std::io::stdin().read_to_string(&mut generation).unwrap();
    let generation = generation.parse().unwrap();
    let mut ledger = Ledger::open_worker(&dir, generation).unwrap();
    let mut slots = Slots::create(&dir, generation, 8).unwrap();
    let rows = [row_of(BUDGET), row_of(OTHER)];
    let mut told = std::io::stderr();
    told.write_all(b".").unwrap();
    let mut live: Vec<(u64, u32)> = Vec::new();
    for number in 1_u64.. {
        let ends = if live.len() >= 6 { live.drain(..4).collect() } else { Vec::new() };
        for (seq, slot) in &ends {
            slots.done(*slot, seq % 50);
        }
        let mut turn = ledger.turn().unwrap();
        for (seq, _) in &ends {
            assert!(turn.settle(*seq, seq % 50).unwrap().is_some());
        }
        let begun: Vec<(u64, u32)> =
            (0..2).filter_map(|half| Some((number * 2 + half, slots.take()?))).collect();
        for (seq, slot) in &begun {
            turn.hold(*seq, [0; 16], *slot, AMOUNT, 0, &rows).unwrap();
        }
        turn.commit().unwrap();
        // What is told is committed: so many were charged at least.
        for (seq, slot) in ends {
            slots.free(slot);
            told.write_all(&[u8::try_from(seq % 50).unwrap()]).unwrap();
        }
        for (seq, slot) in &begun {
            slots.held(*slot, *seq);
            slots.sent(*slot, 60);
        }
        live.extend(begun);
    }
}

#[test]
fn workers_killed_at_any_moment_lose_no_charge_and_leave_no_hold() {
    let _alone = alone();
    let (dir, mut ledger) = make();
    let mut told_nusd = 0;
    let mut crashed = 0;
    let mut crash_nusd = 0;
    for generation in 1..=40_u64 {
        let mut child = spawn("child_holds_and_settles_until_it_is_killed", dir.path());
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(generation.to_string().as_bytes()).unwrap();
        drop(stdin);
        wait_for(&mut child);
        std::thread::sleep(Duration::from_micros(generation * 97));
        child.kill().unwrap();
        let mut told = Vec::new();
        child.stderr.take().unwrap().read_to_end(&mut told).unwrap();
        child.wait().unwrap();
        told_nusd += told.iter().map(|charge| u64::from(*charge)).sum::<u64>();

        ledger.verify().unwrap();
        let recovered = recover(&mut ledger, generation).unwrap();
        crashed += recovered.crashed;
        crash_nusd += recovered.crash_nusd;
        ledger.verify().unwrap();
        // Between the two stores of its last step a slot says what the charge was to be.
        assert!(crash_nusd <= crashed * 60, "{crash_nusd} for {crashed}");
        for budget in [BUDGET, OTHER] {
            let balance = balance(&ledger, budget);
            assert_eq!(balance.held_nusd, 0);
            assert_eq!(balance.crash_nusd, crash_nusd);
            // At most one turn of each worker was committed and not told.
            let known_nusd = told_nusd + crash_nusd;
            assert!(balance.spent_nusd >= known_nusd, "{balance:?}");
            assert!(balance.spent_nusd <= known_nusd + generation * 8 * 50, "{balance:?}");
        }
        assert!(ledger.orphans().unwrap().is_empty());
    }
    assert!(crashed > 40, "{crashed}: nobody was under way");
}

/// Ends the holds of generation 9 as the supervisor would, until it is killed.
#[test]
fn child_recovers() {
    let Some(dir) = place() else { return };
    let mut ledger = Ledger::open(&dir).unwrap();
    std::io::stderr().write_all(b".").unwrap();
    recover(&mut ledger, 9).unwrap();
}

#[test]
fn a_recovery_that_is_killed_is_finished_by_the_next() {
    let _alone = alone();
    let (dir, mut ledger) = make();
    for round in 1..=10_u64 {
        let mut worker = ledger.as_worker(9);
        let mut slots = Slots::create(dir.path(), 9, 2_000).unwrap();
        let mut turn = worker.turn().unwrap();
        for seq in 0..2_000_u64 {
            let slot = slots.take().unwrap();
            turn.hold(seq, [0; 16], slot, AMOUNT, 0, &[row_of(BUDGET)]).unwrap();
            slots.held(slot, seq);
            if seq % 2 == 0 {
                slots.sent(slot, 3);
            }
        }
        turn.commit().unwrap();
        drop(slots);
        let mut child = spawn("child_recovers", dir.path());
        wait_for(&mut child);
        std::thread::sleep(Duration::from_micros(round * 500));
        kill(child);
        ledger.verify().unwrap();
        assert!(!recover(&mut ledger, 9).unwrap().alive);
        ledger.verify().unwrap();
        let balance = balance(&ledger, BUDGET);
        assert_eq!((balance.held_nusd, balance.spent_nusd), (0, round * 3_000));
        assert_eq!(balance.crash_nusd, round * 3_000);
    }
}

/// Reads without end.
#[test]
fn child_reads_until_it_is_killed() {
    let Some(dir) = place() else { return };
    let ledger = Ledger::open(&dir).unwrap();
    std::io::stderr().write_all(b".").unwrap();
    loop {
        ledger.rows().unwrap();
    }
}

#[test]
fn readers_killed_while_they_read_do_not_fill_the_map() {
    let _alone = alone();
    let (dir, mut ledger) = make();
    let mut turn = ledger.turn().unwrap();
    for number in 0..2_000_u64 {
        let name = number.to_string();
        let key = RowKey::new(&OTHER, SubjectId::of(&[&name]), 0);
        let row = HoldRow { key, subject: &name, window_end_s: None };
        turn.hold(number, [0; 16], 0, 1, 0, &[row]).unwrap();
    }
    turn.commit().unwrap();
    let mut cleared = 0;
    for round in 1..=20_u64 {
        let mut child = spawn("child_reads_until_it_is_killed", dir.path());
        wait_for(&mut child);
        kill(child);
        // Looked for as the supervisor does, or found when room gets short.
        if round % 2 == 0 {
            cleared += ledger.clear_stale_readers().unwrap();
        }
        // While a reader is believed to look at the old pages, each turn takes fresh ones: in
        // all more than the map has.
        for number in 0..500 {
            hold(&mut ledger, 10_000 * round + number, 1);
            let mut turn = ledger.turn().unwrap();
            turn.settle(10_000 * round + number, 1).unwrap();
            turn.commit().unwrap();
        }
    }
    assert!(cleared > 0, "no reader was killed while it read");
    assert!(ledger.info().unwrap().used_bytes < MAP_BYTES_MIN / 2);
    ledger.verify().unwrap();
}
