//! That recorded answers are read alike whole and streamed, and survive being rewritten.
//!
//! The recordings are not part of the project: they lie in the directory that `MODELUX_CORPUS`
//! names, by default beside the repository. Without them these tests say so and pass.

#![expect(clippy::unwrap_used, reason = "a test that unwraps names the line that failed")]

use std::io::Read;
use std::path::PathBuf;

use flate2::read::GzDecoder;
use modelux_core::answers::{Said, rewrite, said};
use modelux_core::scan::Shape;
use serde_json::{Map, Value, json};

struct Recorded {
    id: String,
    shape: Shape,
    body: Vec<u8>,
    is_sse: bool,
}

/// The recorded answers with status 200 of chat and plain completions; empty without recordings.
fn recorded() -> Vec<Recorded> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus");
    let folder = std::env::var_os("MODELUX_CORPUS").map_or(beside, PathBuf::from);
    let Ok(file) = std::fs::File::open(folder.join("exchanges.jsonl.gz")) else {
        eprintln!("no recorded traffic in {}: nothing is tested", folder.display());
        return Vec::new();
    };
    let mut lines = String::new();
    GzDecoder::new(file).read_to_string(&mut lines).unwrap();
    let answers: Vec<Recorded> = lines.lines().filter_map(answer).collect();
    assert!(answers.len() > 100, "{}", answers.len());
    answers
}

fn answer(line: &str) -> Option<Recorded> {
    let record: Value = serde_json::from_str(line).unwrap();
    let provider = record["provider"].as_str()?;
    let is_openai = ["openai", "azure-openai", "openai-compat:"]
        .iter()
        .any(|prefix| provider.starts_with(prefix));
    let shape = match record["api"].as_str()? {
        "chat" => Shape::Chat,
        "completions" => Shape::Completions,
        _ => return None,
    };
    if !is_openai || record["status"] != 200 {
        return None;
    }
    let body = match &record["response_body"] {
        Value::Null => return None,
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    Some(Recorded {
        id: record["id"].as_str().unwrap().to_owned(),
        shape,
        body: body.into_bytes(),
        is_sse: record["streaming"] == true,
    })
}

/// The documents of a stream, by the simplest reader of events there is.
fn documents(stream: &[u8]) -> Vec<Value> {
    let text = String::from_utf8(stream.to_vec()).unwrap().replace("\r\n", "\n");
    text.lines()
        .filter_map(|line| serde_json::from_str(line.strip_prefix("data:")?.trim()).ok())
        .collect()
}

fn first_choice(document: &Value) -> Option<&Map<String, Value>> {
    let choices = document["choices"].as_array()?;
    choices
        .iter()
        .find(|choice| choice.get("index").is_none_or(|index| *index == 0))?
        .as_object()
}

/// The whole answer that a stream would have been: a second reading of it, by another way.
fn whole_of(stream: &[u8], shape: Shape) -> Value {
    let (mut text, mut refusal) = (String::new(), String::new());
    let mut calls: Vec<(Value, Value)> = Vec::new();
    let (mut reason, mut usage) = (Value::Null, Value::Null);
    for document in documents(stream) {
        if document["usage"].is_object() {
            usage = document["usage"].clone();
        }
        let Some(choice) = first_choice(&document) else { continue };
        if let Some(given) = choice.get("finish_reason").filter(|given| given.is_string()) {
            reason = given.clone();
        }
        if let Some(piece) = choice.get("text").and_then(Value::as_str) {
            text.push_str(piece);
        }
        let Some(delta) = choice.get("delta") else { continue };
        text.push_str(delta["content"].as_str().unwrap_or_default());
        refusal.push_str(delta["refusal"].as_str().unwrap_or_default());
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let id = call["id"].as_str().unwrap_or_default();
            let is_new = calls.iter().all(|(index, known)| {
                *index != call["index"] || !(id.is_empty() || *known == *id)
            });
            if is_new {
                calls.push((call["index"].clone(), json!(id)));
            }
        }
    }
    let calls: Vec<Value> = calls.into_iter().map(|(_, id)| json!({"id": id})).collect();
    let choice = match shape {
        Shape::Completions => json!({"text": text, "finish_reason": reason}),
        _ => json!({"finish_reason": reason, "message": {"role": "assistant", "content": text,
            "refusal": refusal, "tool_calls": calls}}),
    };
    json!({"choices": [choice], "usage": usage})
}

