//! What the gate lets in, to which target, and what it says to everybody else.

use crate::support::{
    Bench, KEY, START_US, UNIX_US, chat, document, fallback, plain_chat, post, read_snapshot,
    target, text,
};
use modelux_core::cells::{Cell, Mode};
use modelux_core::gate::Begin;
use serde_json::{Value, json};

fn plain() -> Value {
    document(&fallback(&[target(0, "m"), target(1, "b")], &json!({})))
}

/// A document with fields of its one key set.
fn with_key(settings: &Value) -> Value {
    let mut document = plain();
    for (name, value) in settings.as_object().unwrap() {
        document["keys"][0][name] = value.clone();
    }
    document
}

fn asking_for(model: &str) -> Vec<u8> {
    chat("", &json!({"model": model, "messages": []}))
}

/// Code and message of the refusal, after a look at its record.
fn refusal(document: &Value, request: &[u8]) -> (&'static str, String) {
    let mut bench = Bench::new(document);
    let refused = bench.refused(request);
    bench.gate.record_refused(&refused, 400, "invalid_request_error", b"", START_US);
    let record = bench.record();
    assert_eq!(record["error"]["code"], refused.refusal.code);
    assert_eq!(record["id"], json!(refused.subject.id));
    assert_eq!(record["attempts"], json!([]));
    assert_eq!(bench.gate.in_flight(), 0);
    (refused.refusal.code, refused.refusal.message.clone())
}

fn code(document: &Value, request: &[u8]) -> &'static str {
    refusal(document, request).0
}

/// Where a request goes first: the provider's name and the body that is sent.
fn goes_to(document: &Value, request: &[u8]) -> (usize, String) {
    let mut bench = Bench::new(document);
    (bench.plan(request).provider_index(), bench.wire_of(request))
}

#[test]
fn each_form_of_the_model_finds_its_target() {
    for (model, provider, sent) in [
        ("@prod", 0, "m"),
        ("@default", 0, "m"),
        ("alpha/a", 0, "a"),
        ("beta/m", 1, "m"),
        ("b", 1, "b"),
        ("m", 0, "m"),
    ] {
        let (index, wire) = goes_to(&plain(), &asking_for(model));
        assert_eq!(index, provider, "{model}");
        assert!(wire.contains(&format!("\"model\":\"{sent}\"")), "{model}: {wire}");
    }
    let pinned = with_key(&json!({"allow_versions": true}));
    assert_eq!(goes_to(&pinned, &asking_for("@prod@1")).0, 1);
}

#[test]
fn a_model_that_leads_nowhere_is_refused_by_name() {
    let pinned = with_key(&json!({"allow_versions": true}));
    let routes = with_key(&json!({"allowed_routes": ["other"]}));
    let models = with_key(&json!({"allowed_models": ["alpha/a"]}));
    for (document, model, code, says) in [
        (&plain(), "@prdo", "routing_config_not_found", "`@prod`"),
        (&plain(), "@prod@1", "version_not_allowed", "allow_versions"),
        (&pinned, "@prod@9", "routing_config_not_found", "no version 9"),
        (&pinned, "@prod@+1", "routing_config_not_found", "not a version"),
        (&pinned, "@prod@99999999999999999999", "routing_config_not_found", "not a version"),
        (&plain(), "nobody-has-this", "model_not_found", "gpt-"),
        (&plain(), "alpha/none", "model_not_found", "no provider here serves"),
        (&plain(), "", "model_not_found", "no provider here serves"),
        (&routes, "@prod", "route_not_allowed", "@prod"),
        (&models, "beta/b", "model_not_allowed", "beta/b"),
    ] {
        let (is, message) = refusal(document, &asking_for(model));
        assert_eq!(is, code, "{model}");
        assert!(message.contains(says), "{model}: {message}");
    }
    let plan = Bench::new(&models).plan(&asking_for("@prod"));
    let stopped = plan.stopped().unwrap();
    assert_eq!(stopped.code, "no_healthy_target");
    assert!(stopped.message.contains("model_not_allowed"), "{}", stopped.message);
    let mut strict = plain();
    strict["projects"][0]["auto_resolve_bare_model"] = json!(false);
    assert_eq!(code(&strict, &asking_for("m")), "model_not_found");
    assert_eq!(goes_to(&strict, &asking_for("alpha/m")).0, 0);
}

#[test]
fn a_target_that_the_key_may_not_reach_is_passed_over() {
    let document = with_key(&json!({"allowed_models": ["beta/*"]}));
    assert_eq!(goes_to(&document, &asking_for("@prod")).0, 1);
}

