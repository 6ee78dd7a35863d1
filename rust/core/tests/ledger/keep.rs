//! What the supervisor's keeper does: rebuild, credits, backfill, dropping, factors of bounds.

use modelux_core::ledger::row::{Balance, FLAG_SOFT};
use modelux_core::ledger::{BOUND_SPAN_US, LedgerFault, RowView};

use crate::support::{BUDGET, Bench, OTHER, row_for, row_of};

fn is_inconsistent<T>(result: &Result<T, LedgerFault>) -> bool {
    matches!(result, Err(LedgerFault::Inconsistent(_)))
}

#[test]
fn a_rebuilt_ledger_has_spent_what_the_copy_held() {
    let mut before = Bench::new();
    let names: Vec<String> = (0..300).map(|number| format!("user-{number}")).collect();
    let mut turn = before.ledger.turn().unwrap();
    for (seq, name) in names.iter().enumerate() {
        let row = row_for(BUDGET, name, 0);
        turn.hold(seq as u64, [0; 16], 0, 100 + seq as u64, 0, &[row, row_of(OTHER)]).unwrap();
        turn.flag(&row, FLAG_SOFT).unwrap();
    }
    turn.settle(0, 30).unwrap();
    turn.settle(1, 200).unwrap();
    turn.commit().unwrap();
    before.ledger.set_credits(&row_of(OTHER), 77).unwrap();
    let copy = before.ledger.rows().unwrap();

    let mut after = Bench::new();
    after.ledger.import(&copy).unwrap();
    after.ledger.verify().unwrap();
    let rows = after.ledger.rows().unwrap();
    assert_eq!(rows.len(), 301);
    for (old, new) in copy.iter().zip(&rows) {
        let charged = Balance {
            spent_nusd: old.balance.spent_nusd + old.balance.held_nusd,
            held_nusd: 0,
            crash_nusd: old.balance.held_nusd,
            ..old.balance
        };
        assert_eq!(new, &RowView { balance: charged, ..old.clone() });
    }
    let mut turn = after.ledger.turn().unwrap();
    assert_eq!(turn.subjects(&BUDGET, 0).unwrap(), 300);
    drop(turn);
    // Begun again after it was killed.
    after.ledger.import(&copy).unwrap();
    assert_eq!(after.ledger.rows().unwrap(), rows);
}

#[test]
fn an_import_that_was_not_finished_does_not_pass_for_whole() {
    let mut bench = Bench::new();
    let row = row_of(BUDGET);
    bench.hold(1, 0, 5, &[row]);
    let copy = bench.ledger.rows().unwrap();
    // The second row holds: the import stops there.
    assert!(is_inconsistent(&bench.ledger.import(&copy)));
    assert!(is_inconsistent(&bench.ledger.verify()));
    bench.settle(1, 0);
    bench.ledger.import(&copy).unwrap();
    bench.ledger.verify().unwrap();
}

#[test]
fn credits_are_set_and_not_added() {
    let mut bench = Bench::new();
    let row = row_of(BUDGET);
    for credits_nusd in [50, 50, 80] {
        bench.ledger.set_credits(&row, credits_nusd).unwrap();
    }
    bench.hold(1, 0, 5, &[row]);
    bench.ledger.set_credits(&row, 90).unwrap();
    let expected = Balance { held_nusd: 5, credits_nusd: 90, ..Balance::default() };
    assert_eq!(bench.balance(&row.key), expected);
    bench.ledger.verify().unwrap();
}

