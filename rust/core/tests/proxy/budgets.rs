//! The money of an exchange: held before a byte leaves, settled once, by what is known.

use modelux_core::exchange::{Fault, Plan, Step, Verdict};
use modelux_core::ledger::RowView;
use modelux_core::ledger::row::{Balance, RowKey, SubjectId};
use serde_json::{Value, json};

use crate::support::{
    BODY, Bench, START_US, UNIX_US, chat, document, fallback, plain_chat, target, text,
};

/// 1 USD a million input tokens, 2 USD output: a hold is 1,000 a byte and 2,000 a token.
const OUTPUT_NUSD: u64 = 2_000;
const WHOLE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 73\r\n\r\n{\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5,\"t\":15}}\n";
const CHARGE_NUSD: u64 = 10 * 1_000 + 5 * OUTPUT_NUSD;
const HEAD_SSE: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
const CONTENT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n";
const FINISH: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &str =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5}}\n\n";

fn budget(cap_nusd: u64, changes: &Value) -> Value {
    let mut budget = json!({
        "id": "ab".repeat(16), "name": "all", "scopes": [{"type": "organization"}],
        "project": null, "cap_nusd": cap_nusd, "period": "monthly", "timezone": "UTC",
        "action": "block", "downgrade": [null], "soft_pct": 80, "unset": "count",
        "max_subjects": 16384, "enabled": true, "shadow": false,
    });
    for (name, value) in changes.as_object().unwrap() {
        budget[name] = value.clone();
    }
    budget
}

/// One budget over `m` at `alpha`, then `b` at `beta`; both are priced.
fn capped(cap_nusd: u64, changes: &Value) -> Value {
    let mut document = document(&fallback(&[target(0, "m"), target(1, "b")], &json!({})));
    let mut price = document["prices"][0].clone();
    price["provider"] = json!("beta");
    price["model"] = json!("b");
    document["prices"].as_array_mut().unwrap().push(price);
    document["budgets"] = json!([budget(cap_nusd, changes)]);
    document
}

fn on_cancel(document: &mut Value, word: &str) {
    for provider in document["providers"].as_array_mut().unwrap() {
        provider["on_cancel"] = json!(word);
    }
}

fn held(bench: &mut Bench, request: &[u8]) -> Box<Plan> {
    let mut plan = bench.plan(request);
    assert_eq!(plan.verdict(), Verdict::Wait);
    assert_eq!(bench.turn(&mut plan), Verdict::Go);
    plan
}

fn amount(plan: &Plan) -> u64 {
    plan.attempts().last().unwrap().held_nusd.unwrap()
}

const RICH: u64 = 1_000_000_000;

#[test]
fn the_hold_becomes_exactly_what_the_provider_reports() {
    let mut bench = Bench::new(&capped(RICH, &json!({})));
    let mut plan = held(&mut bench, &plain_chat());
    assert_eq!(bench.settled(), (0, amount(&plan)));
    let (answer, step) = bench.feed(&mut plan, &[WHOLE], START_US);
    assert_eq!(step, Step::Done(Vec::new()));
    assert_eq!(bench.settled(), (CHARGE_NUSD, 0));
    let answer = text(&answer);
    assert!(answer.contains("X-Modelux-Budget-Name: all\r\n"), "{answer}");
    assert!(answer.contains("X-Modelux-Fit-Max-Tokens: 16384\r\n"), "{answer}");
    let record = bench.record();
    assert_eq!(record["budgets"][0]["charged_usd"], "0.000020000");
    assert_eq!(record["attempts"][0]["settled_by"], "usage");
    assert_eq!(record["attempts"][0]["held_by"], "bytes");
}

#[test]
fn nothing_is_sent_upstream_that_the_caller_did_not_ask_for_but_a_limit() {
    let mut bench = Bench::new(&capped(RICH, &json!({})));
    let mut plan = held(&mut bench, &plain_chat());
    let wire = text(&plan.send(&mut bench.gate, BODY, START_US));
    assert!(
        wire.ends_with("{\"max_tokens\":16384,\"model\": \"m\", \"messages\": []}"),
        "{wire}"
    );
}

