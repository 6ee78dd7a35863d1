//! What becomes of the holds of a worker that is gone.

use modelux_core::ledger::row::Balance;
use modelux_core::ledger::{Recovered, Slots, recover};

use crate::support::{BUDGET, Bench, OTHER, hold, row_of};

const WORKER: u64 = 7;

#[test]
fn what_was_not_sent_is_released_and_the_rest_is_charged() {
    let mut bench = Bench::new();
    let rows = [row_of(BUDGET), row_of(OTHER)];
    let mut worker = bench.ledger.as_worker(WORKER);
    let mut slots = Slots::create(bench.path(), WORKER, 8).unwrap();
    for seq in 1..=6 {
        let slot = slots.take().unwrap();
        hold(&mut worker, seq, slot, 100, &rows);
    }
    // 1: the slot was never told; what it said of an earlier hold does not count.
    slots.held(0, 0);
    slots.sent(0, 90);
    // 2: told, nothing sent.
    slots.held(1, 2);
    // 3: under way.
    slots.held(2, 3);
    slots.sent(2, 100);
    // 4: under way, counted.
    slots.held(3, 4);
    slots.sent(3, 20);
    slots.progress(3, 31);
    // 5: the charge was known; 6: and above its hold.
    slots.held(4, 5);
    slots.sent(4, 100);
    slots.done(4, 7);
    slots.held(5, 6);
    slots.sent(5, 100);
    slots.done(5, 150);

    let alive = recover(&mut bench.ledger, WORKER).unwrap();
    assert_eq!(alive, Recovered { alive: true, ..Recovered::default() });
    assert_eq!(bench.ledger.orphans().unwrap(), [WORKER]);
    assert_eq!(bench.balance(&rows[0].key).held_nusd, 600);

    drop(slots);
    let recovered = recover(&mut bench.ledger, WORKER).unwrap();
    let expected =
        Recovered { alive: false, released: 2, settled: 2, crashed: 2, crash_nusd: 131 };
    assert_eq!(recovered, expected);
    for row in &rows {
        let balance = Balance {
            spent_nusd: 100 + 31 + 7 + 150,
            crash_nusd: 131,
            overrun_nusd: 50,
            overruns: 1,
            requests: 4,
            ..Balance::default()
        };
        assert_eq!(bench.balance(&row.key), balance);
    }
    bench.ledger.verify().unwrap();
    assert!(bench.ledger.orphans().unwrap().is_empty());
    assert_eq!(std::fs::read_dir(bench.path()).unwrap().count(), 2);

    // Again: nothing is left to end.
    assert_eq!(recover(&mut bench.ledger, WORKER).unwrap(), Recovered::default());
    assert_eq!(worker.turn().unwrap().settle(3, 1).unwrap(), None);
}

#[test]
fn only_the_holds_of_that_worker_end() {
    let mut bench = Bench::new();
    let row = row_of(BUDGET);
    let mut kept = Slots::create(bench.path(), 2, 4).unwrap();
    let mut lost = Slots::create(bench.path(), 1, 4).unwrap();
    for (generation, slots) in [(1, &mut lost), (2, &mut kept)] {
        let mut worker = bench.ledger.as_worker(generation);
        hold(&mut worker, 1, slots.take().unwrap(), 10, &[row]);
    }
    drop(lost);
    assert_eq!(bench.ledger.orphans().unwrap(), [1, 2]);
    assert_eq!(recover(&mut bench.ledger, 1).unwrap().released, 1);
    assert_eq!(bench.ledger.orphans().unwrap(), [2]);
    assert_eq!(bench.balance(&row.key).held_nusd, 10);
    let mut worker = bench.ledger.as_worker(2);
    let mut turn = worker.turn().unwrap();
    assert!(turn.settle(1, 10).unwrap().is_some());
}

#[test]
fn without_slots_that_can_be_read_every_hold_is_charged_in_full() {
    for torn in [None, Some(&b"torn"[..]), Some(&[0; 4096][..])] {
        let mut bench = Bench::new();
        let row = row_of(BUDGET);
        let mut worker = bench.ledger.as_worker(WORKER);
        hold(&mut worker, 1, 0, 100, &[row]);
        let path = bench.path().join("slots.7");
        if let Some(bytes) = torn {
            std::fs::write(&path, bytes).unwrap();
        }
        let recovered = recover(&mut bench.ledger, WORKER).unwrap();
        assert_eq!((recovered.crashed, recovered.crash_nusd), (1, 100));
        assert_eq!(bench.balance(&row.key).spent_nusd, 100);
        assert!(!path.exists());
    }
}

#[test]
fn a_slot_beyond_the_file_is_charged_in_full() {
    let mut bench = Bench::new();
    let row = row_of(BUDGET);
    drop(Slots::create(bench.path(), WORKER, 4).unwrap());
    let mut worker = bench.ledger.as_worker(WORKER);
    hold(&mut worker, 1, 4, 100, &[row]);
    assert_eq!(recover(&mut bench.ledger, WORKER).unwrap().crash_nusd, 100);
}