/// The stream that a whole answer could have been, a few letters in each event.
fn stream_of(answer: &Value, shape: Shape) -> String {
    let mut deltas = Vec::new();
    let choice = first_choice(answer).unwrap();
    let letters =
        |text: &Value| -> Vec<char> { text.as_str().unwrap_or_default().chars().collect() };
    let message = choice.get("message").cloned().unwrap_or_default();
    if shape == Shape::Completions {
        let text = letters(&choice["text"]);
        deltas.extend(text.chunks(7).map(|part| json!({"text": String::from_iter(part)})));
    }
    for field in ["content", "refusal"] {
        let text = letters(&message[field]);
        let parts =
            text.chunks(7).map(|part| json!({"delta": {field: String::from_iter(part)}}));
        deltas.extend(parts);
    }
    for (index, call) in message["tool_calls"].as_array().into_iter().flatten().enumerate() {
        let name = json!({"index": index, "id": call["id"], "function": {"arguments": ""}});
        let arguments = json!({"index": index, "function": {"arguments": "{}"}});
        deltas.extend([name, arguments].map(|part| json!({"delta": {"tool_calls": [part]}})));
    }
    if message["function_call"].is_object() {
        deltas.push(json!({"delta": {"function_call": {"name": "f"}}}));
        deltas.push(json!({"delta": {"function_call": {"arguments": "{}"}}}));
    }
    deltas.push(json!({"delta": {}, "finish_reason": choice.get("finish_reason")}));
    let mut events: Vec<Value> = Vec::new();
    for mut delta in deltas {
        delta["index"] = json!(0);
        events.push(json!({"id": "c", "choices": [delta]}));
    }
    let mut last = json!({"choices": [], "usage": answer["usage"]});
    last["service_tier"] = answer["service_tier"].clone();
    events.push(last);
    let lines: Vec<String> = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    lines.concat() + "data: [DONE]\n\n"
}

/// Whether an answer is one of the protocol at all, and not an error with status 200.
fn has_choice(answer: &Recorded) -> bool {
    if answer.is_sse {
        documents(&answer.body).iter().any(|document| first_choice(document).is_some())
    } else {
        let document = serde_json::from_slice(&answer.body).unwrap_or_default();
        first_choice(&document).is_some()
    }
}

#[test]
fn recorded_streams_say_what_the_whole_answer_would() {
    let mut count = 0;
    for answer in recorded().iter().filter(|answer| answer.is_sse && has_choice(answer)) {
        let whole = whole_of(&answer.body, answer.shape).to_string();
        let streamed = said(&answer.body, true, answer.shape);
        assert_eq!(streamed, said(whole.as_bytes(), false, answer.shape), "{}", answer.id);
        count += 1;
    }
    eprintln!("{count} streams");
}

#[test]
fn recorded_answers_say_the_same_as_a_stream() {
    let mut seen = Said::default();
    for answer in recorded().iter().filter(|answer| !answer.is_sse && has_choice(answer)) {
        let document: Value = serde_json::from_slice(&answer.body).unwrap();
        let whole = said(&answer.body, false, answer.shape);
        // Content in parts is streamed by nobody.
        if !document["choices"][0]["message"]["content"].is_array() {
            let stream = stream_of(&document, answer.shape);
            assert_eq!(said(stream.as_bytes(), true, answer.shape), whole, "{}", answer.id);
        }
        let says_nothing = whole.text.is_empty() && whole.tool_calls == 0;
        let was_cut =
            matches!(whole.finish_reason.as_deref(), Some("length" | "content_filter"));
        let message = &document["choices"][0]["message"];
        let is_other = message["audio"].is_object() || message["content"] == "";
        assert!(
            !says_nothing || whole.refusal.is_some() || was_cut || is_other,
            "{}: {whole:?}",
            answer.id
        );
        seen.json_valid |= whole.json_valid;
        seen.tool_calls = seen.tool_calls.max(whole.tool_calls);
        seen.refusal = seen.refusal.or(whole.refusal);
    }
    if !recorded().is_empty() {
        assert!(seen.json_valid && seen.tool_calls > 1 && seen.refusal.is_some(), "{seen:?}");
    }
}

#[test]
fn recorded_answers_can_be_rewritten() {
    for answer in recorded().iter().filter(|answer| has_choice(answer)) {
        let before = said(&answer.body, answer.is_sse, answer.shape);
        let text = "0.5 \"\n";
        let Some(rewritten) = rewrite(&answer.body, answer.is_sse, answer.shape, text) else {
            let document: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(document["choices"][0]["message"].get("content"), None, "{}", answer.id);
            continue;
        };
        let after = said(&rewritten, answer.is_sse, answer.shape);
        assert_eq!(after.text, text, "{}", answer.id);
        assert_eq!(after.output_tokens, before.output_tokens, "{}", answer.id);
        if before.finish_reason.is_some() {
            assert_eq!(after.finish_reason, before.finish_reason, "{}", answer.id);
        }
        if !answer.is_sse {
            let quoted = br#""0.5 \"\u000a""#;
            let at = rewritten.windows(quoted.len()).position(|part| part == quoted).unwrap();
            assert!(answer.body.starts_with(&rewritten[..at]), "{}", answer.id);
            assert!(answer.body.ends_with(&rewritten[at + quoted.len()..]), "{}", answer.id);
        }
    }
}