#[test]
fn what_was_not_sent_or_answered_with_an_error_is_released() {
    let mut bench = Bench::new(&capped(RICH, &json!({})));
    let mut plan = held(&mut bench, &plain_chat());
    plan.connecting(START_US);
    assert_eq!(plan.fault(&mut bench.gate, BODY, Fault::Connect, START_US), Step::Failed);
    assert!(plan.next(BODY, START_US));
    assert_eq!(bench.turn(&mut plan), Verdict::Go);
    let refused = b"HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(bench.feed(&mut plan, &[refused], START_US).1, Step::Failed);
    assert!(!plan.next(BODY, START_US));
    assert_eq!(bench.settled(), (0, 0));
}

#[test]
fn each_attempt_that_may_have_been_billed_is_charged_and_the_next_held_anew() {
    let mut bench = Bench::new(&capped(RICH, &json!({})));
    let mut plan = held(&mut bench, &plain_chat());
    let first = amount(&plan);
    let _ = plan.send(&mut bench.gate, BODY, START_US);
    assert_eq!(plan.fault(&mut bench.gate, BODY, Fault::Timeout, START_US), Step::Failed);
    assert!(plan.next(BODY, START_US));
    assert_eq!(plan.verdict(), Verdict::Wait, "no byte before the next hold");
    assert_eq!(bench.turn(&mut plan), Verdict::Go);
    assert_eq!(bench.settled(), (first, amount(&plan)));
    assert_eq!(bench.feed(&mut plan, &[WHOLE], START_US).1, Step::Done(Vec::new()));
    assert_eq!(bench.settled(), (first + CHARGE_NUSD, 0));
    let record = bench.record();
    assert_eq!(record["attempts"][0]["settled_by"], "hold");
    assert_eq!(record["attempts"][1]["settled_by"], "usage");
}

#[test]
fn a_retry_that_does_not_fit_is_the_budgets_error() {
    let mut document = capped(50_000_000, &json!({}));
    on_cancel(&mut document, "bills_all");
    let mut bench = Bench::new(&document);
    let mut plan = held(&mut bench, &plain_chat());
    let _ = plan.send(&mut bench.gate, BODY, START_US);
    assert_eq!(plan.fault(&mut bench.gate, BODY, Fault::Reset, START_US), Step::Failed);
    assert!(plan.next(BODY, START_US));
    // 33 of 50 million are spent: the rest is fitted to, and then there is nothing to fit to.
    assert_eq!(bench.turn(&mut plan), Verdict::Go);
    let _ = plan.send(&mut bench.gate, BODY, START_US);
    assert_eq!(plan.fault(&mut bench.gate, BODY, Fault::Reset, START_US), Step::Failed);
    let mut other = bench.plan(&plain_chat());
    assert_eq!(bench.turn(&mut other), Verdict::Stopped);
    assert_eq!(other.stopped().unwrap().code, "budget_exceeded");
    let (spent, held) = bench.settled();
    assert!(spent <= 50_000_000 && held == 0, "{spent} {held}");
}

#[test]
fn a_caller_that_leaves_is_charged_as_its_provider_bills() {
    let stream = chat(
        "",
        &json!({"model": "@prod", "messages": [], "stream": true, "max_tokens": 1000}),
    );
    for (word, settled_by) in
        [("bills_all", "hold"), ("bills_generated", "counted"), ("drain", "hold")]
    {
        let mut document = capped(RICH, &json!({}));
        on_cancel(&mut document, word);
        let mut bench = Bench::new(&document);
        let mut plan = held(&mut bench, &stream);
        let amount = amount(&plan);
        let pieces = [HEAD_SSE.as_bytes(), CONTENT.as_bytes()];
        assert_eq!(bench.feed(&mut plan, &pieces, START_US).1, Step::More);
        let step = plan.fault(&mut bench.gate, BODY, Fault::CallerGone, START_US);
        if word == "drain" {
            assert_eq!(step, Step::More);
            assert!(plan.drains());
            let until_us = plan.deadline_us();
            assert_eq!(until_us, START_US + 10_000_000);
            let step = plan.fault(&mut bench.gate, BODY, Fault::Timeout, until_us);
            assert_eq!(step, Step::Cut(Vec::new()));
        } else {
            assert_eq!(step, Step::Cut(Vec::new()));
        }
        let (spent, held) = bench.settled();
        assert_eq!(held, 0);
        let record = bench.record();
        assert_eq!(record["attempts"][0]["settled_by"], settled_by, "{word}");
        assert_eq!(record["status"], 499);
        if word == "bills_generated" {
            // The input's bound, two bytes of text, and what may have been under way.
            let input = amount - 1000 * OUTPUT_NUSD;
            assert_eq!(spent, input + 66 * OUTPUT_NUSD);
        } else {
            assert_eq!(spent, amount, "{word}");
        }
    }
}

