//! What one turn does, and that nothing of it is seen before it commits.

use modelux_core::ledger::row::{Balance, FLAG_EXCEEDED, FLAG_SOFT, RowKey, SubjectId};
use modelux_core::ledger::{HoldRow, LedgerFault, Settled};

use crate::support::{BUDGET, Bench, OTHER, row_for, row_of};

#[test]
fn a_hold_becomes_what_was_charged_on_every_row() {
    let mut bench = Bench::new();
    let rows = [row_of(BUDGET), row_of(OTHER)];
    bench.hold(1, 0, 100, &rows);
    for row in &rows {
        let held = Balance { held_nusd: 100, ..Balance::default() };
        assert_eq!(bench.balance(&row.key), held);
    }
    let mut turn = bench.ledger.turn().unwrap();
    let settled = turn.settle(1, 30).unwrap();
    assert_eq!(settled, Some(Settled { amount_nusd: 100, overrun_nusd: 0 }));
    turn.commit().unwrap();
    for row in &rows {
        let spent = Balance { spent_nusd: 30, requests: 1, ..Balance::default() };
        assert_eq!(bench.balance(&row.key), spent);
    }
    bench.ledger.verify().unwrap();
}

#[test]
fn what_is_charged_above_the_hold_is_an_overrun() {
    let mut bench = Bench::new();
    let row = row_of(BUDGET);
    bench.hold(1, 0, 100, &[row]);
    let mut turn = bench.ledger.turn().unwrap();
    let settled = turn.settle(1, 130).unwrap().unwrap();
    assert_eq!(settled.overrun_nusd, 30);
    turn.commit().unwrap();
    let balance = bench.balance(&row.key);
    assert_eq!((balance.spent_nusd, balance.held_nusd), (130, 0));
    assert_eq!((balance.overrun_nusd, balance.overruns, balance.requests), (30, 1, 1));
}

#[test]
fn a_release_spends_nothing_and_counts_no_request() {
    let mut bench = Bench::new();
    let row = row_of(BUDGET);
    bench.hold(1, 0, 100, &[row]);
    let mut turn = bench.ledger.turn().unwrap();
    assert!(turn.settle(1, 0).unwrap().is_some());
    turn.commit().unwrap();
    assert_eq!(bench.balance(&row.key), Balance::default());
}

#[test]
fn a_hold_is_settled_once_in_this_turn_and_in_any_other() {
    let mut bench = Bench::new();
    let row = row_of(BUDGET);
    bench.hold(1, 0, 100, &[row]);
    let mut turn = bench.ledger.turn().unwrap();
    assert!(turn.settle(1, 10).unwrap().is_some());
    assert_eq!(turn.settle(1, 10).unwrap(), None);
    turn.commit().unwrap();
    let mut turn = bench.ledger.turn().unwrap();
    assert_eq!(turn.settle(1, 10).unwrap(), None);
    turn.commit().unwrap();
    assert_eq!(bench.balance(&row.key).spent_nusd, 10);
}

#[test]
fn a_turn_sees_its_own_steps_and_nobody_else_does_before_it_commits() {
    let mut bench = Bench::new();
    let row = row_of(BUDGET);
    let reader = bench.ledger.as_worker(9);
    let mut turn = bench.ledger.turn().unwrap();
    assert!(turn.is_new(&row.key).unwrap());
    turn.hold(1, [0; 16], 0, 40, 0, &[row]).unwrap();
    turn.hold(2, [0; 16], 1, 2, 0, &[row]).unwrap();
    turn.settle(1, 5).unwrap();
    let balance = turn.balance(&row.key).unwrap();
    assert_eq!((balance.spent_nusd, balance.held_nusd), (5, 2));
    assert!(!turn.is_new(&row.key).unwrap());
    assert_eq!(reader.rows().unwrap(), []);
    turn.commit().unwrap();
    assert_eq!(reader.rows().unwrap()[0].balance, balance);
}

#[test]
fn a_turn_that_is_dropped_has_never_been() {
    let mut bench = Bench::new();
    let row = row_of(BUDGET);
    bench.hold(1, 0, 100, &[row]);
    let mut turn = bench.ledger.turn().unwrap();
    turn.settle(1, 10).unwrap();
    turn.hold(2, [0; 16], 1, 7, 0, &[row, row_of(OTHER)]).unwrap();
    drop(turn);
    assert_eq!(bench.balance(&row.key).held_nusd, 100);
    assert_eq!(bench.ledger.rows().unwrap().len(), 1);
    let mut turn = bench.ledger.turn().unwrap();
    assert_eq!(turn.balance(&row.key).unwrap().held_nusd, 100);
    assert!(turn.settle(1, 10).unwrap().is_some());
}

#[test]
fn a_seq_that_is_in_use_holds_nothing() {
    let mut bench = Bench::new();
    let row = row_of(BUDGET);
    bench.hold(1, 0, 100, &[row]);
    let mut turn = bench.ledger.turn().unwrap();
    let fault = turn.hold(1, [0; 16], 0, 50, 0, &[row]).unwrap_err();
    assert!(matches!(fault, LedgerFault::Inconsistent(_)), "{fault}");
    turn.commit().unwrap();
    assert_eq!(bench.balance(&row.key).held_nusd, 100);
    // Of another generation it is another hold.
    let mut other = bench.ledger.as_worker(5);
    crate::support::hold(&mut other, 1, 0, 50, &[row]);
    assert_eq!(bench.balance(&row.key).held_nusd, 150);
    bench.ledger.verify().unwrap();
}

