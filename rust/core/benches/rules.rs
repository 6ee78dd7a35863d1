//! What it costs to evaluate a rule, to read one, and to refuse what was written to do harm.

#![expect(missing_docs, reason = "the functions that criterion's macros make")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use modelux_core::rules::{Place, Rule, TEXT_BYTES_MAX, Value, Var, Vars};

/// As a request would answer: by what is asked, not by a table.
struct Request {
    input_tokens: Value<'static>,
}

impl Vars for Request {
    fn read(&self, _index: usize, var: &Var) -> Value<'_> {
        match var {
            Var::Tag(key) if key == "tier" => Value::Text("gold"),
            Var::EndUser => Value::Text("user-1234"),
            Var::InputTokens => self.input_tokens,
            Var::Budget { .. } => Value::Number(0.61),
            Var::Latency { .. } => Value::Number(412.5),
            Var::Messages => Value::Number(7.0),
            Var::Stream => Value::Bool(true),
            _ => Value::Null,
        }
    }
}

const RULES: [(&str, &str); 6] = [
    ("one comparison", "tags.tier == 'gold'"),
    (
        "three comparisons",
        "tags.tier == 'gold' && budget.used_pct < 0.8 && latency['gpt-4o'].ttft_ms < 500",
    ),
    ("the first of three decides", "tags.tier == 'x' && budget.used_pct < 0.8 && has(tags.a)"),
    (
        "three comparisons, of a span",
        "request.stream && request.input_tokens > 1000 && has(end_user)",
    ),
    ("one of eight texts", "end_user in ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'user-1234']"),
    (
        "choices and sums",
        "(request.stream ? request.messages * 2 : 1) + 3 > 5 && end_user.startsWith('user-')",
    ),
];

fn rules(criterion: &mut Criterion) {
    let request = Request { input_tokens: Value::Span { least: 2_000.0, most: 64_000.0 } };
    let mut group = criterion.benchmark_group("evaluate a rule");
    for (name, text) in RULES {
        let Ok(rule) = Rule::compile(text, Place::Request) else { return };
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(black_box(&rule).eval(black_box(&request))));
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("read a rule");
    for (name, text) in RULES {
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(Rule::compile(black_box(text), Place::Request).is_ok()));
        });
    }
    group.finish();
}

/// The largest rules of their kind: in parts, and in the stack that they need.
fn largest(criterion: &mut Criterion) {
    let request = Request { input_tokens: Value::Span { least: 2_000.0, most: 64_000.0 } };
    let mut group = criterion.benchmark_group("evaluate the largest");
    let names: Vec<String> = (0..85).map(|at| format!("has(tags.t{at})")).collect();
    let variables: Vec<String> = (0..250).map(|at| format!("tags.t{at}")).collect();
    for (name, text) in [
        ("85 alternatives", names.join("||")),
        ("sum of 127", vec!["1"; 127].join("+") + "==1"),
        ("in a list of 250 variables", format!("'x' in [{}]", variables.join(","))),
    ] {
        let rule = Rule::compile(&text, Place::Request);
        let Ok(rule) = rule else { panic!("{text}: {rule:?}") };
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(black_box(&rule).eval(black_box(&request))));
        });
    }
    group.finish();
}

/// The same at a quarter, half and all of what is read: time has to grow no faster.
fn hostile(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hostile text");
    for (name, unit, end) in [
        ("words without sense", "true ", ""),
        ("parentheses", "(", ""),
        ("choices", "a?b:", "c"),
        ("not", "!", "true"),
        ("operators", "+-*/<>=", ""),
        ("one long name", "x", " == 1"),
        ("one long number", "9", " > 1"),
        ("a text of escapes", "\\n", ""),
        ("a quote that is not closed", "'", ""),
        ("as many variables as fit", "has(tags.abcde) && ", "true"),
        ("sums", "1+", "1==1"),
    ] {
        for bytes in [TEXT_BYTES_MAX / 4, TEXT_BYTES_MAX / 2, TEXT_BYTES_MAX] {
            let start = if unit == "\\n" { "'" } else { "" };
            let times = (bytes - start.len() - end.len()) / unit.len();
            let text = format!("{start}{}{end}", unit.repeat(times));
            group.throughput(Throughput::Bytes(text.len() as u64));
            group.bench_with_input(BenchmarkId::new(name, bytes), &text, |bencher, text| {
                bencher
                    .iter(|| black_box(Rule::compile(black_box(text), Place::Answer).is_ok()));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, rules, largest, hostile);
criterion_main!(benches);