#[test]
fn an_answer_that_is_drained_is_charged_what_its_usage_says() {
    let stream = chat("", &json!({"model": "@prod", "messages": [], "stream": true}));
    let mut document = capped(RICH, &json!({}));
    on_cancel(&mut document, "drain");
    let mut bench = Bench::new(&document);
    let mut plan = held(&mut bench, &stream);
    let pieces = [HEAD_SSE.as_bytes(), CONTENT.as_bytes()];
    assert_eq!(bench.feed(&mut plan, &pieces, START_US).1, Step::More);
    assert_eq!(plan.fault(&mut bench.gate, BODY, Fault::CallerGone, START_US), Step::More);
    let mut last = Step::More;
    for piece in [FINISH, USAGE] {
        last = plan.answer(&mut bench.gate, BODY, piece.as_bytes(), START_US);
    }
    assert_eq!(last, Step::Cut(Vec::new()));
    assert_eq!(bench.settled(), (CHARGE_NUSD, 0));
    assert_eq!(bench.record()["attempts"][0]["settled_by"], "usage");
}

#[test]
fn a_budget_that_is_spent_sends_the_request_elsewhere_once() {
    let cheap = fallback(&[target(1, "b")], &json!({"slug": "cheap", "version": 1}));
    let mut document =
        capped(40_000_000, &json!({"action": "downgrade", "downgrade": [cheap]}));
    // The first target is a hundred times dearer than where the budget sends to.
    document["prices"][0]["output_nusd_per_mtok"] = json!(200_000_000_000_u64);
    let mut bench = Bench::new(&document);
    let mut plan =
        bench.plan(&chat("", &json!({"model": "@prod", "messages": [], "max_tokens": 1000})));
    assert_eq!(bench.turn(&mut plan), Verdict::Go);
    assert_eq!(plan.provider_index(), 1);
    assert_eq!(bench.feed(&mut plan, &[WHOLE], START_US).1, Step::Done(Vec::new()));
    assert_eq!(bench.settled(), (CHARGE_NUSD, 0));
    let record = bench.record();
    assert_eq!(record["decision"]["downgraded_from"], "m");
    assert_eq!(record["model"], "b");
    assert_eq!(record["attempts"].as_array().unwrap().len(), 1);
    assert_eq!(record["warnings"], json!(["budget_downgrade"]));
}

#[test]
fn money_that_is_only_held_is_waited_for() {
    let mut bench = Bench::new(&capped(40_000_000, &json!({})));
    let first = held(&mut bench, &plain_chat());
    let mut second = bench.plan(&plain_chat());
    assert_eq!(bench.turn(&mut second), Verdict::Stopped);
    let stopped = second.stopped().unwrap();
    assert_eq!((stopped.code, stopped.retry_after_s), ("budget_held", Some(1)));
    assert_eq!(bench.settled(), (0, amount(&first)));
}