#[test]
fn sums_that_do_not_fit_are_refused_and_change_nothing() {
    let mut bench = Bench::new();
    let rows = [row_of(OTHER), row_of(BUDGET)];
    bench.hold(1, 0, u64::MAX - 10, &rows[1..]);
    let mut turn = bench.ledger.turn().unwrap();
    assert!(turn.hold(2, [0; 16], 0, 11, 0, &rows).is_err());
    assert_eq!(turn.balance(&rows[0].key).unwrap(), Balance::default());
    assert!(turn.settle(1, u64::MAX - 10).unwrap().is_some());
    assert!(turn.hold(2, [0; 16], 0, 11, 0, &rows).is_err());
    turn.hold(3, [0; 16], 0, 10, 0, &rows).unwrap();
    assert!(turn.settle(3, 11).is_err());
    assert!(turn.settle(3, 10).unwrap().is_some());
    turn.commit().unwrap();
    assert_eq!(bench.balance(&rows[1].key).spent_nusd, u64::MAX);
}

#[test]
fn the_subjects_of_a_window_are_counted_and_the_overflow_row_is_none() {
    let mut bench = Bench::new();
    let overflow = HoldRow {
        key: RowKey::new(&BUDGET, SubjectId::OVERFLOW, 0),
        subject: "",
        window_end_s: None,
    };
    let mut turn = bench.ledger.turn().unwrap();
    for (seq, name) in ["alice", "bob", "alice", ""].into_iter().enumerate() {
        turn.hold(seq as u64, [0; 16], 0, 1, 0, &[row_for(BUDGET, name, 0)]).unwrap();
    }
    turn.hold(10, [0; 16], 0, 1, 0, &[overflow]).unwrap();
    turn.hold(11, [0; 16], 0, 1, 0, &[row_for(BUDGET, "carol", 86_400)]).unwrap();
    turn.hold(12, [0; 16], 0, 1, 0, &[row_for(OTHER, "carol", 0)]).unwrap();
    assert_eq!(turn.subjects(&BUDGET, 0).unwrap(), 3);
    turn.commit().unwrap();
    let mut turn = bench.ledger.turn().unwrap();
    assert_eq!(turn.subjects(&BUDGET, 0).unwrap(), 3);
    assert_eq!(turn.subjects(&BUDGET, 86_400).unwrap(), 1);
    assert_eq!(turn.subjects(&BUDGET, 1).unwrap(), 0);
    drop(turn);
    let names: Vec<String> =
        bench.ledger.rows().unwrap().into_iter().map(|row| row.subject).collect();
    assert_eq!(names.iter().filter(|name| *name == "carol").count(), 2);
    bench.ledger.verify().unwrap();
}

#[test]
fn flags_are_raised_and_never_lowered_even_on_a_row_that_nobody_held_on() {
    let mut bench = Bench::new();
    let row = row_of(BUDGET);
    for flags in [FLAG_SOFT, FLAG_EXCEEDED, FLAG_SOFT, 0] {
        let mut turn = bench.ledger.turn().unwrap();
        turn.flag(&row, flags).unwrap();
        turn.commit().unwrap();
    }
    let view = bench.ledger.row(&row.key).unwrap().unwrap();
    assert_eq!(view.balance.flags, FLAG_SOFT | FLAG_EXCEEDED);
    assert_eq!(view.window_end_s, Some(86_400));
    bench.ledger.verify().unwrap();
}

#[test]
fn changed_rows_are_those_that_a_later_turn_wrote() {
    let mut bench = Bench::new();
    let (first, second) = (row_of(BUDGET), row_of(OTHER));
    bench.hold(1, 0, 100, &[first]);
    bench.hold(2, 1, 100, &[second]);
    let (seen, rows) = bench.ledger.changed_since(0).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(bench.ledger.changed_since(seen).unwrap(), (seen, vec![]));
    // Read only: nothing changed.
    bench.ledger.turn().unwrap().balance(&first.key).unwrap();
    bench.hold(3, 2, 1, &[second]);
    let (later, rows) = bench.ledger.changed_since(seen).unwrap();
    assert!(later > seen);
    assert_eq!(rows.iter().map(|row| row.key).collect::<Vec<_>>(), [second.key]);
}

#[test]
fn all_rows_are_read_however_many_there_are() {
    let mut bench = Bench::new();
    let mut turn = bench.ledger.turn().unwrap();
    let names: Vec<String> = (0..5_000).map(|number| format!("user-{number}")).collect();
    for (seq, name) in names.iter().enumerate() {
        turn.hold(seq as u64, [0; 16], 0, 1, 0, &[row_for(BUDGET, name, 0)]).unwrap();
    }
    turn.commit().unwrap();
    let mut found: Vec<String> =
        bench.ledger.rows().unwrap().into_iter().map(|row| row.subject).collect();
    found.sort_unstable();
    let mut names = names;
    names.sort_unstable();
    assert_eq!(found, names);
    assert_eq!(bench.ledger.info().unwrap().holds, 5_000);
    bench.ledger.verify().unwrap();
}