#[test]
fn a_window_is_dropped_once_it_is_past_holds_nothing_and_was_copied() {
    let mut bench = Bench::new();
    let (past, holding, running) = (
        row_for(BUDGET, "past", 0),
        row_for(BUDGET, "holding", 0),
        row_for(BUDGET, "running", 86_400),
    );
    for (seq, row) in [past, holding, running].into_iter().enumerate() {
        bench.hold(seq as u64, 0, 5, &[row]);
    }
    bench.settle(0, 3);
    let (copied, _) = bench.ledger.changed_since(0).unwrap();
    assert_eq!(bench.ledger.drop_past(86_399, copied).unwrap(), 0);
    assert_eq!(bench.ledger.drop_past(86_400, copied - 1).unwrap(), 0);
    assert_eq!(bench.ledger.drop_past(86_400, copied).unwrap(), 1);
    assert_eq!(bench.ledger.row(&past.key).unwrap(), None);
    assert_eq!(bench.ledger.rows().unwrap().len(), 2);
    assert_eq!(bench.ledger.turn().unwrap().subjects(&BUDGET, 0).unwrap(), 1);
    bench.ledger.verify().unwrap();
    bench.settle(1, 0);
    bench.settle(2, 0);
    assert_eq!(bench.ledger.drop_past(i64::MAX, u64::MAX).unwrap(), 2);
    assert_eq!(bench.ledger.rows().unwrap(), []);
    bench.ledger.verify().unwrap();
}

#[test]
fn a_row_that_a_hold_of_nothing_names_is_not_dropped() {
    let mut bench = Bench::new();
    let row = row_of(BUDGET);
    bench.hold(1, 0, 0, &[row]);
    assert_eq!(bench.ledger.drop_past(i64::MAX, u64::MAX).unwrap(), 0);
    bench.settle(1, 3);
    assert_eq!(bench.balance(&row.key).spent_nusd, 3);
    assert_eq!(bench.ledger.drop_past(i64::MAX, u64::MAX).unwrap(), 1);
}

#[test]
fn a_window_without_an_end_is_never_dropped() {
    let mut bench = Bench::new();
    let mut row = row_of(BUDGET);
    row.window_end_s = None;
    bench.hold(1, 0, 5, &[row]);
    bench.settle(1, 5);
    assert_eq!(bench.ledger.drop_past(i64::MAX, u64::MAX).unwrap(), 0);
}

#[test]
fn a_budget_is_backfilled_once() {
    let mut bench = Bench::new();
    let names: Vec<String> = (0..300).map(|number| format!("user-{number}")).collect();
    let rows: Vec<_> = names.iter().map(|name| (row_for(BUDGET, name, 0), 10)).collect();
    // A request may have come before.
    bench.hold(1, 0, 5, &[rows[0].0]);
    assert!(!bench.ledger.knows_budget(&BUDGET).unwrap());
    assert!(bench.ledger.add_backfill(&BUDGET, &rows).unwrap());
    assert!(bench.ledger.knows_budget(&BUDGET).unwrap());
    assert!(!bench.ledger.knows_budget(&OTHER).unwrap());
    assert!(!bench.ledger.add_backfill(&BUDGET, &rows).unwrap());
    assert!(bench.ledger.rows().unwrap().iter().all(|row| row.balance.spent_nusd == 10));
    assert_eq!(bench.balance(&rows[0].0.key).held_nusd, 5);
    assert!(bench.ledger.add_backfill(&OTHER, &[]).unwrap());
    assert!(bench.ledger.knows_budget(&OTHER).unwrap());
    bench.ledger.verify().unwrap();
}

#[test]
fn a_backfill_that_stopped_midway_goes_on_where_it_stopped() {
    let mut bench = Bench::new();
    let names: Vec<String> = (0..300).map(|number| format!("user-{number}")).collect();
    let mut rows: Vec<_> = names.iter().map(|name| (row_for(BUDGET, name, 0), 10)).collect();
    rows.sort_by_key(|(row, _)| row.key);
    // The last one cannot be added: by then the first pieces are.
    bench.hold(1, 0, u64::MAX - 1, &[rows[299].0]);
    bench.settle(1, u64::MAX - 1);
    assert!(is_inconsistent(&bench.ledger.add_backfill(&BUDGET, &rows)));
    assert!(!bench.ledger.knows_budget(&BUDGET).unwrap());
    rows[299].1 = 1;
    assert!(bench.ledger.add_backfill(&BUDGET, &rows).unwrap());
    let spent: Vec<u64> =
        bench.ledger.rows().unwrap().iter().map(|row| row.balance.spent_nusd).collect();
    assert!(spent[..299].iter().all(|spent_nusd| *spent_nusd == 10), "{spent:?}");
    assert_eq!(spent[299], u64::MAX);
}