#[test]
fn without_a_price_nothing_passes_an_enforcing_budget_and_everything_a_warning_one() {
    let request = chat("", &json!({"model": "beta/m", "messages": []}));
    let mut bench = Bench::new(&capped(RICH, &json!({})));
    let plan = bench.plan(&request);
    assert_eq!(plan.verdict(), Verdict::Stopped);
    assert_eq!(plan.stopped().unwrap().code, "model_not_priced");
    let mut bench = Bench::new(&capped(RICH, &json!({"action": "warn_only"})));
    let mut plan = held(&mut bench, &request);
    let wire = bench.feed(&mut plan, &[WHOLE], START_US);
    assert_eq!(wire.1, Step::Done(Vec::new()));
    assert_eq!(bench.settled(), (0, 0));
    assert_eq!(bench.record()["cost"], Value::Null);
}

/// A day in the microseconds of the wall clock.
const DAY_US: u64 = 86_400_000_000;

fn turn_at(bench: &mut Bench, plan: &mut Plan, unix_us: u64) -> Verdict {
    bench.gate.turn(&mut [plan], START_US, unix_us);
    plan.verdict()
}

/// Spent and held of each window, the earliest first.
fn windows(bench: &mut Bench, unix_us: u64) -> Vec<(u64, u64)> {
    bench.gate.turn(&mut [], START_US, unix_us);
    let rows = bench.gate.ledger_rows().unwrap();
    rows.iter().map(|row| (row.balance.spent_nusd, row.balance.held_nusd)).collect()
}

#[test]
fn a_hold_settles_in_the_window_it_was_made_in_and_the_next_one_begins_whole() {
    // Zones in which this same instant lies on different days, and one that skips an hour.
    for zone in ["UTC", "Pacific/Kiritimati", "America/Sao_Paulo", "Europe/Berlin"] {
        let mut bench =
            Bench::new(&capped(40_000_000, &json!({"period": "daily", "timezone": zone})));
        let mut first = bench.plan(&plain_chat());
        assert_eq!(turn_at(&mut bench, &mut first, UNIX_US), Verdict::Go);
        let amount = amount(&first);
        // A day later: what yesterday holds is nothing to today.
        let mut second = bench.plan(&plain_chat());
        assert_eq!(turn_at(&mut bench, &mut second, UNIX_US + DAY_US), Verdict::Go, "{zone}");
        assert_eq!(windows(&mut bench, UNIX_US + DAY_US), [(0, amount), (0, amount)]);
        assert_eq!(bench.feed(&mut first, &[WHOLE], START_US).1, Step::Done(Vec::new()));
        let after = windows(&mut bench, UNIX_US + DAY_US);
        assert_eq!(after, [(CHARGE_NUSD, 0), (0, amount)], "{zone}");
    }
}

#[test]
fn a_clock_that_steps_back_finds_what_was_spent_and_one_that_steps_forward_forgets_nothing() {
    let mut document = capped(40_000_000, &json!({"period": "daily"}));
    on_cancel(&mut document, "bills_all");
    let mut bench = Bench::new(&document);
    let mut first = bench.plan(&plain_chat());
    assert_eq!(turn_at(&mut bench, &mut first, UNIX_US), Verdict::Go);
    let amount = amount(&first);
    let _ = first.send(&mut bench.gate, BODY, START_US);
    let step = first.fault(&mut bench.gate, BODY, Fault::CallerGone, START_US);
    assert_eq!(step, Step::Cut(Vec::new()));
    for (days, verdict) in [(0, Verdict::Stopped), (1, Verdict::Go), (0, Verdict::Stopped)] {
        let mut next = bench
            .plan(&chat("", &json!({"model": "@prod", "messages": [], "max_tokens": 16384})));
        assert_eq!(turn_at(&mut bench, &mut next, UNIX_US + days * DAY_US), verdict, "{days}");
        if verdict == Verdict::Go {
            // Never sent: released, in its own window, whatever the clock says by then.
            let step = next.fault(&mut bench.gate, BODY, Fault::CallerGone, START_US);
            assert_eq!(step, Step::Cut(Vec::new()));
        }
    }
    assert_eq!(windows(&mut bench, UNIX_US), [(amount, 0), (0, 0)]);
}

