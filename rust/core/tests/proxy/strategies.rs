//! Each strategy through the gate: who is tried, in which order, and what the trace says of it.

use crate::support::{
    Bench, START_US, UNIX_US, chat, document, fallback, plain_chat, provider, target, text,
};
use modelux_core::exchange::{Fault, Plan, Step, Verdict};
use modelux_core::gate::Begin;
use modelux_core::live::SizeClass;
use proptest::prelude::*;
use serde_json::{Value, json};

/// A config of `strategy` over these children, with what it has of its own.
fn config(strategy: &str, children: &[Value], own: &Value) -> Value {
    let mut node = fallback(children, own);
    node["strategy"] = json!(strategy);
    node
}

fn rule(text: &str) -> Value {
    json!({"text": text, "targets": {
        "m": {"provider": 0, "model": "m"}, "b": {"provider": 1, "model": "b"}}})
}

/// Three targets: alpha's `m` and `a`, beta's `b`.
fn three() -> Vec<Value> {
    vec![target(0, "m"), target(0, "a"), target(1, "b")]
}

/// Four, the last one dearer than `m`.
fn priced(config: &Value) -> Value {
    let mut document = document(config);
    document["routes"][0]["versions"][1]["config"]["slug"] = json!("prod");
    document["routes"][0]["versions"][1]["config"]["version"] = json!(2);
    for (provider, model, input) in
        [("alpha", "a", 500_000_000_u64), ("beta", "b", 4_000_000_000)]
    {
        document["prices"].as_array_mut().unwrap().push(
            json!({"provider": provider, "model": model,
            "input_nusd_per_mtok": input, "output_nusd_per_mtok": input * 2,
            "cached_nusd_per_mtok": input / 10, "cache_write_nusd_per_mtok": null,
            "request_nusd": 0}),
        );
    }
    document
}

