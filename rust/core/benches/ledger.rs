//! What a turn of the ledger costs: one reserve and one settle a request, three budgets each.

#![expect(missing_docs, reason = "the functions that criterion's macros make")]

use std::path::Path;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use modelux_core::ledger::row::{RowKey, SubjectId};
use modelux_core::ledger::window::{Calendar, Period};
use modelux_core::ledger::{HoldRow, Ledger, LedgerFault};

const ROWS: usize = 100_000;
const MAP_BYTES: u64 = 256 << 20;
const ORGANIZATION: [u8; 16] = [1; 16];
const TEAMS: [u8; 16] = [2; 16];
const USERS: [u8; 16] = [3; 16];

/// The rows of one request: everybody's, one of 20 teams', one of some users'.
struct Rows {
    teams: Vec<String>,
    users: Vec<String>,
    /// Users that are at work, out of 100,000 that have a row.
    active: usize,
}

impl Rows {
    fn new() -> Self {
        let teams = (0..20).map(|number| format!("team-{number}")).collect();
        let users = (0..ROWS).map(|number| format!("user-{number}@example.com")).collect();
        Self { teams, users, active: ROWS }
    }

    fn of(&self, number: u64) -> [HoldRow<'_>; 3] {
        // Scattered, so that no two requests of a turn meet on a page but by chance.
        let place =
            usize::try_from(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20).unwrap_or(0);
        let (team, user) = (&self.teams[place % 20], &self.users[place % self.active]);
        let row = |budget, subject, text| HoldRow {
            key: RowKey::new(budget, subject, 0),
            subject: text,
            window_end_s: Some(86_400),
        };
        [
            row(&ORGANIZATION, SubjectId::NONE, ""),
            row(&TEAMS, SubjectId::of(&[team]), team),
            row(&USERS, SubjectId::of(&[user]), user),
        ]
    }
}

/// The state directory of a deployment is memory; without any, what there is.
fn folder() -> Option<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).ok() } else { tempfile::tempdir().ok() }
}

fn fill(ledger: &mut Ledger, rows: &Rows) -> Result<(), LedgerFault> {
    for part in rows.users.chunks(500) {
        let mut turn = ledger.turn()?;
        for user in part {
            let key = RowKey::new(&USERS, SubjectId::of(&[user]), 0);
            let row = HoldRow { key, subject: user, window_end_s: Some(86_400) };
            turn.flag(&row, 1)?;
        }
        turn.commit()?;
    }
    Ok(())
}

/// One turn: what the turn before held is settled, as much is held again.
fn turn(ledger: &mut Ledger, from: u64, held: &[[HoldRow<'_>; 3]]) -> Result<(), LedgerFault> {
    let count = held.len() as u64;
    let mut turn = ledger.turn()?;
    for seq in from - count..from {
        turn.settle(seq, 700)?;
    }
    for (seq, rows) in (from..).zip(held) {
        for row in rows {
            turn.balance(&row.key)?;
        }
        turn.hold(seq, [0; 16], 0, 1_000, 0, rows)?;
    }
    turn.commit()
}

fn turns(criterion: &mut Criterion) {
    let mut rows = Rows::new();
    let Some(dir) = folder() else { return };
    let Ok(mut ledger) = Ledger::create(dir.path(), MAP_BYTES, "bench") else { return };
    if fill(&mut ledger, &rows).is_err() {
        return;
    }
    let mut group = criterion.benchmark_group("turn over 100,000 rows");
    let mut from = 0;
    for (count, active) in [(1_u64, 100), (8, 100), (32, 100), (32, ROWS)] {
        // What the last turns of another size held stays held.
        from += 1_000;
        rows.active = active;
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("{count} requests, {active} users"), |bencher| {
            bencher.iter_batched_ref(
                || {
                    from += count;
                    let held: Vec<_> = (from..from + count).map(|seq| rows.of(seq)).collect();
                    (from, held)
                },
                |(from, held)| turn(&mut ledger, *from, held).is_ok(),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
    criterion.bench_function("an empty turn", |bencher| {
        bencher.iter(|| ledger.turn().and_then(modelux_core::ledger::Turn::commit).is_ok());
    });
    criterion.bench_function("all rows that changed since", |bencher| {
        let seen = ledger.changed_since(0).map_or(0, |(seen, _)| seen);
        bencher.iter(|| ledger.changed_since(seen).is_ok());
    });
}

fn windows(criterion: &mut Criterion) {
    let Ok(calendar) = Calendar::new("America/New_York", Period::Monthly) else { return };
    criterion.bench_function("the window of the last answer", |bencher| {
        bencher.iter(|| calendar.window(std::hint::black_box(1_790_000_000)));
    });
    criterion.bench_function("another window", |bencher| {
        let mut unix_s = 1_700_000_000;
        bencher.iter(|| {
            unix_s ^= 1 << 24;
            calendar.window(unix_s)
        });
    });
}

criterion_group!(benches, turns, windows);
criterion_main!(benches);