#[test]
fn a_full_ledger_refuses_what_it_would_have_to_hold_and_goes_on_settling() {
    let every_user =
        json!({"scopes": [{"type": "end_user", "id": "*"}], "max_subjects": 1_000_000});
    let mut bench = Bench::new(&capped(RICH, &every_user));
    let request = |user: usize| {
        chat("", &json!({"model": "@prod", "messages": [], "user": format!("user-{user}")}))
    };
    let mut first = held(&mut bench, &request(0));
    let mut users = 0;
    let refused = loop {
        users += 1;
        assert!(users < 1_000_000, "the map never fills");
        let mut plan = bench.plan(&request(users));
        if bench.turn(&mut plan) == Verdict::Stopped {
            break plan;
        }
        let step = plan.fault(&mut bench.gate, BODY, Fault::CallerGone, START_US);
        assert_eq!(step, Step::Cut(Vec::new()));
    };
    let stopped = refused.stopped().unwrap();
    assert_eq!((stopped.code, stopped.retry_after_s), ("ledger_unavailable", Some(1)));
    drop(refused);
    // Who has a row already is served on, also in a turn with somebody who has none, and what
    // was held is settled.
    let mut stranger = bench.plan(&request(users + 1));
    let mut known = bench.plan(&request(1));
    bench.gate.turn(&mut [&mut stranger, &mut known], START_US, UNIX_US);
    assert_eq!((stranger.verdict(), known.verdict()), (Verdict::Stopped, Verdict::Go));
    assert_eq!(bench.feed(&mut first, &[WHOLE], START_US).1, Step::Done(Vec::new()));
    bench.gate.turn(&mut [], START_US, UNIX_US);
    let rows = bench.gate.ledger_rows().unwrap();
    let sum = |of: fn(&RowView) -> u64| rows.iter().map(of).sum::<u64>();
    assert_eq!(sum(|row| row.balance.spent_nusd), CHARGE_NUSD);
    assert_eq!(sum(|row| row.balance.held_nusd), amount(&known));
}

#[test]
fn a_settle_that_the_ledger_cannot_take_stops_nobody_else() {
    let of_tag = |name: &str, id: &str, action: &str| {
        let scopes = json!([{"type": "tag", "key": "t", "value": name}]);
        budget(
            RICH,
            &json!({"id": id.repeat(16), "name": name, "scopes": scopes, "action": action}),
        )
    };
    let mut document = capped(RICH, &json!({}));
    document["budgets"] = json!([of_tag("a", "aa", "warn_only"), of_tag("b", "bb", "block")]);
    // 2025-10-01: the month of the tests.
    let key = RowKey::new(&[0xaa; 16], SubjectId::NONE, 1_759_276_800);
    let balance = Balance { spent_nusd: u64::MAX - RICH, ..Balance::default() };
    let full = RowView { key, subject: String::new(), window_end_s: None, balance };
    let mut bench = Bench::over(&document, |ledger| ledger.import(&[full]).unwrap());
    let request = |tag: &str| {
        let line = format!("X-Modelux-User-Tags: t={tag}\r\n");
        chat(&line, &json!({"model": "@prod", "messages": []}))
    };
    let mut first = held(&mut bench, &request("a"));
    let lie = "{\"usage\":{\"prompt_tokens\":1099511627776,\"completion_tokens\":0}}";
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{lie}",
        lie.len()
    );
    let step = bench.feed(&mut first, &[answer.as_bytes()], START_US).1;
    assert_eq!(step, Step::Done(Vec::new()));
    let mut second = held(&mut bench, &request("b"));
    assert!(bench.gate.has_due(), "it is kept");
    assert_eq!(bench.feed(&mut second, &[WHOLE], START_US).1, Step::Done(Vec::new()));
    bench.gate.turn(&mut [], START_US, UNIX_US);
    let rows = bench.gate.ledger_rows().unwrap();
    assert_eq!(
        (rows[0].balance.spent_nusd, rows[1].balance.spent_nusd),
        (u64::MAX - RICH, CHARGE_NUSD)
    );
}

/// As `capped`, with providers that bill what they generated, and room for long answers.
fn counting() -> Value {
    let mut document = capped(1 << 50, &json!({}));
    on_cancel(&mut document, "bills_generated");
    document
}