fn answer(body: &Value) -> Vec<u8> {
    let body = body.to_string();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn says(words: &str) -> Vec<u8> {
    answer(&json!({"id": "x", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": words},
            "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}}))
}

fn fails(status: u16, lines: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} No\r\n{lines}content-length: 2\r\n\r\n{{}}").into_bytes()
}

/// Serve one request, each attempt answered by `answers`; the record.
fn served(
    bench: &mut Bench,
    request: &[u8],
    answers: &mut dyn FnMut(&str) -> Vec<u8>,
) -> Value {
    let body_at = request.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let body = request[body_at..].to_vec();
    let mut plan = bench.plan(request);
    loop {
        assert_eq!(plan.verdict(), Verdict::Go);
        plan.resume();
        let wire = text(&plan.send(&mut bench.gate, &body, START_US));
        let sent: Value = serde_json::from_str(wire.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        let model = sent["model"].as_str().unwrap().to_owned();
        let step = plan.answer(&mut bench.gate, &body, &answers(&model), START_US + 1000);
        match step {
            Step::Done(_) => return bench.record(),
            Step::Failed if plan.next(&body, START_US + 2000) => {}
            Step::Failed => {
                if plan.stand(&mut bench.gate, &body, START_US) == Step::Failed {
                    plan.give_up(&mut bench.gate, &body, 502, ("t", "c", "m"), START_US);
                }
                return bench.record();
            }
            other => panic!("{other:?}"),
        }
    }
}

fn targets(record: &Value) -> Vec<String> {
    let attempts = record["attempts"].as_array().unwrap();
    attempts.iter().map(|attempt| attempt["target"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_cheapest_for_this_request_serves_and_the_others_follow_by_price() {
    let config = config("cost_optimized", &three(), &json!({}));
    let mut bench = Bench::new(&priced(&config));
    let record = served(&mut bench, &plain_chat(), &mut |model| match model {
        "b" => says("four"),
        _ => fails(500, ""),
    });
    assert_eq!(targets(&record), ["a", "m", "b"]);
    let costs: Vec<f64> = record["decision"]["candidates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|candidate| candidate["est_cost_usd"].as_str().unwrap().parse().unwrap())
        .collect();
    assert!(costs[1] < costs[0] && costs[0] < costs[2], "{costs:?}");
}

#[test]
fn a_list_is_told_with_costs_and_latencies_too() {
    let mut bench = Bench::new(&priced(&fallback(&three(), &json!({}))));
    served(&mut bench, &plain_chat(), &mut |_| says("x"));
    let record = served(&mut bench, &plain_chat(), &mut |_| says("x"));
    let candidates = record["decision"]["candidates"].as_array().unwrap();
    assert!(candidates.iter().all(|one| one["est_cost_usd"].is_string()), "{candidates:?}");
    assert!(candidates[0]["latency_ms"].is_number(), "{candidates:?}");
    assert!(candidates[1]["latency_ms"].is_null(), "{candidates:?}");
    // They are shown, and had no say.
    assert!(record["decision"]["inputs"].get("targets").is_none());
}

#[test]
fn a_target_without_a_price_is_not_the_cheapest() {
    let children = [target(0, "m"), target(1, "m")];
    let config = config("cost_optimized", &children, &json!({}));
    let mut bench = Bench::new(&priced(&config));
    let record = served(&mut bench, &plain_chat(), &mut |_| says("x"));
    assert_eq!(record["decision"]["candidates"][1]["est_cost_usd"], Value::Null);
    assert_eq!(record["provider"], "alpha");
}

#[test]
fn a_warm_cache_outweighs_a_lower_price() {
    let config = config("cost_optimized", &[target(0, "a"), target(1, "b")], &json!({}));
    let mut document = priced(&config);
    // Cached, `b` costs a tenth of its price: less than `a` cold.
    document["prices"][2]["input_nusd_per_mtok"] = json!(1_000_000_000_u64);
    document["prices"][2]["output_nusd_per_mtok"] = json!(1_000_000_000_u64);
    document["prices"][2]["cached_nusd_per_mtok"] = json!(50_000_000_u64);
    let mut bench = Bench::new(&document);
    let body = json!({"model": "@prod", "max_tokens": 1, "messages": [
        {"role": "user", "content": "word ".repeat(4000)}]});
    let ask = chat("X-Modelux-Conversation-Id: c1\r\n", &body);
    let first = served(&mut bench, &ask, &mut |_| fails(500, ""));
    assert_eq!(targets(&first), ["a", "b"]);
    let warm = |model: &str| match model {
        "a" => fails(503, ""),
        _ => {
            answer(&json!({"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 4000, "completion_tokens": 1,
                "prompt_tokens_details": {"cached_tokens": 3900}}}))
        }
    };
    served(&mut bench, &ask, &mut { warm });
    let record = served(&mut bench, &ask, &mut { warm });
    assert_eq!(targets(&record), ["b"], "its cache knows this conversation");
    let other = chat("X-Modelux-Conversation-Id: c2\r\n", &body);
    let record = served(&mut bench, &other, &mut |_| says("x"));
    assert_eq!(targets(&record), ["a"], "and no other");
}

#[test]
fn the_fastest_serves_and_one_without_samples_is_tried_once() {
    let own = json!({"explore_pct": 0});
    let mut bench = Bench::of(&config("latency_optimized", &three(), &own));
    let live = bench.gate.live();
    for (provider, model, ms) in [("alpha", "m", 400), ("beta", "b", 50)] {
        let id = live.target(provider, model);
        live.ttft(id, SizeClass::Small, ms * 1000, START_US);
    }
    let first = |bench: &mut Bench| {
        let mut plan = bench.plan(&plain_chat());
        let _ = plan.send(&mut bench.gate, crate::support::BODY, START_US);
        let wire = plan.attempts()[0].target().label.clone();
        (plan, wire)
    };
    let (kept, untried) = first(&mut bench);
    assert_eq!(untried, "a");
    let (_, then) = first(&mut bench);
    assert_eq!(then, "b", "one at a time, while the first is under way");
    drop(kept);
}

#[test]
fn targets_within_the_tolerance_share_the_traffic() {
    let own = json!({"explore_pct": 0, "tolerance_pct": 20});
    let mut bench = Bench::of(&config("latency_optimized", &three(), &own));
    let live = bench.gate.live();
    for (provider, model, ms) in [("alpha", "m", 100), ("alpha", "a", 110), ("beta", "b", 500)]
    {
        let id = live.target(provider, model);
        live.ttft(id, SizeClass::Small, ms * 1000, START_US);
    }
    let mut counts = std::collections::HashMap::new();
    for _ in 0..400 {
        let plan = bench.plan(&plain_chat());
        *counts.entry(plan.attempts()[0].target().label.clone()).or_insert(0) += 1;
    }
    assert_eq!(counts.get("b"), None, "{counts:?}");
    assert!(counts["m"] > 140 && counts["a"] > 140, "{counts:?}");
}

#[test]
fn exploration_reaches_the_others_about_as_often_as_it_says() {
    let own = json!({"explore_pct": 10});
    let mut bench = Bench::of(&config("latency_optimized", &three(), &own));
    let live = bench.gate.live();
    for (provider, model, ms) in [("alpha", "m", 100), ("alpha", "a", 300), ("beta", "b", 500)]
    {
        let id = live.target(provider, model);
        live.ttft(id, SizeClass::Small, ms * 1000, START_US);
    }
    let explored = (0..2000)
        .filter(|_| bench.plan(&plain_chat()).attempts()[0].target().label != "m")
        .count();
    assert!((130..=280).contains(&explored), "{explored} of 2,000 at 10 %");
}

#[test]
fn the_same_subject_is_always_in_the_same_arm_and_the_header_names_it() {
    let own = json!({"variants": [{"name": "old", "weight": 5000}, {"name": "new", "weight": 5000}],
        "sticky_by": "end_user", "salt": "s"});
    let children = [target(0, "m"), target(1, "b")];
    let mut arms = std::collections::HashMap::new();
    for run in 0..2 {
        let mut bench = Bench::of(&config("ab_test", &children, &own));
        for user in 0..50 {
            let ask = chat(
                &format!("X-Modelux-User-Id: u{user}\r\n"),
                &json!({"model": "@prod", "messages": []}),
            );
            let mut plan = bench.plan(&ask);
            let arm = plan.variant().unwrap().to_owned();
            let (relayed, _) = bench.feed(&mut plan, &[&says("x")], START_US);
            assert!(text(&relayed).contains(&format!("X-Modelux-Ab-Variant: {arm}\r\n")));
            let known = arms.entry(user).or_insert_with(|| arm.clone());
            assert_eq!(*known, arm, "run {run}");
        }
    }
    let new = arms.values().filter(|arm| *arm == "new").count();
    assert!((12..=38).contains(&new), "{new} of 50");
}

#[test]
fn an_arm_that_fails_does_not_hand_its_subjects_to_the_other() {
    let own = json!({"variants": [{"name": "a", "weight": 0}, {"name": "b", "weight": 1}]});
    let children = [target(0, "m"), target(1, "b")];
    let mut bench = Bench::of(&config("ab_test", &children, &own));
    let record = served(&mut bench, &plain_chat(), &mut |_| fails(500, ""));
    assert_eq!(targets(&record), ["b"]);
    assert_eq!(record["decision"]["candidates"][0]["reject_reason"], "other_variant");
    assert_eq!(record["decision"]["variant"], "b");
}

#[test]
fn the_first_rule_that_matches_decides_and_the_trace_has_each_result() {
    let own = json!({"rules": [
        {"if": rule("tags.tier == 'gold'"), "then": 0, "path": "rules[0]"},
        {"if": rule("request.stream"), "then": 1, "path": "rules[1]"},
        {"if": null, "then": 2, "path": "rules[2]"}]});
    let mut bench = Bench::of(&config("custom_rules", &three(), &own));
    let gold =
        chat("X-Modelux-User-Tags: tier=gold\r\n", &json!({"model": "@prod", "messages": []}));
    let record = served(&mut bench, &gold, &mut |_| says("x"));
    assert_eq!(targets(&record), ["m"]);
    assert_eq!(
        record["decision"]["rules"],
        json!([
        {"index": 0, "expr": "tags.tier == 'gold'", "result": true}])
    );
    let record = served(&mut bench, &plain_chat(), &mut |_| says("x"));
    assert_eq!(targets(&record), ["b"]);
    assert_eq!(
        record["decision"]["rules"],
        json!([
        {"index": 0, "expr": "tags.tier == 'gold'", "result": false},
        {"index": 1, "expr": "request.stream", "result": false},
        {"index": 2, "expr": "", "result": true}])
    );
    assert_eq!(record["decision"]["candidates"][0]["reject_reason"], "rule_not_matched");
}

#[test]
fn a_rule_that_blocks_and_rules_that_do_not_match_stop_a_request() {
    let own = json!({"rules": [{"if": rule("tags.bad == 'yes'"), "block": "not today", "path": "rules[0]"}]});
    let mut bench = Bench::of(&config("custom_rules", &[], &own));
    let bad =
        chat("X-Modelux-User-Tags: bad=yes\r\n", &json!({"model": "@prod", "messages": []}));
    let plan = bench.plan(&bad);
    assert_eq!(plan.verdict(), Verdict::Stopped);
    let stopped = plan.stopped().unwrap();
    assert_eq!((stopped.code, stopped.message.as_str()), ("blocked_by_rule", "not today"));
    let plan = bench.plan(&plain_chat());
    assert_eq!(plan.stopped().unwrap().code, "no_rule_matched");
}

#[test]
fn a_rule_on_tokens_that_the_bytes_leave_open_is_decided_all_the_same() {
    let own = json!({"rules": [
        {"if": rule("request.input_tokens > 100"), "then": 0, "path": "rules[0]"},
        {"if": null, "then": 2, "path": "rules[1]"}]});
    let mut bench = Bench::of(&config("custom_rules", &three(), &own));
    let short = served(&mut bench, &plain_chat(), &mut |_| says("x"));
    assert_eq!(targets(&short), ["b"], "fewer bytes than tokens asked for");
    assert_eq!(short["decision"]["tokens_by"], "bytes");
    let long = chat(
        "",
        &json!({"model": "@prod", "messages": [
        {"role": "user", "content": "word ".repeat(200)}]}),
    );
    let long = served(&mut bench, &long, &mut |_| says("x"));
    assert_eq!(targets(&long), ["m"]);
    assert_eq!(
        long["decision"]["tokens_by"], "estimate",
        "nobody knows this model's vocabulary"
    );
}

#[test]
fn a_cascade_goes_on_until_an_answer_is_good_enough() {
    let own = json!({"accepts": [{"rule": rule("response.json_valid")}, null]});
    let mut bench = Bench::of(&config("cascade", &[target(0, "m"), target(1, "b")], &own));
    let record = served(&mut bench, &plain_chat(), &mut |model| match model {
        "m" => says("no json"),
        _ => says("also none"),
    });
    assert_eq!(targets(&record), ["m", "b"]);
    assert_eq!(record["model"], "b", "the last step always stands");
    assert_eq!(record["attempts"][0]["outcome"], "ok");
    assert_eq!(record["attempts"][1]["reason"], "attempt_1 was not good enough");
    let record = served(&mut bench, &plain_chat(), &mut |_| says("{\"a\": 1}"));
    assert_eq!(targets(&record), ["m"]);
}

#[test]
fn where_the_next_step_fails_the_answer_that_was_read_stands() {
    let own = json!({"accepts": [{"rule": rule("response.json_valid")}, null]});
    let mut bench = Bench::of(&config("cascade", &[target(0, "m"), target(1, "b")], &own));
    let record = served(&mut bench, &plain_chat(), &mut |model| match model {
        "m" => says("no json"),
        _ => fails(500, ""),
    });
    assert_eq!((&record["status"], &record["model"]), (&json!(200), &json!("m")));
    assert_eq!(record["warnings"], json!(["cascade_unaccepted"]));
}

#[test]
fn an_answer_that_is_too_large_to_be_read_stands_with_a_warning() {
    let own = json!({"accepts": [{"rule": rule("response.json_valid")}, null]});
    let mut bench = Bench::of(&config("cascade", &[target(0, "m"), target(1, "b")], &own));
    let mut plan = bench.plan(&plain_chat());
    let large = says(&"word ".repeat(300_000));
    let (relayed, step) =
        bench.feed(&mut plan, &[&large[..1_200_000], &large[1_200_000..]], START_US);
    assert_eq!(step, Step::Done(Vec::new()));
    assert!(text(&relayed[..2000]).contains("X-Modelux-Warnings: cascade_unread\r\n"));
    assert_eq!(targets(&bench.record()), ["m"]);
}

#[test]
fn a_judge_accepts_by_its_score() {
    let judge = target(1, "m");
    let own = json!({"accepts": [{"judge": judge, "min_score_permille": 700}, null]});
    let steps = [target(0, "m"), target(1, "b")];
    for (score, served_by) in
        [("{\"score\": 0.9}", "m"), ("{\"score\": 0.2}", "b"), ("well", "b")]
    {
        let mut bench = Bench::of(&config("cascade", &steps, &own));
        let mut calls = 0;
        let record = served(&mut bench, &plain_chat(), &mut |_| {
            calls += 1;
            if calls == 2 { says(score) } else { says("an answer") }
        });
        assert_eq!(record["model"], served_by, "{score}");
        assert_eq!(record["attempts"][1]["role"], "judge");
        assert_eq!(record["attempts"][0]["role"], "serve");
    }
}

#[test]
fn five_failures_open_the_breaker_and_one_probe_closes_it() {
    let mut bench = Bench::of(&fallback(&[target(0, "m"), target(1, "b")], &json!({})));
    for _ in 0..5 {
        served(&mut bench, &plain_chat(), &mut |model| match model {
            "m" => fails(500, ""),
            _ => says("x"),
        });
    }
    let record = served(&mut bench, &plain_chat(), &mut |_| says("x"));
    assert_eq!(targets(&record), ["b"], "passed over");
    assert_eq!(record["decision"]["candidates"][0]["reject_reason"], "breaker_open");
    assert_eq!(record["decision"]["candidates"][0]["health"], "open");
    let later_us = START_US + 6_000_000;
    let first = |bench: &mut Bench| {
        let begun = bench.gate.begin(&plain_chat(), None, "192.0.2.1", later_us, 1);
        let Begin::Plan(plan) = begun else { panic!("no plan") };
        plan
    };
    let mut probe = first(&mut bench);
    assert_eq!(probe.attempts()[0].target().label, "m");
    let other = first(&mut bench);
    assert_eq!(other.attempts()[0].target().label, "b", "one probe at a time");
    let body = crate::support::BODY;
    let _ = probe.send(&mut bench.gate, body, later_us);
    assert!(matches!(
        probe.answer(&mut bench.gate, body, &says("x"), later_us + 1),
        Step::Done(_)
    ));
    assert_eq!(first(&mut bench).attempts()[0].target().label, "m", "closed again");
}

#[test]
fn what_mattered_is_counted_once_under_its_place() {
    let mut arm = target(0, "m");
    arm["path"] = json!("variants[0].target");
    let mut inner = fallback(&[target(1, "b")], &json!({}));
    inner["path"] = json!("variants[1].target");
    let own = json!({"variants": [{"name": "x", "weight": 1}, {"name": "y", "weight": 0}]});
    let document = priced(&config("ab_test", &[arm, inner], &own));
    let mut bench = Bench::new(&document);
    for _ in 0..3 {
        served(&mut bench, &plain_chat(), &mut |_| says("x"));
    }
    let hits = |path: &str| {
        let name = format!("default/@prod v2 {path}");
        bench.gate.live().mark_view(&name).map_or(0, |view| view.hits)
    };
    assert_eq!((hits("variants[0].target"), hits("variants[1].target")), (3, 0));
}

#[test]
fn what_a_target_sets_in_the_body_is_held_for_like_the_rest() {
    let bound = |params: Value| {
        let mut leaf = target(0, "m");
        leaf["params"] = params;
        let mut bench = Bench::new(&priced(&fallback(&[leaf], &json!({}))));
        let body = json!({"model": "@prod", "max_tokens": 1, "messages": []});
        let ask = chat("X-Modelux-Dry-Run: true\r\n", &body);
        let Begin::Local(answer) = bench.begin(&ask) else { panic!("called") };
        let told: Value = serde_json::from_slice(&answer.body).unwrap();
        let usd = told["modelux"]["attempts"][0]["bound_usd"].as_str().unwrap().to_owned();
        usd.parse::<f64>().unwrap()
    };
    let plain = bound(Value::Null);
    let filled = bound(json!({"response_format": {"schema": "x".repeat(9_000)}}));
    // A token a byte, at 1 USD a million.
    assert!(filled - plain > 0.009, "{plain} and {filled}");
}

#[test]
fn a_target_that_answers_nobody_any_more_is_left_before_its_first_timeout() {
    let mut document = document(&fallback(&[target(0, "m"), target(1, "b")], &json!({})));
    document["server"]["max_in_flight"] = json!(100);
    let mut bench = Bench::new(&document);
    for _ in 0..3 {
        served(&mut bench, &plain_chat(), &mut |_| says("x"));
    }
    let at = |bench: &mut Bench, now_us: u64| {
        let begun = bench.gate.begin(&plain_chat(), None, "192.0.2.1", now_us, UNIX_US);
        let Begin::Plan(mut plan) = begun else { panic!("no plan") };
        let _ = plan.send(&mut bench.gate, crate::support::BODY, now_us);
        plan
    };
    let first = |plan: &Plan| plan.attempts()[0].target().label.clone();
    let waiting: Vec<_> = (0..8).map(|_| at(&mut bench, START_US)).collect();
    assert!(waiting.iter().all(|plan| first(plan) == "m"));
    assert_eq!(first(&at(&mut bench, START_US + 100_000)), "m", "slow is not dead");
    assert_eq!(first(&at(&mut bench, START_US + 400_000)), "b", "nobody was answered");
    let mut waiting = waiting.into_iter();
    let mut alive = waiting.next().unwrap();
    let body = crate::support::BODY;
    let _ = alive.answer(&mut bench.gate, body, &says("x"), START_US + 500_000);
    assert_eq!(first(&at(&mut bench, START_US + 510_000)), "m", "one answer, and it is back");
}

#[test]
fn a_probe_that_is_never_sent_leaves_its_turn_to_the_next() {
    let mut bench = Bench::of(&fallback(&[target(0, "m"), target(1, "b")], &json!({})));
    for _ in 0..5 {
        served(&mut bench, &plain_chat(), &mut |model| match model {
            "m" => fails(500, ""),
            _ => says("x"),
        });
    }
    let later_us = START_US + 6_000_000;
    let probe = |bench: &mut Bench| {
        let begun = bench.gate.begin(&plain_chat(), None, "192.0.2.1", later_us, 1);
        let Begin::Plan(plan) = begun else { panic!("no plan") };
        assert_eq!(plan.attempts()[0].target().label, "m");
        plan
    };
    let mut first = probe(&mut bench);
    let step = first.fault(&mut bench.gate, b"", Fault::CallerGone, later_us);
    assert_eq!(step, Step::Cut(Vec::new()));
    let _ = probe(&mut bench);
}

#[test]
fn a_probe_on_a_pooled_connection_that_closed_goes_on_with_its_fresh_try() {
    let mut bench = Bench::of(&fallback(&[target(0, "m"), target(1, "b")], &json!({})));
    for _ in 0..5 {
        served(&mut bench, &plain_chat(), &mut |model| match model {
            "m" => fails(500, ""),
            _ => says("x"),
        });
    }
    let later_us = START_US + 6_000_000;
    let begin = |bench: &mut Bench| {
        let begun = bench.gate.begin(&plain_chat(), None, "192.0.2.1", later_us, 1);
        let Begin::Plan(plan) = begun else { panic!("no plan") };
        plan
    };
    let body = crate::support::BODY;
    let mut probe = begin(&mut bench);
    let _ = probe.send(&mut bench.gate, body, later_us);
    assert_eq!(probe.fault(&mut bench.gate, body, Fault::Reset, later_us), Step::Failed);
    assert_eq!(begin(&mut bench).attempts()[0].target().label, "b", "still one probe");
    assert!(probe.next(body, later_us));
    assert_eq!(probe.attempts()[1].target().label, "m");
    probe.connecting(later_us);
    let _ = probe.send(&mut bench.gate, body, later_us);
    assert_eq!(probe.fault(&mut bench.gate, body, Fault::Reset, later_us), Step::Failed);
    assert_eq!(begin(&mut bench).attempts()[0].target().label, "b", "it failed");
}

#[test]
fn where_every_target_is_open_one_is_used_all_the_same() {
    let mut bench = Bench::of(&fallback(&[target(0, "m")], &json!({"retry_on": []})));
    for _ in 0..8 {
        let record = served(&mut bench, &plain_chat(), &mut |_| fails(500, ""));
        assert_eq!(targets(&record), ["m"]);
    }
}

#[test]
fn the_callers_own_mistakes_do_not_open_a_breaker() {
    let mut bench = Bench::of(&fallback(&[target(0, "m"), target(1, "b")], &json!({})));
    for _ in 0..30 {
        served(&mut bench, &plain_chat(), &mut |_| fails(400, ""));
    }
    let record = served(&mut bench, &plain_chat(), &mut |_| says("x"));
    assert_eq!(targets(&record), ["m"]);
}

fn two_keys(config: &Value) -> Value {
    let mut document = document(config);
    document["providers"][0] = provider("alpha", &json!(["m", "a"]));
    document["providers"][0]["credentials"] = json!([
        {"id": "one", "ref": "env:KEY", "weight": 1}, {"id": "two", "ref": "env:KEY", "weight": 1}]);
    document
}

#[test]
fn a_key_that_is_told_to_wait_is_rotated_away_from() {
    let mut bench = Bench::new(&two_keys(&fallback(&[target(0, "m")], &json!({}))));
    let mut calls = 0;
    let record = served(&mut bench, &plain_chat(), &mut |_| {
        calls += 1;
        if calls == 1 { fails(429, "retry-after: 30\r\n") } else { says("x") }
    });
    assert_eq!((record["status"].clone(), targets(&record).len()), (json!(200), 2));
    for _ in 0..20 {
        let record = served(&mut bench, &plain_chat(), &mut |_| says("x"));
        assert_eq!(targets(&record).len(), 1, "the other key serves");
    }
}

#[test]
fn a_key_that_was_refused_serves_once_the_other_has_to_wait_and_nobody_else_is_left() {
    let mut bench = Bench::new(&two_keys(&fallback(&[target(0, "m")], &json!({}))));
    let in_turn = |bench: &mut Bench, mut answers: Vec<Vec<u8>>| {
        served(bench, &plain_chat(), &mut |_| answers.remove(0))
    };
    let record = in_turn(&mut bench, vec![fails(401, ""), says("x")]);
    assert_eq!(targets(&record).len(), 2);
    let wait = "retry-after: 30\r\n";
    let record = in_turn(&mut bench, vec![fails(429, wait), fails(401, "")]);
    assert_eq!((record["status"].clone(), targets(&record).len()), (json!(502), 2));
    let record = in_turn(&mut bench, vec![says("x")]);
    assert_eq!((record["status"].clone(), targets(&record).len()), (json!(200), 1));
    // Behind another target it is not asked for.
    let both = fallback(&[target(0, "m"), target(1, "b")], &json!({}));
    let mut bench = Bench::new(&two_keys(&both));
    in_turn(&mut bench, vec![fails(401, ""), says("x")]);
    let record = in_turn(&mut bench, vec![fails(429, wait), says("x")]);
    assert_eq!(targets(&record), ["m", "b"]);
}

#[test]
fn a_member_whose_rule_leads_elsewhere_is_left_out_by_that_rule() {
    let own = json!({"rules": [
        {"if": rule("tags.q == 'z'"), "then": 0, "block": null, "path": "rules[0]"},
        {"if": null, "then": 1, "block": null, "path": "rules[1]"}]});
    let inner = config("custom_rules", &[target(0, "a"), target(1, "b")], &own);
    let both = json!({"aggregation": "first_valid"});
    let mut bench = Bench::of(&config("ensemble", &[inner, target(0, "m")], &both));
    let mut plan = bench.plan(&plain_chat());
    let _ = plan.fault(&mut bench.gate, b"", Fault::CallerGone, START_US);
    let record = bench.record();
    let reasons: Vec<&Value> = record["decision"]["candidates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|candidate| &candidate["reject_reason"])
        .collect();
    assert_eq!(reasons, [&json!("rule_not_matched"), &Value::Null, &Value::Null]);
}

#[test]
fn a_target_whose_only_key_has_to_wait_is_passed_over_until_then() {
    let mut bench = Bench::of(&fallback(&[target(0, "m"), target(1, "b")], &json!({})));
    served(&mut bench, &plain_chat(), &mut |model| match model {
        "m" => fails(429, "retry-after: 30\r\n"),
        _ => says("x"),
    });
    let record = served(&mut bench, &plain_chat(), &mut |_| says("x"));
    assert_eq!(targets(&record), ["b"]);
    assert_eq!(record["decision"]["candidates"][0]["reject_reason"], "rate_limited");
    assert_eq!(record["decision"]["candidates"][0]["health"], "open");
}

#[test]
fn a_rule_reads_a_target_that_has_to_wait_as_open() {
    let named = json!({"m": {"provider": 0, "model": "m"}});
    let rules = json!({"rules": [
        {"if": {"text": "health['m'].state == 'open'", "targets": named}, "then": 1,
            "path": "rules[0]"},
        {"if": null, "then": 0, "path": "rules[1]"},
    ]});
    let mut bench =
        Bench::of(&config("custom_rules", &[target(0, "m"), target(1, "b")], &rules));
    served(&mut bench, &plain_chat(), &mut |_| fails(429, "retry-after: 30\r\n"));
    let record = served(&mut bench, &plain_chat(), &mut |_| says("x"));
    assert_eq!(targets(&record), ["b"]);
}

#[test]
fn a_rejected_key_comes_last_but_is_used_where_nobody_else_is() {
    let mut bench = Bench::of(&fallback(&[target(0, "m"), target(1, "b")], &json!({})));
    served(&mut bench, &plain_chat(), &mut |model| match model {
        "m" => fails(401, ""),
        _ => says("x"),
    });
    let record = served(&mut bench, &plain_chat(), &mut |_| says("x"));
    assert_eq!(targets(&record), ["b"], "passed over");
    let record = served(&mut bench, &plain_chat(), &mut |model| match model {
        "b" => fails(500, ""),
        _ => says("x"),
    });
    assert_eq!(targets(&record), ["b", "m"], "where another cannot serve it is used");
    let mut alone = Bench::of(&fallback(&[target(0, "m")], &json!({})));
    served(&mut alone, &plain_chat(), &mut |_| fails(401, ""));
    let record = served(&mut alone, &plain_chat(), &mut |_| says("x"));
    assert_eq!(record["status"], 200, "a stray 401 makes no outage");
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let mut bench = Bench::new(&priced(&config("cost_optimized", &three(), &json!({}))));
    let ask = chat("X-Modelux-Dry-Run: true\r\n", &json!({"model": "@prod", "messages": []}));
    let Begin::Local(answer) = bench.begin(&ask) else { panic!("called") };
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    let told = if body["modelux"].is_object() { body["modelux"].clone() } else { body };
    let attempts = told["attempts"].as_array().unwrap();
    let order: Vec<&str> = attempts.iter().map(|one| one["target"].as_str().unwrap()).collect();
    assert_eq!(order, ["a", "m", "b"]);
    assert!(attempts[0]["est_cost_usd"].is_string());
    assert!(bench.records().is_empty());
}

#[test]
fn a_caller_that_leaves_while_nothing_is_under_way_is_recorded() {
    let own = json!({"aggregation": "first_valid"});
    let mut bench = Bench::of(&config("ensemble", &three(), &own));
    let mut plan = bench.plan(&plain_chat());
    assert_eq!(plan.verdict(), Verdict::Gather);
    let step = plan.fault(&mut bench.gate, b"", Fault::CallerGone, START_US);
    assert_eq!(step, Step::Cut(Vec::new()));
    assert_eq!(bench.record()["status"], 499);
}

#[test]
fn a_shutdown_while_nothing_is_under_way_is_an_answer() {
    let own = json!({"aggregation": "first_valid"});
    let mut bench = Bench::of(&config("ensemble", &three(), &own));
    let mut plan = bench.plan(&plain_chat());
    let step = plan.fault(&mut bench.gate, b"", Fault::Shutdown, START_US);
    assert_eq!(step, Step::Failed);
    assert!(!plan.next(b"", START_US));
    assert_eq!(plan.stand(&mut bench.gate, b"", START_US), Step::Failed);
    assert_eq!(plan.stopped().unwrap().code, "overloaded");
    plan.give_up(&mut bench.gate, b"", 503, ("t", "overloaded", "m"), START_US);
    assert_eq!(bench.record()["status"], 503);
}

/// Run an ensemble's calls, each answered by its model's name, in the order of `order`.
fn gathered(
    bench: &mut Bench,
    order: &[usize],
    say: &dyn Fn(&str) -> Vec<u8>,
) -> (String, Value) {
    let body = crate::support::BODY;
    let mut plan = bench.plan(&plain_chat());
    assert_eq!(plan.verdict(), Verdict::Gather);
    let (mut members, least, has_judge) = plan.members(START_US);
    let mut judge = has_judge.then(|| members.pop().unwrap());
    if members.iter().any(|member| member.verdict() == Verdict::Wait) {
        let all = members.iter_mut().chain(judge.as_mut()).collect();
        bench.turn_group(all, least, has_judge);
    }
    for at in order {
        let member = &mut members[*at];
        if member.verdict() == Verdict::Stopped {
            continue;
        }
        let _ = member.send(&mut bench.gate, body, START_US);
        let label = member.attempts()[0].target().label.clone();
        let _ = member.answer(&mut bench.gate, body, &say(&label), START_US + 1000);
        if plan.take_member(body, member, START_US + 1000) {
            break;
        }
    }
    for member in &mut members {
        if !member.attempts().is_empty() {
            let _ = member.fault(&mut bench.gate, body, Fault::CallerGone, START_US + 1500);
            plan.take_member(body, member, START_US + 1500);
        }
    }
    if let Some(judge) = &mut judge
        && plan.brief_judge(body, judge)
    {
        let _ = judge.send(&mut bench.gate, body, START_US + 1600);
        let _ = judge.answer(&mut bench.gate, body, &say("judge"), START_US + 1700);
        plan.take_judge(judge);
    }
    let out = match plan.gathered(&mut bench.gate, body, START_US + 2000) {
        Step::Done(out) => text(&out),
        Step::Failed => {
            plan.give_up(&mut bench.gate, body, 502, ("t", "c", "m"), START_US);
            String::new()
        }
        other => panic!("{other:?}"),
    };
    (out, bench.record())
}

#[test]
fn the_first_valid_answer_of_an_ensemble_serves_and_the_others_are_cancelled() {
    let own = json!({"aggregation": "first_valid", "validate": "json"});
    let mut bench = Bench::of(&config("ensemble", &three(), &own));
    let (out, record) = gathered(&mut bench, &[2, 1, 0], &|model| match model {
        "b" => says("no json"),
        _ => says("{\"from\": \"here\"}"),
    });
    assert!(out.contains("X-Modelux-Model-Used: a\r\n"), "{out}");
    let outcomes: Vec<&str> = record["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| attempt["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes, ["ok", "ok", "cancelled"]);
    assert_eq!(record["decision"]["summary"], "ensemble -> attempt_2");
}

#[test]
fn a_vote_goes_by_weight() {
    let own = json!({"aggregation": "weighted_vote", "weights": [1000, 1000, 3000]});
    let mut bench = Bench::of(&config("ensemble", &three(), &own));
    let (out, record) = gathered(&mut bench, &[0, 1, 2], &|model| match model {
        "b" => says("Five"),
        _ => says("four."),
    });
    assert!(out.contains("Five"), "{out}");
    assert_eq!(record["attempts"].as_array().unwrap().len(), 3);
}

#[test]
fn too_few_answers_are_one_failure_of_the_config_around_it() {
    let own = json!({"aggregation": "weighted_vote"});
    let ensemble = config("ensemble", &three(), &own);
    let mut bench = Bench::of(&fallback(&[ensemble, target(1, "m")], &json!({})));
    let body = crate::support::BODY;
    let mut plan = bench.plan(&plain_chat());
    let (mut members, ..) = plan.members(START_US);
    for member in &mut members {
        let _ = member.send(&mut bench.gate, body, START_US);
        let step = member.answer(&mut bench.gate, body, &fails(500, ""), START_US);
        assert_eq!(step, Step::Failed);
        plan.take_member(body, member, START_US);
    }
    assert_eq!(plan.gathered(&mut bench.gate, body, START_US), Step::Failed);
    assert!(plan.next(body, START_US));
    assert_eq!(plan.attempts().last().unwrap().target().label, "m");
    assert_eq!(plan.verdict(), Verdict::Go);
}

#[test]
fn a_judge_picks_one_of_the_answers() {
    let own = json!({"aggregation": "llm_judge", "judge": target(1, "m")});
    let mut bench = Bench::of(&config("ensemble", &three(), &own));
    let (out, record) = gathered(&mut bench, &[0, 1, 2], &|model| match model {
        "judge" => says("{\"index\": 1}"),
        other => says(&format!("by {other}")),
    });
    assert!(out.contains("by a"), "{out}");
    assert_eq!(record["attempts"][3]["role"], "judge");
    let mut bench = Bench::of(&config("ensemble", &three(), &own));
    let (out, _) = gathered(&mut bench, &[2, 1, 0], &|model| match model {
        "judge" => says("I cannot say"),
        other => says(&format!("by {other}")),
    });
    assert!(out.contains("by m"), "unreadable: the first member; {out}");
}

#[test]
fn mirrored_traffic_is_part_of_the_record_and_of_no_total() {
    let mut config = fallback(&[target(0, "m")], &json!({}));
    config["shadow"] = json!({"target": target(0, "a"), "percent_bp": 10_000});
    let mut bench = Bench::new(&priced(&config));
    let body = crate::support::BODY;
    let mut plan = bench.plan(&plain_chat());
    let (out, step) = bench.feed(&mut plan, &[&says("x")], START_US);
    assert_eq!(step, Step::Done(Vec::new()));
    assert!(text(&out).contains("X-Modelux-Model-Used: m\r\n"));
    assert!(bench.records().is_empty(), "it waits for the mirror");
    assert!(plan.mirrors());
    let mut shadow = plan.mirror(START_US).unwrap();
    let _ = shadow.send(&mut bench.gate, body, START_US);
    let _ = shadow.answer(&mut bench.gate, body, &says("y"), START_US);
    plan.mirrored(&mut bench.gate, body, Some(&mut shadow));
    let record = bench.record();
    assert_eq!(
        (&record["model"], &record["attempts"][1]["role"]),
        (&json!("m"), &json!("shadow"))
    );
    assert_eq!(record["cost"]["total_usd"], record["attempts"][0]["cost_usd"]);
    assert_eq!(record["cost"]["shadow_usd"], record["attempts"][1]["cost_usd"]);
    assert!(!plan.mirrors());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_decision_explains_every_candidate_and_never_orders_one_that_may_not_serve(
        strategy in 0..4usize, health in proptest::collection::vec(0..4u8, 3), users in 1..50u32,
    ) {
        let (strategy, own) = [
            ("fallback", json!({})),
            ("cost_optimized", json!({})),
            ("latency_optimized", json!({})),
            ("ab_test", json!({"variants": [
                {"name": "a", "weight": 1}, {"name": "b", "weight": 2}, {"name": "c", "weight": 3}]})),
        ][strategy].clone();
        let mut bench = Bench::new(&priced(&config(strategy, &three(), &own)));
        for (kind, (provider, model)) in
            health.iter().zip([("alpha", "m"), ("alpha", "a"), ("beta", "b")])
        {
            let live = bench.gate.live();
            let id = live.target(provider, model);
            for _ in 0..(if *kind == 1 { 5 } else { 0 }) {
                live.report(id, modelux_core::breaker::Event::Failed, START_US, START_US);
            }
            if *kind == 2 {
                live.cool(id, provider, START_US + 60_000_000, START_US);
            }
        }
        let ask = chat(&format!("X-Modelux-User-Id: u{users}\r\nX-Modelux-Dry-Run: true\r\n"),
            &json!({"model": "@prod", "messages": []}));
        let tell = |bench: &mut Bench| {
            let Begin::Local(answer) = bench.begin(&ask) else { panic!() };
            let body: Value = serde_json::from_slice(&answer.body).unwrap();
            if body["modelux"].is_object() { body["modelux"].clone() } else { body }
        };
        let told = tell(&mut bench);
        let ordered: Vec<&str> = told["attempts"].as_array().unwrap().iter()
            .map(|one| one["target"].as_str().unwrap()).collect();
        prop_assert!(!ordered.is_empty());
        let candidates = told["decision"]["candidates"].as_array().unwrap();
        let is_healthy = candidates.iter().any(|one| one["eligible"] == true);
        for candidate in candidates {
            let name = candidate["target"].as_str().unwrap();
            prop_assert_eq!(candidate["eligible"] == true, candidate["reject_reason"].is_null());
            if is_healthy && candidate["eligible"] == false {
                prop_assert!(!ordered.contains(&name), "{} in {:?}", candidate, ordered);
            }
        }
        if strategy == "ab_test" {
            prop_assert_eq!(&tell(&mut bench)["attempts"], &told["attempts"]);
        }
    }
}
