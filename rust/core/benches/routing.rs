//! What a decision costs: a list of twenty rules over three candidates against one target.
//!
//! Timed is the whole way from a request's bytes to its first attempt, so that reading the live
//! state, pricing and every allocation is in it; the difference of two rows is what a strategy
//! costs.

#![expect(missing_docs, reason = "criterion makes a function without one")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot start says where")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use serde_json::{Value, json};

#[path = "../tests/proxy/support.rs"]
#[expect(dead_code, reason = "tests use the rest of it")]
mod support;

use support::{Bench, chat, document, fallback, target};

fn config(strategy: &str, children: &[Value], own: &Value) -> Value {
    let mut node = fallback(children, own);
    node["strategy"] = json!(strategy);
    node
}

fn gate(config: &Value) -> Bench {
    let mut document = document(config);
    document["server"]["max_in_flight"] = json!(1_000_000);
    for (provider, model) in [("alpha", "a"), ("beta", "b")] {
        document["prices"].as_array_mut().unwrap().push(json!({"provider": provider,
            "model": model, "input_nusd_per_mtok": 2_000_000_000_u64,
            "output_nusd_per_mtok": 4_000_000_000_u64, "cached_nusd_per_mtok": null,
            "cache_write_nusd_per_mtok": null, "request_nusd": 0}));
    }
    Bench::new(&document)
}

/// Nineteen rules that do not match, on everything that a rule may read, and an `else`.
fn twenty_rules() -> Value {
    let named = json!({"m": {"provider": 0, "model": "m"}, "b": {"provider": 1, "model": "b"}});
    let texts = [
        "tags.tier == 'gold'",
        "tags.team == 'ml' && request.has_tools",
        "request.input_tokens > 100000",
        "latency['m'].ttft_ms > 900 && health['m'].state == 'open'",
        "cost['b'].est_usd > 0.5",
        "end_user == 'nobody' || request.messages > 400",
        "time.hour_utc >= 24",
        "request.max_output_tokens > 100000 && !request.stream",
        "tags.env in ['test', 'staging']",
        "request.model.startsWith('@other')",
    ];
    let mut rules: Vec<Value> = texts
        .iter()
        .chain(&texts[..9])
        .enumerate()
        .map(|(at, text)| {
            json!({"if": {"text": text, "targets": named}, "then": at % 3,
                "path": format!("rules[{at}]")})
        })
        .collect();
    rules.push(json!({"if": null, "then": 0, "path": "rules[19]"}));
    config("custom_rules", &three(), &json!({"rules": rules}))
}

fn three() -> Vec<Value> {
    vec![target(0, "m"), target(0, "a"), target(1, "b")]
}

fn decisions(criterion: &mut Criterion) {
    let filler = "Why is the tide an hour later each day? ".repeat(24);
    let request = chat(
        "Accept: application/json\r\nX-Modelux-User-Tags: team=ml,env=prod\r\n",
        &json!({"model": "@prod", "max_tokens": 256, "user": "ann",
            "messages": [{"role": "user", "content": filler}]}),
    );
    let arms = json!({"variants": [{"name": "x", "weight": 1}, {"name": "y", "weight": 1},
        {"name": "z", "weight": 1}]});
    let mut group = criterion.benchmark_group("to the first attempt");
    for (name, config) in [
        ("single", config("single", &[target(0, "m")], &json!({}))),
        ("fallback of three", fallback(&three(), &json!({}))),
        ("cost of three", config("cost_optimized", &three(), &json!({}))),
        ("latency of three", config("latency_optimized", &three(), &json!({}))),
        ("one arm of three", config("ab_test", &three(), &arms)),
        ("twenty rules, three candidates", twenty_rules()),
    ] {
        let mut bench = gate(&config);
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || (),
                |()| black_box(bench.plan(&request)),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, decisions);
criterion_main!(benches);