fn long_chat(stream: bool) -> Vec<u8> {
    chat(
        "",
        &json!({"model": "@prod", "messages": [], "stream": stream, "max_tokens": 9_000_000}),
    )
}

/// What is charged where so many bytes of output came and no usage.
fn counted(plan: &Plan, output_tokens: u64) -> u64 {
    amount(plan) - 9_000_000 * OUTPUT_NUSD + (output_tokens + 64) * OUTPUT_NUSD
}

fn json_answer(body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn said(text: &str) -> String {
    json!({"choices": [{"index": 0, "message": {"content": text}}]}).to_string()
}

#[test]
fn an_answer_of_the_other_kind_than_asked_for_is_counted_all_the_same() {
    let words = "a".repeat(1000);
    let event =
        format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{words}\"}}}}]}}\n\n");
    let stream = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n{event}{FINISH}",
        event.len() + FINISH.len()
    );
    for (asked, answer) in [(true, json_answer(&said(&words))), (false, stream.into_bytes())] {
        let mut bench = Bench::new(&counting());
        let mut plan = held(&mut bench, &long_chat(asked));
        let expected = counted(&plan, 1000);
        assert_eq!(bench.feed(&mut plan, &[&answer], START_US).1, Step::Done(Vec::new()));
        assert_eq!(bench.settled(), (expected, 0), "{asked}");
    }
}

#[test]
fn what_is_passed_on_and_not_kept_is_counted_too() {
    let mut bench = Bench::new(&counting());
    let mut plan = held(&mut bench, &long_chat(false));
    let least = counted(&plan, 3 << 20);
    let answer = json_answer(&said(&"a".repeat(3 << 20)));
    let pieces: Vec<&[u8]> = answer.chunks(1 << 16).collect();
    assert_eq!(bench.feed(&mut plan, &pieces, START_US).1, Step::Done(Vec::new()));
    let (spent, _) = bench.settled();
    assert!(spent >= least && spent < least + 200 * OUTPUT_NUSD, "{spent} {least}");
}

#[test]
fn a_stream_of_little_text_in_large_events_is_counted_to_its_end() {
    let filler = format!("{{\"content\":[{}0]}}", "0,".repeat(2000));
    let event = format!(
        "data: {{\"choices\":[{{\"delta\":{{\"content\":\"ab\"}},\"logprobs\":{filler}}}]}}\n\n"
    );
    let mut bench = Bench::new(&counting());
    let mut plan = held(&mut bench, &long_chat(true));
    let expected = counted(&plan, 2 * 1000);
    let mut pieces = vec![HEAD_SSE.as_bytes()];
    pieces.extend(std::iter::repeat_n(event.as_bytes(), 1000));
    assert_eq!(bench.feed(&mut plan, &pieces, START_US).1, Step::More);
    let step = plan.fault(&mut bench.gate, BODY, Fault::CallerGone, START_US);
    assert_eq!(step, Step::Cut(Vec::new()));
    assert_eq!(bench.settled(), (expected, 0));
}

#[test]
fn what_came_of_an_unfinished_event_is_counted() {
    let mut bench = Bench::new(&counting());
    let mut plan = held(&mut bench, &long_chat(true));
    let expected = counted(&plan, 2 + 5000);
    let part = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{}", "a".repeat(5000));
    let pieces = [HEAD_SSE.as_bytes(), CONTENT.as_bytes(), part.as_bytes()];
    assert_eq!(bench.feed(&mut plan, &pieces, START_US).1, Step::More);
    let step = plan.fault(&mut bench.gate, BODY, Fault::CallerGone, START_US);
    assert_eq!(step, Step::Cut(Vec::new()));
    assert_eq!(bench.settled(), (expected, 0));
}