#[test]
fn a_key_is_one_bearer_in_one_header() {
    let body = r#"{"model": "@prod", "messages": []}"#;
    let expired = with_key(&json!({"expires_at_us": UNIX_US}));
    let of = |lines: &str| {
        format!("POST /v1/chat/completions HTTP/1.1\r\nHost: gw\r\n{lines}Content-Length: {}\r\n\r\n{body}", body.len())
            .into_bytes()
    };
    let own = format!("Authorization: bearer  {KEY} \r\n");
    assert_eq!(goes_to(&plain(), &of(&own)).0, 0);
    let mut messages = vec![refusal(&expired, &of(&own))];
    for lines in [
        "",
        "Authorization: Bearer\r\n",
        "Authorization: Bearer mlx_sk_nobody0123456789\r\n",
        "Authorization: Basic mlx_sk_x\r\n",
        "Authorization: Bearer ' OR 1=1 --\r\n",
        &format!("{own}{own}"),
    ] {
        messages.push(refusal(&plain(), &of(lines)));
    }
    messages.dedup();
    assert_eq!(messages.len(), 1, "one message for all of them: {messages:?}");
    assert_eq!(messages[0].0, "invalid_api_key");
}

#[test]
fn a_fixed_tag_beats_a_header_which_beats_the_body() {
    let document = with_key(&json!({"tags": [["team", "ml"]], "end_user": "fixed"}));
    let body = json!({"model": "@prod", "messages": [], "user": "body",
        "mlx:tags": {"team": "b", "app": "b", "env": "b"}});
    let request = chat(
        "X-Modelux-User-Tags: team=h, app = h%2Ci\r\nX-Modelux-User-Id: head\r\nX-Modelux-Trace-Id: t1\r\n",
        &body,
    );
    let mut bench = Bench::new(&document);
    let plan = bench.plan(&request);
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(plan.subject().tags, [pair("team", "ml"), pair("app", "h,i"), pair("env", "b")]);
    assert_eq!(plan.subject().end_user.as_deref(), Some("fixed"));
    assert_eq!(plan.subject().trace_id.as_deref(), Some("t1"));
    let wire = bench.wire_of(&request);
    assert!(!wire.contains("mlx:") && wire.contains("\"user\":\"body\""), "{wire}");
    let mut bench = Bench::new(&plain());
    assert_eq!(bench.plan(&request).subject().end_user.as_deref(), Some("head"));
}

#[test]
fn what_a_key_requires_cannot_be_left_empty() {
    let document = with_key(&json!({"require_end_user": true, "require_tags": ["team"]}));
    let body = json!({"model": "@prod", "messages": []});
    let named = "X-Modelux-User-Id: u\r\n";
    let tagged = "X-Modelux-User-Tags: team=ml\r\n";
    assert_eq!(goes_to(&document, &chat(&format!("{named}{tagged}"), &body)).0, 0);
    for lines in [named, tagged, &format!("X-Modelux-User-Id:\r\n{tagged}")] {
        assert_eq!(code(&document, &chat(lines, &body)), "tag_required", "{lines:?}");
    }
    // An empty header does not hide the name that the body gives.
    let body = json!({"model": "@prod", "messages": [], "user": "body"});
    let mut bench = Bench::new(&document);
    let plan = bench.plan(&chat(&format!("X-Modelux-User-Id:\r\n{tagged}"), &body));
    assert_eq!(plan.subject().end_user.as_deref(), Some("body"));
}

#[test]
fn tags_that_cannot_be_read_are_refused() {
    let body = json!({"model": "@prod", "messages": []});
    let many = (0..33).map(|index| format!("k{index}=v")).collect::<Vec<_>>().join(",");
    for tags in ["team", "=x", "a=1,a=2", "a=%ff", &format!("a={}", "x".repeat(257)), &many] {
        let request = chat(&format!("X-Modelux-User-Tags: {tags}\r\n"), &body);
        assert_eq!(code(&plain(), &request), "invalid_tag", "{tags}");
    }
    let body = json!({"model": "@prod", "messages": [], "mlx:tags": {"a": 1}});
    assert_eq!(code(&plain(), &chat("", &body)), "invalid_tag");
}

