//! One exchange: what an upstream's bytes and faults become for the caller and in the record.

use crate::support::{
    BODY, Bench, START_US, chat, document, fallback, plain_chat, post, target, text,
};
use modelux_core::exchange::{Fault, Step};
use serde_json::{Value, json};

const WHOLE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 77\r\ndate: x\r\n\r\n{\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5,\"total\":15}}\n";
const CONTENT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n";
const FINISH: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &str =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n";
const DONE: &str = "data: [DONE]\n\n";
const ERROR: &str = "data: {\"error\":{\"message\":\"no\",\"type\":\"rate_limit_error\"}}\n\n";

fn two() -> Bench {
    Bench::of(&fallback(&[target(0, "m"), target(1, "b")], &json!({})))
}

fn sse(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ndate: x\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
        .into_bytes()
}

fn until_close(kind: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ndate: x\r\n\r\n{body}").into_bytes()
}

fn stream_request() -> Vec<u8> {
    chat("", &json!({"model": "@prod", "messages": [], "stream": true}))
}

/// The payload of a relayed answer, and whether its last chunk is there.
fn payload(relayed: &[u8]) -> (String, bool) {
    let all = text(relayed);
    let (head, mut rest) = all.split_once("\r\n\r\n").unwrap();
    if !head.contains("transfer-encoding: chunked") {
        return (rest.to_owned(), true);
    }
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return (body, true);
        }
        body.push_str(&after[..size]);
        rest = &after[size + 2..];
    }
    (body, false)
}

fn without_own_lines(record: &mut Value) {
    record["latency"] = Value::Null;
    // The limit that held last: to the first byte of the body, or between two reads.
    for attempt in record["attempts"].as_array_mut().unwrap() {
        attempt["timeout_ms"] = Value::Null;
    }
}

/// Feed `answer` at once, then cut in two at every position: payload, ending and record agree.
fn same_for_every_cut(request: &[u8], answer: &[u8], ends_at_close: bool) -> (String, Value) {
    let mut seen: Option<(String, bool, String, Value)> = None;
    for cut in 0..answer.len() {
        let mut bench = two();
        let mut plan = bench.plan(request);
        let pieces: [&[u8]; 2] = [&answer[..cut], &answer[cut..]];
        let pieces = if cut == 0 { &pieces[1..] } else { &pieces[..] };
        let (mut relayed, mut step) = bench.feed(&mut plan, pieces, START_US + 1000);
        if step == Step::More && ends_at_close {
            step = plan.fault(&mut bench.gate, BODY, Fault::Eof, START_US + 1000);
            if let Step::Done(bytes) | Step::Cut(bytes) = &step {
                relayed.extend_from_slice(bytes);
            }
        }
        let kind = match step {
            Step::Done(_) => "done",
            Step::Cut(_) => "cut",
            Step::Failed => "failed",
            _ => panic!("unfinished when cut at {cut}"),
        };
        if kind == "failed" {
            plan.give_up(&mut bench.gate, BODY, 502, ("upstream_error", "x", "y"), START_US);
        }
        assert_eq!(bench.gate.in_flight(), 0);
        let mut record = bench.record();
        without_own_lines(&mut record);
        let (body, whole) =
            if relayed.is_empty() { (String::new(), true) } else { payload(&relayed) };
        let now = (body, whole, kind.to_owned(), record);
        let first = seen.get_or_insert_with(|| now.clone());
        assert_eq!(*first, now, "cut at {cut}");
    }
    let (body, _, kind, record) = seen.unwrap();
    (format!("{kind}:{body}"), record)
}