#[test]
fn what_came_of_an_answer_that_was_cut_is_counted_though_nobody_saw_it() {
    let whole = json_answer(&said(&"a".repeat(5000)));
    let mut bench = Bench::new(&counting());
    let mut plan = held(&mut bench, &long_chat(false));
    let least = counted(&plan, 4000);
    assert_eq!(bench.feed(&mut plan, &[&whole[..4500]], START_US).1, Step::More);
    assert_eq!(plan.fault(&mut bench.gate, BODY, Fault::Reset, START_US), Step::Failed);
    let (spent, held) = bench.settled();
    assert!(spent >= least && held == 0, "{spent} {least}");
}

#[test]
fn an_encoded_answer_without_usage_is_charged_its_hold() {
    for (asked, kind) in [(true, "text/event-stream"), (false, "application/json")] {
        let mut bench = Bench::new(&counting());
        let mut plan = held(&mut bench, &long_chat(asked));
        let amount = amount(&plan);
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-encoding: br\r\ncontent-length: 4\r\n\r\nabcd"
        );
        let step = bench.feed(&mut plan, &[answer.as_bytes()], START_US).1;
        assert_eq!(step, Step::Done(Vec::new()));
        assert_eq!(bench.settled(), (amount, 0), "{kind}");
        assert_eq!(bench.record()["attempts"][0]["settled_by"], "hold");
    }
}

#[test]
fn usage_that_more_output_follows_is_not_the_last_word() {
    let early = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":0}}\n\n";
    for (word, settled_by) in [("bills_all", "hold"), ("bills_generated", "counted")] {
        let mut document = counting();
        on_cancel(&mut document, word);
        let mut bench = Bench::new(&document);
        let mut plan = held(&mut bench, &long_chat(true));
        let expected = if word == "bills_all" { amount(&plan) } else { counted(&plan, 2) };
        let done = "data: [DONE]\n\n";
        let pieces = [HEAD_SSE, early, CONTENT, FINISH, done].map(str::as_bytes);
        assert_eq!(bench.feed(&mut plan, &pieces, START_US).1, Step::More);
        let step = plan.fault(&mut bench.gate, BODY, Fault::Eof, START_US);
        assert!(matches!(step, Step::Done(_)), "{step:?}");
        assert_eq!(bench.settled(), (expected, 0), "{word}");
        assert_eq!(bench.record()["attempts"][0]["settled_by"], settled_by);
    }
}

#[test]
fn a_stream_whose_usage_is_known_is_charged_that_however_it_ends() {
    for (last, fault, status) in [
        ("data: [DONE]\n\n", Fault::CallerGone, 200),
        ("data: [DONE]\n\n", Fault::Shutdown, 200),
        ("data: [DONE]\n\n", Fault::Reset, 200),
        ("", Fault::CallerGone, 499),
        ("", Fault::Timeout, 200),
    ] {
        for word in ["bills_all", "bills_generated", "drain"] {
            let mut document = counting();
            on_cancel(&mut document, word);
            let mut bench = Bench::new(&document);
            let mut plan = held(&mut bench, &long_chat(true));
            let pieces = [HEAD_SSE, CONTENT, FINISH, USAGE, last].map(str::as_bytes);
            assert_eq!(bench.feed(&mut plan, &pieces, START_US).1, Step::More);
            let step = plan.fault(&mut bench.gate, BODY, fault, START_US);
            assert!(matches!(step, Step::Done(_) | Step::Cut(_)), "{fault:?} {step:?}");
            assert_eq!(bench.settled(), (CHARGE_NUSD, 0), "{word} {fault:?} {last}");
            let record = bench.record();
            assert_eq!(record["attempts"][0]["settled_by"], "usage", "{word} {fault:?}");
            assert_eq!(record["status"], status, "{word} {fault:?}");
        }
    }
}

#[test]
fn a_limit_of_nothing_does_not_make_a_priced_answer_free() {
    let mut document = capped(RICH, &json!({}));
    document["prices"][0]["input_nusd_per_mtok"] = json!(0);
    let mut bench = Bench::new(&document);
    let request = chat("", &json!({"model": "@prod", "messages": [], "max_tokens": 0}));
    let mut plan = held(&mut bench, &request);
    assert_eq!(amount(&plan), 0);
    assert_eq!(bench.feed(&mut plan, &[WHOLE], START_US).1, Step::Done(Vec::new()));
    assert_eq!(bench.settled(), (5 * OUTPUT_NUSD, 0));
}