#[test]
fn a_request_that_two_parsers_could_read_differently_is_refused() {
    for (body, refused_as) in [
        (r#"{"model":"@prod","model":"alpha/a","messages":[]}"#, "duplicate_key"),
        (r#"{"model":"@prod","mod\u0065l":"x","messages":[]}"#, "duplicate_key"),
        (r#"{"model":"@prod","stream":true,"stream":false}"#, "duplicate_key"),
        (r#"{"messages":[]}"#, "missing_field"),
        (r#"{"model":NaN}"#, "invalid_json"),
        ("[]", "invalid_json"),
        ("", "invalid_json"),
    ] {
        let request = post("/v1/chat/completions", "", body.as_bytes());
        assert_eq!(code(&plain(), &request), refused_as, "{body}");
    }
}

#[test]
fn a_limited_key_is_told_how_long_to_wait() {
    let mut bench = Bench::new(&with_key(&json!({"rpm": 60})));
    for left in (0..10).rev() {
        let plan = bench.plan(&plain_chat());
        let rate = plan.rate().unwrap();
        assert_eq!((rate.limit, rate.remaining), (60, left));
        let mut lines = Vec::new();
        plan.push_own_lines(&mut lines);
        assert!(text(&lines).contains("x-ratelimit-limit-requests: 60\r\n"));
    }
    let refused = bench.refused(&plain_chat());
    assert_eq!(refused.refusal.code, "rate_limited");
    assert_eq!(refused.refusal.retry_after_s, Some(1));
    assert!(refused.keep_alive && refused.rate.is_some());
    let later = START_US + 1_000_000;
    let begun = bench.gate.begin(&plain_chat(), None, "", later, UNIX_US);
    assert!(matches!(begun, Begin::Plan(_)), "one a second");
}

#[test]
fn a_worker_that_is_full_or_in_a_crash_loop_says_so_and_recovers() {
    let mut bench = Bench::new(&plain());
    let plans: Vec<_> = (0..4).map(|_| bench.plan(&plain_chat())).collect();
    assert_eq!(bench.refused(&plain_chat()).refusal.code, "overloaded");
    drop(plans);
    assert_eq!(bench.gate.in_flight(), 0);
    bench.cells.set(Cell::Mode, Mode::CrashLoop as u64);
    let refused = bench.refused(&plain_chat());
    assert_eq!((refused.refusal.code, refused.refusal.retry_after_s), ("crash_loop", Some(10)));
    bench.cells.set(Cell::Mode, Mode::Ready as u64);
    bench.plan(&plain_chat());
}

#[test]
fn paths_methods_and_encodings_that_nothing_takes_are_refused() {
    let of = |line: &str| {
        format!("{line} HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {KEY}\r\n\r\n")
            .into_bytes()
    };
    for (line, refused_as, allow) in [
        ("GET /v1/chat/completions", "method_not_allowed", Some("POST")),
        ("HEAD /v1/chat/completions", "method_not_allowed", Some("POST")),
        ("OPTIONS /v1/embeddings", "method_not_allowed", Some("POST")),
        ("POST /v1/models", "method_not_allowed", Some("GET, HEAD")),
        ("GET /", "not_found", None),
        ("GET /v1/models/none", "not_found", None),
        ("POST /v1/messages", "not_found", None),
    ] {
        let mut bench = Bench::new(&plain());
        let refused = bench.refused(&of(line));
        assert_eq!(refused.refusal.code, refused_as, "{line}");
        assert_eq!(refused.refusal.allow, allow, "{line}");
        assert_eq!(refused.head_only, line.starts_with("HEAD"));
    }
    let gzip = post("/v1/chat/completions", "Content-Encoding: gzip\r\n", b"{}");
    assert_eq!(code(&plain(), &gzip), "unsupported_encoding");
    let own =
        post("/v1/chat/completions", "X-Modelux-Provider-Key: a b\r\n", crate::support::BODY);
    assert_eq!(code(&plain(), &own), "invalid_request", "never the shared key instead");
    let large = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 100001\r\n\r\n"
    );
    let mut bench = Bench::new(&plain());
    let refused = bench.refused(large.as_bytes());
    assert_eq!(refused.refusal.code, "body_too_large");
    assert!(!refused.keep_alive, "its body was not read");
}

#[test]
fn a_request_does_not_depend_on_how_the_network_cuts_it() {
    let request = plain_chat();
    let mut bench = Bench::new(&plain());
    for cut in 0..request.len() {
        assert!(matches!(bench.begin(&request[..cut]), Begin::Partial { .. }), "{cut}");
    }
    let pipelined = [&request[..], b"GET /healthz"].concat();
    assert_eq!(bench.plan(&pipelined).consumed(), request.len());
    assert_eq!(bench.records().len(), 0, "nothing has ended");
}

#[test]
fn a_hostile_name_cannot_break_the_record() {
    let odd = "a\"b\\c\u{1}\u{7f}é\u{2028}";
    let body = json!({"model": odd, "messages": [], "user": odd, "mlx:tags": {odd: odd}});
    let mut bench = Bench::new(&plain());
    let refused = bench.refused(&chat("User-Agent: x\"y\r\n", &body));
    bench.gate.record_refused(&refused, 400, "x", b"", START_US);
    let record = bench.record();
    assert_eq!(record["model_requested"], odd);
    assert_eq!(record["end_user"], odd);
    assert_eq!(record["tags"][odd], odd);
    assert!(!refused.refusal.message.contains('\u{1}'));
}

#[test]
fn a_configuration_that_would_break_a_head_is_refused() {
    let mut headers = plain();
    headers["providers"][0]["headers"] = json!([["x-a", "b\r\nx-evil: 1"]]);
    let mut path = plain();
    path["providers"][0]["base_path"] = json!("/v1 HTTP/1.1\r\nx: y");
    let mut host = plain();
    host["providers"][0]["host"] = json!("a\r\nb");
    for document in [headers, path, host] {
        assert!(read_snapshot(&document).is_err());
    }
    let read = |secret: &'static str| {
        modelux_core::snapshot::Snapshot::from_json(plain().to_string().as_bytes(), &|_| {
            Some(secret.to_owned())
        })
        .map(|_| ())
        .map_err(|fault| fault.to_string())
    };
    assert_eq!(read("sk-x\n"), Ok(()), "a line end behind a key is an accident of many");
    let told = read("sk-a\r\nx-evil: 1").unwrap_err();
    assert!(told.contains("env:KEY") && !told.contains("evil"), "{told}");
}
