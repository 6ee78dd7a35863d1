//! A whole exchange without its sockets: the gate, a turn of the ledger, the answer, the record.

#![expect(missing_docs, reason = "criterion makes a function without one")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot start says where")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use modelux_core::exchange::{Plan, Verdict};
use serde_json::{Value, json};

#[path = "../tests/proxy/support.rs"]
#[expect(dead_code, reason = "tests use the rest of it")]
mod support;

use support::{Bench, START_US, UNIX_US, chat, document, fallback, target};

/// As many as a busy worker has in one turn of its loop.
const TOGETHER: usize = 32;

fn budget(index: usize, scope: &Value) -> Value {
    json!({
        "id": format!("{index:032x}"), "name": format!("b{index}"), "scopes": [scope],
        "project": null, "cap_nusd": 1_u64 << 52, "period": "monthly", "timezone": "Europe/Berlin",
        "action": "block", "downgrade": [null], "soft_pct": 80, "unset": "count",
        "max_subjects": 16384, "enabled": true, "shadow": false,
    })
}

fn gate(budgets: &[Value]) -> Bench {
    let mut document = document(&fallback(&[target(0, "m"), target(1, "b")], &json!({})));
    document["server"]["max_in_flight"] = json!(1024);
    if !budgets.is_empty() {
        document["budgets"] = json!(budgets);
    }
    Bench::new(&document)
}

fn serve_together(bench: &mut Bench, request: &[u8], body: &[u8], answer: &[u8]) {
    let mut plans: Vec<Box<Plan>> = (0..TOGETHER).map(|_| bench.plan(request)).collect();
    if plans[0].verdict() == Verdict::Wait {
        let mut waiting: Vec<&mut Plan> = plans.iter_mut().map(|plan| &mut **plan).collect();
        bench.gate.turn(&mut waiting, START_US, UNIX_US);
    }
    for plan in &mut plans {
        assert_eq!(plan.verdict(), Verdict::Go);
        black_box(plan.send(&mut bench.gate, body, START_US));
        black_box(plan.answer(&mut bench.gate, body, answer, START_US));
    }
}

fn exchanges(criterion: &mut Criterion) {
    let filler = "Why is the tide an hour later each day? ".repeat(24);
    let body = json!({
        "model": "@prod", "max_tokens": 256, "temperature": 0.2, "user": "ann",
        "messages": [{"role": "system", "content": "Short."}, {"role": "user", "content": filler}],
    });
    let lines = "Accept: application/json\r\nUser-Agent: OpenAI/Python 3.1\r\nX-Modelux-User-Tags: team=ml\r\nContent-Type: application/json\r\n";
    let request = chat(lines, &body);
    let body = body.to_string().into_bytes();
    let text = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "x".repeat(600)},
            "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 200, "completion_tokens": 100, "total_tokens": 300},
    })
    .to_string();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ndate: x\r\ncontent-length: {}\r\n\r\n{text}",
        text.len()
    )
    .into_bytes();

    let three = [
        budget(1, &json!({"type": "organization"})),
        budget(2, &json!({"type": "project", "id": "default"})),
        budget(3, &json!({"type": "tag", "key": "team", "value": "ml"})),
    ];
    let mut group = criterion.benchmark_group("exchange");
    group.throughput(Throughput::Elements(TOGETHER as u64));
    for (name, budgets) in [("no budget", &three[..0]), ("three budgets", &three[..])] {
        let mut bench = gate(budgets);
        group.bench_function(name, |bencher| {
            bencher.iter(|| serve_together(&mut bench, &request, &body, &answer));
        });
    }
    group.finish();
}

criterion_group!(benches, exchanges);
criterion_main!(benches);