#[test]
fn an_answer_does_not_depend_on_how_the_network_cuts_it() {
    let (relayed, record) = same_for_every_cut(&plain_chat(), WHOLE, false);
    assert!(relayed.starts_with("done:{\"choices\""), "{relayed}");
    assert_eq!(record["usage"]["input_tokens"], 10);
    assert_eq!(record["cost"]["total_usd"], "0.000020000");
    let close = until_close("application/json", "{\"choices\":[]}");
    assert_eq!(same_for_every_cut(&plain_chat(), &close, true).0, "done:{\"choices\":[]}");
    let stream = sse(&format!(": ping\n\n{CONTENT}{FINISH}{USAGE}{DONE}"));
    let (relayed, record) = same_for_every_cut(&stream_request(), &stream, false);
    assert_eq!(relayed, format!("done:: ping\n\n{CONTENT}{FINISH}{DONE}"), "usage is cut out");
    assert_eq!(record["usage"]["output_tokens"], 2);
    let broken = sse(CONTENT);
    let (relayed, record) = same_for_every_cut(&stream_request(), &broken, false);
    assert!(relayed.starts_with(&format!("cut:{CONTENT}data: {{\"error\"")), "{relayed}");
    assert_eq!(record["attempts"][0]["outcome"], "interrupted");
    let early = sse(ERROR);
    let (relayed, record) = same_for_every_cut(&stream_request(), &early, false);
    assert_eq!(relayed, "failed:");
    assert_eq!(record["attempts"][0]["status"], 429);
    let late = sse(&format!("{CONTENT}{ERROR}{CONTENT}{DONE}"));
    let (relayed, _) = same_for_every_cut(&stream_request(), &late, false);
    assert_eq!(relayed, format!("cut:{CONTENT}{ERROR}"), "nothing after the error event");
    let refused = b"HTTP/1.1 400 Bad\r\ncontent-length: 4\r\ndate: x\r\n\r\nnope";
    let (relayed, record) = same_for_every_cut(&plain_chat(), refused, false);
    assert_eq!((relayed.as_str(), &record["attempts"][0]["status"]), ("failed:", &json!(400)));
    let garbage = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ndate: x\r\n\r\nzz\r\n";
    let (relayed, record) = same_for_every_cut(&plain_chat(), garbage, false);
    assert_eq!(
        (relayed.as_str(), &record["attempts"][0]["outcome"]),
        ("failed:", &json!("malformed"))
    );
}

#[test]
fn bytes_behind_an_answer_end_its_connection() {
    for (extra, reusable) in [(&b""[..], true), (b"HTTP/1.1 200 OK\r\n\r\n", false)] {
        let mut bench = two();
        let mut plan = bench.plan(&plain_chat());
        let answer = [WHOLE, extra].concat();
        let (_, step) = bench.feed(&mut plan, &[&answer], START_US);
        assert!(matches!(step, Step::Done(_)));
        assert_eq!(plan.reusable(), reusable);
    }
}

#[test]
fn answers_without_a_body_are_whole_at_their_head() {
    for head in [
        "204 No Content\r\ncontent-type: application/json",
        "304 Not Modified",
        "200 OK\r\ncontent-length: 0",
    ] {
        let mut bench = two();
        let mut plan = bench.plan(&plain_chat());
        let answer = format!("HTTP/1.1 {head}\r\n\r\n");
        let (relayed, step) = bench.feed(&mut plan, &[answer.as_bytes()], START_US);
        assert!(matches!(step, Step::Done(_)), "{head}");
        assert!(text(&relayed).ends_with("\r\n\r\n"));
        assert_eq!(bench.record()["attempts"][0]["outcome"], "ok");
    }
}

#[test]
fn a_large_answer_passes_through_and_its_cut_is_seen() {
    let large = "x".repeat(3 << 20);
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{large}",
        large.len()
    );
    let pieces: Vec<&[u8]> = answer.as_bytes().chunks(200_000).collect();
    let mut bench = two();
    let mut plan = bench.plan(&plain_chat());
    let (relayed, step) = bench.feed(&mut plan, &pieces, START_US);
    assert!(matches!(step, Step::Done(_)));
    assert!(!text(&relayed).contains("X-Modelux-Cost-Usd"));
    assert_eq!(payload(&relayed).0.len(), large.len());
    bench.record();
    let mut plan = bench.plan(&plain_chat());
    let (_, step) = bench.feed(&mut plan, &pieces[..10], START_US);
    assert_eq!(step, Step::More);
    assert!(matches!(plan.fault(&mut bench.gate, BODY, Fault::Reset, START_US), Step::Cut(_)));
    assert!(!plan.keep_alive());
    assert_eq!(bench.record()["attempts"][0]["outcome"], "interrupted");
    assert_eq!(bench.gate.in_flight(), 0);
}

#[test]
fn an_encoded_stream_passes_at_once_and_gets_no_event_of_ours() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n\r\n\x1f\x8b";
    let mut bench = two();
    let mut plan = bench.plan(&stream_request());
    let (relayed, step) = bench.feed(&mut plan, &[head], START_US);
    assert_eq!(step, Step::More);
    assert!(relayed.windows(2).any(|pair| pair == b"\x1f\x8b"));
    let Step::Cut(tail) = plan.fault(&mut bench.gate, BODY, Fault::Reset, START_US) else {
        panic!("not cut")
    };
    assert!(tail.is_empty(), "{}", text(&tail));
}

