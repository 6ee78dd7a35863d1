//! Budgets against the rules as they are written down, read without any cleverness.

#![expect(clippy::unwrap_used, reason = "a test that unwraps names the line that failed")]

use modelux_core::bound::Bound;
use modelux_core::budget::decide::tightest;
use modelux_core::budget::{Action, Ask, Budgets, Decision, Match, RowState, Who, decide};
use modelux_core::ledger::row::{Balance, SubjectId};
use modelux_core::routing::Flat;
use proptest::prelude::*;
use serde_json::{Value, json};

const PROJECTS: [&str; 3] = ["default", "search", "ads"];
const ACTIONS: [&str; 4] = ["block", "block", "downgrade", "warn_only"];
const TAGS: [&str; 2] = ["team", "env"];
const WORDS: [&str; 4] = ["", "*", "a", "b"];

fn compiled(documents: &[Value]) -> Budgets {
    let documents = documents
        .iter()
        .enumerate()
        .map(|(at, document)| {
            let nowhere = json!({"kind": "config", "strategy": "single", "children": []});
            let mut whole = json!({
                "id": format!("{at:032x}"), "name": format!("budget-{at}"), "project": null,
                "scopes": [{"type": "organization"}], "cap_nusd": 1, "period": "daily",
                "timezone": "UTC", "action": "block", "downgrade": [nowhere, nowhere, nowhere],
                "soft_pct": 80, "unset": "count", "max_subjects": 100, "enabled": true,
                "shadow": false,
            });
            for (key, value) in document.as_object().unwrap() {
                whole[key] = value.clone();
            }
            serde_json::from_value(whole).unwrap()
        })
        .collect();
    Budgets::compile(documents, &PROJECTS, &|_, _| Ok(Flat::direct(0, "small", "small")))
        .unwrap()
}

// Decisions.

#[derive(Debug, Clone)]
struct Row {
    document: Value,
    balance: Balance,
}

/// Amounts up to `most`.
fn row(most: u64) -> impl Strategy<Value = Row> {
    let amounts = [0..=most, 0..=most, 0..=most / 4, 1..=most];
    let acts = (0..4_usize, any::<[bool; 4]>());
    (amounts, acts).prop_map(|([spent, held, credits, cap], (action, rare))| Row {
        document: json!({
            "cap_nusd": cap,
            "action": ACTIONS[action],
            // One in four each.
            "enabled": !(rare[0] && rare[1]),
            "shadow": rare[2] && rare[3],
        }),
        balance: Balance {
            spent_nusd: spent,
            held_nusd: held,
            credits_nusd: credits,
            ..Balance::default()
        },
    })
}

fn ask(most: u64, limit_most: u64) -> impl Strategy<Value = Ask> {
    let bound = (0..=most / 2, 0..=3_000_000_u64, 1..=3_u64, 0..=4_u64, 1000..=1500_u64);
    let limits = (proptest::option::weighted(0.9, 0..=limit_most), 0..=limit_most);
    (bound, limits).prop_map(|((fixed, rate, answers, extra, factor), (limit, least))| Ask {
        bound: Bound::new(fixed, rate, answers, extra).times(factor),
        limit,
        least,
    })
}

fn states<'a>(budgets: &'a Budgets, rows: &[Row]) -> Vec<RowState<'a>> {
    budgets
        .iter()
        .zip(rows)
        .map(|(budget, row)| RowState { budget, balance: row.balance })
        .collect()
}

fn allowed(row: &RowState<'_>) -> i128 {
    i128::from(row.budget.cap_nusd) + i128::from(row.balance.credits_nusd)
}

fn left(row: &RowState<'_>) -> i128 {
    allowed(row) - i128::from(row.balance.spent_nusd)
}

fn free(row: &RowState<'_>) -> i128 {
    left(row) - i128::from(row.balance.held_nusd)
}

fn enforces(row: &RowState<'_>) -> bool {
    row.budget.enabled && !row.budget.shadow && row.budget.action != Action::WarnOnly
}

/// Is `one` to be named before `other`?
fn is_tighter(one: &RowState<'_>, other: &RowState<'_>) -> bool {
    let used = |row| allowed(row) - free(row);
    let here = used(one) * allowed(other);
    let there = used(other) * allowed(one);
    if here != there {
        return here > there;
    }
    if free(one).max(0) != free(other).max(0) {
        return free(one).max(0) < free(other).max(0);
    }
    one.budget.name < other.budget.name
}