#[test]
fn three_overruns_within_an_hour_raise_the_bound_until_it_is_reset() {
    let mut bench = Bench::new();
    let start_us = 1_790_000_000_000_000;
    let mut overrun = |target: &str, charge_nusd: u64, at_us: u64| {
        let mut turn = bench.ledger.turn().unwrap();
        let raised = turn.record_overrun(target, charge_nusd, 300, at_us).unwrap();
        let generation = turn.bound_generation().unwrap();
        turn.commit().unwrap();
        (raised, generation)
    };
    // Not above the bound: no overrun.
    assert_eq!(overrun("openai/a", 300, start_us), (None, 0));
    assert_eq!(overrun("openai/a", 400, start_us), (None, 0));
    assert_eq!(overrun("openai/a", 310, start_us + 1), (None, 0));
    assert_eq!(overrun("openai/b", 900, start_us + 1), (None, 0));
    // The third comes too late, the fourth makes three again: 400 / 300 × 1.1, rounded up.
    assert_eq!(overrun("openai/a", 301, start_us + BOUND_SPAN_US + 1), (None, 0));
    let (raised, generation) = overrun("openai/a", 301, start_us + BOUND_SPAN_US + 1);
    assert_eq!((raised, generation), (Some(1_468), 1));
    // Once more, no worse than before.
    assert_eq!(overrun("openai/a", 350, start_us + BOUND_SPAN_US + 2), (None, 1));
    assert_eq!(overrun("openai/a", 600, start_us + BOUND_SPAN_US + 3), (Some(2_200), 2));

    let (generation, factors) = bench.ledger.bound_factors().unwrap();
    let seen: Vec<_> = factors
        .iter()
        .map(|factor| (&factor.target[..], factor.factor_permille, factor.worst_permille))
        .collect();
    assert_eq!(seen, [("openai/a", 2_200, 2_000), ("openai/b", 1_000, 3_000)]);
    assert_eq!(generation, 2);

    assert!(bench.ledger.reset_bound("openai/a").unwrap());
    assert!(!bench.ledger.reset_bound("openai/a").unwrap());
    let (generation, factors) = bench.ledger.bound_factors().unwrap();
    assert_eq!((generation, factors.len()), (3, 1));
    bench.ledger.verify().unwrap();
}

#[test]
fn the_lock_shows_in_the_cells_of_its_worker() {
    use modelux_core::cells::{Cell, Cells};
    use modelux_core::ledger::{LEDGER_HOLDS, LEDGER_RESTS};

    let mut bench = Bench::new();
    let path = bench.path().join("cells");
    let cells = Cells::create(&path, 2).unwrap();
    bench.ledger.watch(Cells::open(&path).unwrap(), 1);
    for number in 1..=50 {
        let mut turn = bench.ledger.turn().unwrap();
        assert_eq!(cells.get(Cell::LedgerState(1)), LEDGER_HOLDS);
        turn.hold(number, [0; 16], 0, 1, 0, &[row_of(BUDGET)]).unwrap();
        if number % 2 == 0 {
            turn.commit().unwrap();
        } else {
            drop(turn);
        }
        assert_eq!(cells.get(Cell::LedgerState(1)), LEDGER_RESTS);
        assert_eq!(cells.get(Cell::LedgerTurns(1)), number);
    }
    assert_eq!(cells.get(Cell::LedgerTurns(0)), 0);
    assert!(cells.get(Cell::LedgerHeldUs(1)) > 0);
    // Begun again in the same slot, the sums go on.
    let held_us = cells.get(Cell::LedgerHeldUs(1));
    bench.ledger.watch(Cells::open(&path).unwrap(), 1);
    bench.hold(99, 0, 1, &[row_of(BUDGET)]);
    assert!(cells.get(Cell::LedgerHeldUs(1)) >= held_us);
}