#[test]
fn what_is_free_costs_nothing_also_where_its_usage_is_not_known() {
    let mut document = capped(RICH, &json!({}));
    for price in document["prices"].as_array_mut().unwrap() {
        price["input_nusd_per_mtok"] = json!(0);
        price["output_nusd_per_mtok"] = json!(0);
    }
    let mut bench = Bench::new(&document);
    let mut plan = held(&mut bench, &plain_chat());
    let answer = json_answer(&said("hi"));
    let (answer, _) = bench.feed(&mut plan, &[&answer], START_US);
    let answer = text(&answer);
    assert!(answer.contains("X-Modelux-Cost-Usd: 0.000000\r\n"), "{answer}");
    assert_eq!(bench.record()["cost"]["total_usd"], "0.000000000");
    assert!(bench.gate.ledger_rows().unwrap().is_empty());
}

#[test]
fn usage_at_the_end_of_an_answer_that_is_too_large_to_be_held_is_read() {
    let said = said(&"\\\"usage\\\": {} ".repeat(1 << 18));
    let end = ",\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5},\"object\":\"chat\"}";
    let nested = ",\"x\":{\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":0}}}";
    for (end, is_told) in [(end, true), (nested, false)] {
        let answer = json_answer(&format!("{}{end}", &said[..said.len() - 1]));
        for piece_bytes in [1000, 1 << 20] {
            let mut bench = Bench::new(&counting());
            let mut plan = held(&mut bench, &long_chat(false));
            let pieces: Vec<&[u8]> = answer.chunks(piece_bytes).collect();
            assert_eq!(bench.feed(&mut plan, &pieces, START_US).1, Step::Done(Vec::new()));
            let (spent, held) = bench.settled();
            assert_eq!((spent == CHARGE_NUSD, held), (is_told, 0), "{spent}");
        }
    }
}

#[test]
fn a_limit_beyond_all_counting_is_held_by_what_the_target_may_cost() {
    let body = json!({"model": "@prod", "messages": [], "max_tokens": 1_u64 << 60});
    let mut document = capped(RICH, &json!({}));
    let mut bench = Bench::new(&document);
    let plan = bench.plan(&chat("", &body));
    assert_eq!(plan.stopped().unwrap().code, "cost_unbounded");
    let mut dear = target(0, "m");
    dear["max_cost_nusd"] = json!(5_000_000);
    document["routes"][0]["versions"][1]["config"] = fallback(&[dear], &json!({}));
    let mut bench = Bench::new(&document);
    let plan = held(&mut bench, &chat("", &body));
    assert_eq!(amount(&plan), 5_000_000);
}

#[test]
fn members_are_dropped_whole_before_one_of_them_is_lowered_to_what_is_left() {
    // Unlimited answers are held with 16,384 tokens: about 33,000,000.
    for (cap_nusd, is_lowered) in [(50_000_000, false), (20_000_000, true)] {
        let mut document = capped(cap_nusd, &json!({}));
        let config = &mut document["routes"][0]["versions"][1]["config"];
        config["strategy"] = json!("ensemble");
        config["aggregation"] = json!("first_valid");
        let mut bench = Bench::new(&document);
        let mut plan = bench.plan(&plain_chat());
        assert_eq!(plan.verdict(), Verdict::Gather);
        let (mut members, least, has_judge) = plan.members(START_US);
        bench.turn_group(members.iter_mut().collect(), least, has_judge);
        let verdicts: Vec<Verdict> = members.iter().map(Plan::verdict).collect();
        assert_eq!(verdicts, [Verdict::Go, Verdict::Stopped], "{cap_nusd}");
        let held_nusd = amount(&members[0]);
        assert_eq!(held_nusd < 30_000_000, is_lowered, "{held_nusd}");
        let (spent_nusd, in_row_nusd) = bench.settled();
        assert_eq!((spent_nusd, in_row_nusd), (0, held_nusd));
        assert!(held_nusd <= cap_nusd);
    }
}
