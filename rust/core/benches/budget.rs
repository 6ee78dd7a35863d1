//! What it costs to find the budgets of a request among a thousand, and to decide on an attempt.

#![expect(missing_docs, reason = "the functions that criterion's macros make")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use modelux_core::bound::Bound;
use modelux_core::budget::{Ask, Budgets, RowState, Who, decide};
use modelux_core::ledger::row::Balance;
use serde_json::{Value, json};

/// Budgets of so many teams, and three that this request falls under: the organization's, its
/// team's and its end user's.
fn budgets(teams: usize) -> Result<Budgets, String> {
    let team = |number: usize| {
        let name = format!("team-{number}");
        (name.clone(), json!([{"type": "tag", "key": "team", "value": name}]))
    };
    let mut scopes: Vec<(String, Value)> = vec![
        ("everything".to_owned(), json!([{"type": "organization"}])),
        ("each user".to_owned(), json!([{"type": "end_user", "id": "*"}])),
    ];
    scopes.extend((0..teams).map(team));
    let documents = scopes
        .into_iter()
        .enumerate()
        .map(|(at, (name, scopes))| {
            serde_json::from_value(json!({
                "id": format!("{at:032x}"), "name": name, "scopes": scopes, "project": null,
                "cap_nusd": 1_000_000_000, "period": "monthly", "timezone": "UTC",
                "action": "block", "downgrade": [], "soft_pct": 80, "unset": "count",
                "max_subjects": 16_384, "enabled": true, "shadow": false,
            }))
            .map_err(|fault| fault.to_string())
        })
        .collect::<Result<Vec<_>, _>>()?;
    Budgets::compile(documents, &["default"], &|_, _| Err("no budget downgrades".to_owned()))
}

fn matching(criterion: &mut Criterion) {
    let tags: Vec<(String, String)> = [("env", "production"), ("team", "team-7")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    let who = Who {
        project: 0,
        key_id: "key_1a2b3c4d",
        tags: &tags,
        end_user: Some("user-1234"),
        slugs: &["production"],
    };
    for teams in [10, 1000] {
        let Ok(budgets) = budgets(teams) else { return };
        let mut found = Vec::new();
        criterion.bench_function(&format!("match 3 of {}", budgets.len()), |bencher| {
            bencher.iter(|| {
                found.clear();
                budgets.matching(black_box(&who), &mut found);
                assert_eq!(found.len(), 3);
            });
        });
        if teams < 1000 {
            continue;
        }
        let balance = Balance { spent_nusd: 400_000_000, ..Balance::default() };
        let rows: Vec<RowState<'_>> = found
            .iter()
            .map(|found| RowState { budget: budgets.get(found.budget), balance })
            .collect();
        let bound = Bound::new(1_000_000, 600_000_000, 1, 0);
        for (name, limit) in [("fits", 1000), ("is lowered", 1 << 30)] {
            let ask = Ask { bound, limit: Some(limit), least: 64 };
            criterion.bench_function(&format!("decide what {name}, 3 budgets"), |bencher| {
                bencher.iter(|| black_box(decide(black_box(&rows), black_box(&ask), true)));
            });
        }
    }
}

criterion_group!(benches, matching);
criterion_main!(benches);