fn tightest_among(rows: &[RowState<'_>], among: &[usize]) -> usize {
    let is_first = |at: usize| {
        among.iter().all(|other| *other == at || is_tighter(&rows[at], &rows[*other]))
    };
    among.iter().copied().find(|at| is_first(*at)).unwrap()
}

/// The table, row by row.
fn expected(rows: &[RowState<'_>], ask: &Ask, may_downgrade: bool) -> Decision {
    let cost = |limit| i128::from(ask.bound.at(limit).unwrap());
    let enforcing: Vec<usize> = (0..rows.len()).filter(|at| enforces(&rows[*at])).collect();
    let least = ask.limit.map(|limit| ask.least.min(limit));
    let fails = |amount: i128, room: fn(&RowState<'_>) -> i128| -> Vec<usize> {
        let too_much = |at: &usize| amount > 0 && amount > room(&rows[*at]);
        enforcing.iter().copied().filter(too_much).collect()
    };
    let blocks = |at: &usize| !may_downgrade || rows[*at].budget.action == Action::Block;

    // 1: bound(m) > cap + credits.
    let failing = fails(cost(least), allowed);
    let blocking: Vec<usize> = failing.iter().copied().filter(blocks).collect();
    if !blocking.is_empty() {
        let fits = |limit: &u64| fails(cost(Some(*limit)), allowed).is_empty();
        return Decision::RequestExceeds {
            row: tightest_among(rows, &blocking),
            affordable_tokens: (0..=least.unwrap_or(0)).rev().find(fits).unwrap_or(0),
        };
    }
    if !failing.is_empty() {
        return Decision::Downgrade { row: tightest_among(rows, &failing), exceeds_cap: true };
    }
    // 2: bound(m) > left.
    let failing = fails(cost(least), left);
    let blocking: Vec<usize> = failing.iter().copied().filter(blocks).collect();
    if !blocking.is_empty() {
        return Decision::Exceeded { row: tightest_among(rows, &blocking) };
    }
    if !failing.is_empty() {
        return Decision::Downgrade { row: tightest_among(rows, &failing), exceeds_cap: false };
    }
    // 3: bound(L) > left.
    let mut limit = ask.limit;
    let fitted = !fails(cost(limit), left).is_empty();
    while !fails(cost(limit), left).is_empty() {
        limit = Some(limit.unwrap() - 1);
    }
    // 4: bound(L) > left − held.
    let failing = fails(cost(limit), free);
    if !failing.is_empty() {
        return Decision::Held { row: tightest_among(rows, &failing) };
    }
    Decision::Hold { limit, amount_nusd: ask.bound.at(limit).unwrap(), fitted }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_decision_is_what_the_table_says(
        rows in proptest::collection::vec(row(200), 0..5),
        ask in ask(200, 80),
        may_downgrade in any::<bool>(),
    ) {
        let documents: Vec<Value> = rows.iter().map(|row| row.document.clone()).collect();
        let budgets = compiled(&documents);
        let states = states(&budgets, &rows);
        let expected = expected(&states, &ask, may_downgrade);
        prop_assert_eq!(decide(&states, &ask, may_downgrade), expected);
    }

    #[test]
    fn the_order_of_the_budgets_decides_nothing(
        rows in proptest::collection::vec(row(40), 0..5),
        ask in ask(40, 20),
        may_downgrade in any::<bool>(),
    ) {
        let documents: Vec<Value> = rows.iter().map(|row| row.document.clone()).collect();
        let budgets = compiled(&documents);
        let states = states(&budgets, &rows);
        let mut turned = states.clone();
        turned.reverse();
        let one = decide(&states, &ask, may_downgrade);
        let other = decide(&turned, &ask, may_downgrade);
        prop_assert_eq!(std::mem::discriminant(&one), std::mem::discriminant(&other));
        let name = |rows: &[RowState<'_>], at: Option<usize>| {
            at.map(|at| rows[at].budget.name.clone())
        };
        prop_assert_eq!(name(&states, one.row()), name(&turned, other.row()));
        prop_assert_eq!(
            name(&states, tightest(&states)),
            name(&turned, tightest(&turned))
        );
        if one.row().is_none() {
            prop_assert_eq!(one, other);
        }
    }

    #[test]
    fn no_hold_of_any_size_passes_a_cap_and_none_is_refused_that_fits(
        rows in proptest::collection::vec(row(1 << 62), 0..5),
        ask in ask(1 << 53, u64::MAX),
        may_downgrade in any::<bool>(),
    ) {
        let documents: Vec<Value> = rows.iter().map(|row| row.document.clone()).collect();
        let budgets = compiled(&documents);
        let states = states(&budgets, &rows);
        let fits = |limit, room: fn(&RowState<'_>) -> i128| {
            let amount = ask.bound.at(limit).map_or(i128::MAX, i128::from);
            states.iter().all(|row| !enforces(row) || amount == 0 || amount <= room(row))
        };
        let least = ask.limit.map(|limit| ask.least.min(limit));
        match decide(&states, &ask, may_downgrade) {
            Decision::Hold { limit, amount_nusd, fitted } => {
                prop_assert!(!states.iter().any(enforces) || fits(limit, free));
                prop_assert!(least <= limit && limit <= ask.limit);
                prop_assert_eq!(fitted, limit != ask.limit);
                prop_assert_eq!(amount_nusd, ask.bound.at(limit).unwrap_or(1 << 53));
                if let (true, Some(limit)) = (fitted, limit) {
                    prop_assert!(!fits(Some(limit + 1), left));
                }
            }
            Decision::RequestExceeds { affordable_tokens, .. } => {
                prop_assert!(!fits(least, allowed));
                if affordable_tokens > 0 {
                    prop_assert!(fits(Some(affordable_tokens), allowed));
                }
                prop_assert!(!fits(Some(affordable_tokens + 1), allowed));
            }
            Decision::Exceeded { .. } => {
                prop_assert!(fits(least, allowed) && !fits(least, left));
            }
            Decision::Downgrade { exceeds_cap, .. } => {
                prop_assert!(may_downgrade && !fits(least, left));
                prop_assert_eq!(exceeds_cap, !fits(least, allowed));
            }
            Decision::Held { .. } => {
                prop_assert!(fits(least, left) && !fits(ask.limit, free));
            }
        }
    }

    #[test]
    fn holds_and_settles_in_any_order_never_pass_a_cap(
        caps in proptest::collection::vec(1..=300_u64, 1..4),
        steps in proptest::collection::vec((ask(60, 40), any::<bool>(), 0..=100_u64), 1..60),
    ) {
        let documents: Vec<Value> = caps.iter().map(|cap| json!({"cap_nusd": cap})).collect();
        let budgets = compiled(&documents);
        let mut balance = Balance::default();
        let mut holds: Vec<u64> = Vec::new();
        for (ask, is_settle, percent) in steps {
            if is_settle {
                if let Some(amount) = holds.pop() {
                    balance.held_nusd -= amount;
                    balance.spent_nusd += amount * percent / 100;
                }
            } else {
                let rows: Vec<RowState<'_>> =
                    budgets.iter().map(|budget| RowState { budget, balance }).collect();
                if let Decision::Hold { amount_nusd, .. } = decide(&rows, &ask, true) {
                    balance.held_nusd += amount_nusd;
                    holds.push(amount_nusd);
                }
            }
            let used = balance.spent_nusd + balance.held_nusd;
            prop_assert!(caps.iter().all(|cap| used <= *cap));
        }
    }
}

// Matches.

fn scope() -> impl Strategy<Value = Value> {
    let word = 0..WORDS.len();
    (0..6_usize, word.clone(), word, 0..PROJECTS.len()).prop_map(|(kind, one, two, project)| {
        match kind {
            0 => json!({"type": "organization"}),
            1 => json!({"type": "project", "id": PROJECTS[project]}),
            2 => json!({"type": "end_user", "id": WORDS[one]}),
            3 => json!({"type": "tag", "key": TAGS[two % 2], "value": WORDS[one]}),
            4 => json!({"type": "key", "id": WORDS[one]}),
            _ => json!({"type": "route", "slug": WORDS[one]}),
        }
    })
}

fn budget() -> impl Strategy<Value = Value> {
    let scopes = proptest::collection::vec(scope(), 1..4);
    let project = proptest::option::weighted(0.2, 0..PROJECTS.len());
    (scopes, project, any::<bool>()).prop_map(|(scopes, project, skips)| {
        let unset = if skips { "skip" } else { "count" };
        json!({"scopes": scopes, "project": project, "unset": unset})
    })
}

#[derive(Debug, Clone)]
struct Caller {
    project: usize,
    key_id: &'static str,
    tags: Vec<(String, String)>,
    end_user: Option<&'static str>,
    slugs: Vec<&'static str>,
}

impl Caller {
    fn who(&self) -> Who<'_> {
        Who {
            project: self.project,
            key_id: self.key_id,
            tags: &self.tags,
            end_user: self.end_user,
            slugs: &self.slugs,
        }
    }
}

fn caller() -> impl Strategy<Value = Caller> {
    let word = || proptest::sample::select(WORDS.as_slice());
    let maybe = move || proptest::option::of(word());
    let slugs = proptest::collection::vec(word(), 0..4);
    (0..PROJECTS.len(), word(), [maybe(), maybe(), maybe()], slugs).prop_map(
        |(project, key_id, [team, env, end_user], slugs)| {
            let tags = [("team", team), ("env", env)];
            let tags = tags.into_iter().filter_map(|(key, value)| {
                value.map(|value| (key.to_owned(), value.to_owned()))
            });
            Caller { project, key_id, tags: tags.collect(), end_user, slugs }
        },
    )
}

/// The values under `*`, if the budget matches.
fn values_of(budget: &Value, caller: &Caller) -> Option<Vec<String>> {
    if !budget["project"].is_null() && budget["project"] != json!(caller.project) {
        return None;
    }
    let mut values = Vec::new();
    for scope in budget["scopes"].as_array().unwrap() {
        let wants_any = |key: &str, actual: Option<&str>, values: &mut Vec<String>| match actual
        {
            _ if scope[key] != "*" => actual.is_some_and(|actual| scope[key] == actual),
            None if budget["unset"] == "skip" => false,
            _ => {
                values.push(actual.unwrap_or("").to_owned());
                true
            }
        };
        let matches = match scope["type"].as_str().unwrap() {
            "organization" => true,
            "project" => scope["id"] == PROJECTS[caller.project],
            "end_user" => wants_any("id", caller.end_user, &mut values),
            "tag" => {
                let tag = caller.tags.iter().find(|(key, _)| scope["key"] == key.as_str());
                wants_any("value", tag.map(|(_, value)| value.as_str()), &mut values)
            }
            "key" => scope["id"] == caller.key_id,
            "route" => caller.slugs.iter().any(|slug| scope["slug"] == *slug),
            other => panic!("{other}"),
        };
        if !matches {
            return None;
        }
    }
    Some(values)
}

fn has_star(budget: &Value) -> bool {
    budget["scopes"].as_array().unwrap().iter().any(|scope| {
        (scope["type"] == "end_user" && scope["id"] == "*")
            || (scope["type"] == "tag" && scope["value"] == "*")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_index_finds_what_looking_at_every_budget_finds(
        documents in proptest::collection::vec(budget(), 0..30),
        caller in caller(),
    ) {
        let budgets = compiled(&documents);
        let mut found = Vec::new();
        budgets.matching(&caller.who(), &mut found);
        let mut expected = Vec::new();
        for (at, document) in documents.iter().enumerate() {
            let Some(values) = values_of(document, &caller) else { continue };
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            let subject_id = if has_star(document) {
                SubjectId::of(&values)
            } else {
                SubjectId::NONE
            };
            expected.push(Match { budget: at, subject: values.join(","), subject_id });
        }
        prop_assert_eq!(&found, &expected);
        // Asked again, it adds nothing.
        budgets.matching(&caller.who(), &mut found);
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn two_requests_share_a_row_only_if_all_values_under_stars_are_the_same(
        document in budget(),
        one in caller(),
        other in caller(),
    ) {
        let budgets = compiled(std::slice::from_ref(&document));
        let row = |caller: &Caller| {
            let mut found = Vec::new();
            budgets.matching(&caller.who(), &mut found);
            found.first().map(|found| found.subject_id)
        };
        if let (Some(one_row), Some(other_row)) = (row(&one), row(&other)) {
            let is_same = values_of(&document, &one) == values_of(&document, &other);
            prop_assert_eq!(one_row == other_row, is_same);
            prop_assert_ne!(one_row, SubjectId::OVERFLOW);
        }
    }
}