#[test]
fn an_old_caller_gets_no_chunks_and_sees_the_close() {
    let request = text(&stream_request()).replace("HTTP/1.1", "HTTP/1.0");
    let mut bench = two();
    let mut plan = bench.plan(request.as_bytes());
    let answer = sse(&format!("{CONTENT}{FINISH}{DONE}"));
    let (relayed, _) = bench.feed(&mut plan, &[&answer], START_US);
    let relayed = text(&relayed);
    assert!(relayed.contains("connection: close") && !relayed.contains("chunked"));
    assert!(relayed.ends_with(DONE) && !plan.keep_alive());
}

#[test]
fn a_pooled_connection_that_closed_unread_is_followed_by_one_fresh_try() {
    let mut bench = Bench::of(&fallback(
        &[target(0, "m"), target(1, "b")],
        &json!({"retry_on": ["5xx"], "max_retries_per_attempt": 1}),
    ));
    let mut plan = bench.plan(&plain_chat());
    let _ = plan.send(&mut bench.gate, BODY, START_US);
    assert_eq!(plan.fault(&mut bench.gate, BODY, Fault::Eof, START_US), Step::Failed);
    assert!(plan.next(BODY, START_US) && plan.wants_fresh_connection());
    plan.connecting(START_US);
    // The fresh try was no retry of its own: the one that the config grants is still there.
    let (_, step) =
        bench.feed(&mut plan, &[b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n"], START_US);
    assert_eq!(step, Step::Failed);
    assert!(plan.next(BODY, START_US));
    assert_eq!(plan.provider_index(), 0);
    plan.connecting(START_US);
    let _ = plan.send(&mut bench.gate, BODY, START_US);
    assert_eq!(plan.fault(&mut bench.gate, BODY, Fault::Reset, START_US), Step::Failed);
    assert!(!plan.next(BODY, START_US), "`reset` is not in the list, and nothing was pooled");
}

#[test]
fn what_was_never_sent_goes_on_whatever_the_list_says() {
    for fault in [Fault::Connect, Fault::Timeout] {
        let config = fallback(&[target(0, "m"), target(1, "b")], &json!({"retry_on": []}));
        let mut bench = Bench::of(&config);
        let mut plan = bench.plan(&plain_chat());
        plan.connecting(START_US);
        assert_eq!(plan.fault(&mut bench.gate, BODY, fault, START_US), Step::Failed);
        assert!(plan.next(BODY, START_US), "{fault:?}");
        let (_, step) = bench.feed(&mut plan, &[WHOLE], START_US);
        assert!(matches!(step, Step::Done(_)));
        let record = bench.record();
        assert_eq!(record["attempts"].as_array().unwrap().len(), 2);
        assert_eq!((&record["provider"], &record["model"]), (&json!("beta"), &json!("b")));
    }
}

#[test]
fn an_inner_budget_ends_the_attempts_inside_it_and_no_others() {
    let inner = fallback(&[target(0, "m"), target(0, "a")], &json!({"total_budget_ms": 100}));
    let mut bench = Bench::of(&fallback(
        &[target(1, "m"), inner, target(1, "b")],
        &json!({"timeout_ms": 1000}),
    ));
    let mut plan = bench.plan(&plain_chat());
    assert_eq!(plan.deadline_us(), START_US + 1_000_000, "the inner clock does not run yet");
    let later = START_US + 700_000;
    let _ = plan.send(&mut bench.gate, BODY, START_US);
    assert_eq!(plan.fault(&mut bench.gate, BODY, Fault::Timeout, later), Step::Failed);
    assert!(plan.next(BODY, later));
    assert_eq!((plan.provider_index(), plan.deadline_us()), (0, later + 100_000));
    let _ = plan.send(&mut bench.gate, BODY, later);
    let spent = later + 100_000;
    assert_eq!(plan.fault(&mut bench.gate, BODY, Fault::Timeout, spent), Step::Failed);
    assert!(plan.next(BODY, spent));
    assert_eq!(plan.provider_index(), 1, "`a` was inside: passed over");
    assert_eq!(plan.deadline_us(), spent + 1_000_000);
    assert_eq!(plan.attempts()[1].limit_ms, 100);
}

#[test]
fn a_budget_of_the_whole_config_ends_the_request() {
    let config = fallback(&[target(0, "m"), target(1, "b")], &json!({"total_budget_ms": 300}));
    let mut bench = Bench::of(&config);
    let mut plan = bench.plan(&plain_chat());
    assert_eq!(plan.deadline_us(), START_US + 300_000);
    let _ = plan.send(&mut bench.gate, BODY, START_US);
    let until = START_US + 300_000;
    assert_eq!(plan.fault(&mut bench.gate, BODY, Fault::Timeout, until), Step::Failed);
    assert!(!plan.next(BODY, until));
}

#[test]
fn a_caller_that_leaves_is_recorded_once_and_counted_out() {
    let mut bench = two();
    let mut plan = bench.plan(&stream_request());
    let head = text(&sse(CONTENT)).replace("0\r\n\r\n", "");
    let (_, step) = bench.feed(&mut plan, &[head.as_bytes()], START_US);
    assert_eq!(step, Step::More);
    let step = plan.fault(&mut bench.gate, BODY, Fault::CallerGone, START_US);
    assert_eq!(step, Step::Cut(Vec::new()));
    plan.abandon(&mut bench.gate, BODY, START_US);
    assert_eq!(bench.gate.in_flight(), 0);
    let record = bench.record();
    assert_eq!(record["error"]["code"], "client_closed");
    assert_eq!(record["provider"], "alpha", "it did serve until then");
}

#[test]
fn a_shutdown_goes_to_nobody_else() {
    let mut bench = two();
    let mut plan = bench.plan(&plain_chat());
    let _ = plan.send(&mut bench.gate, BODY, START_US);
    assert_eq!(plan.fault(&mut bench.gate, BODY, Fault::Shutdown, START_US), Step::Failed);
    assert!(!plan.next(BODY, START_US));
}

#[test]
fn a_secret_that_a_provider_echoes_is_scrubbed() {
    let body = format!("{{\"error\":{{\"message\":\"bad key {}\"}}}}", crate::support::SECRET);
    let answer = format!("HTTP/1.1 400 Bad\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    for lines in ["", "X-Modelux-Provider-Key:\r\n", "X-Modelux-Provider-Key: sk-own\r\n"] {
        let mut bench = two();
        let request = post("/v1/chat/completions", lines, BODY);
        let wire = bench.wire_of(&request);
        let mut plan = bench.plan(&request);
        let own = lines.contains("sk-own");
        assert_eq!(wire.contains(crate::support::SECRET), !own);
        assert!(!wire.contains(crate::support::KEY) && !wire.contains("X-Modelux"));
        bench.feed(&mut plan, &[answer.as_bytes()], START_US);
        let (told, whole) = plan.error_body();
        assert!(whole && told.contains("bad key [redacted]"), "{told}");
        assert_eq!(told.matches("[redacted]").count(), 1);
    }
}

#[test]
fn every_answer_carries_our_headers_and_none_of_the_providers_cookies() {
    let answer = text(WHOLE).replace(
        "date: x",
        "set-cookie: a=b\r\nx-ratelimit-limit-requests: 9\r\nx-request-id: up-1",
    );
    let mut bench = two();
    let mut plan = bench.plan(&plain_chat());
    let (relayed, _) = bench.feed(&mut plan, &[answer.as_bytes()], START_US);
    let relayed = text(&relayed);
    for line in [
        "X-Modelux-Request-Id: ",
        "X-Modelux-Config: @prod (v2)",
        "X-Modelux-Provider-Used: alpha",
        "X-Modelux-Model-Used: m",
        "X-Modelux-Attempts: 1",
        "X-Modelux-Overhead-Us: ",
        "X-Modelux-Cache: MISS",
        "X-Modelux-Cost-Usd: 0.000020",
        "x-request-id: up-1",
    ] {
        assert!(relayed.contains(line), "{line} in {relayed}");
    }
    assert!(!relayed.contains("set-cookie") && !relayed.contains("ratelimit"));
    assert_eq!(bench.record()["attempts"][0]["request_id"], "up-1");
}

#[test]
fn a_new_configuration_leaves_exchanges_under_way_alone() {
    let mut bench = two();
    let mut plan = bench.plan(&plain_chat());
    let mut other = document(&fallback(&[target(0, "z")], &json!({})));
    other["providers"] = json!([crate::support::provider("gamma", &Value::Null)]);
    other["routes"][0]["versions"][0]["config"] = fallback(&[target(0, "z")], &json!({}));
    bench.gate.load(crate::support::read_snapshot(&other).unwrap());
    let _ = plan.send(&mut bench.gate, BODY, START_US);
    assert_eq!(plan.fault(&mut bench.gate, BODY, Fault::Timeout, START_US), Step::Failed);
    assert!(plan.next(BODY, START_US));
    assert_eq!(plan.provider_index(), 1);
    let (relayed, _) = bench.feed(&mut plan, &[WHOLE], START_US);
    assert!(text(&relayed).contains("X-Modelux-Provider-Used: beta"));
    assert!(bench.wire_of(&plain_chat()).contains("host: gamma.test"));
}
