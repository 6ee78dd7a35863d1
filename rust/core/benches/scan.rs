//! What it costs to read a request body, to change it, and to look at one event of a stream.

#![expect(missing_docs, reason = "the functions that criterion's macros make")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use modelux_core::patch::{Edit, patch};
use modelux_core::scan::{Shape, scan};
use modelux_core::sse::Follower;
use modelux_core::usage::usage_of_answer;

/// A chat of `messages` messages, each of about 200 bytes.
fn chat(messages: usize, text: &str) -> Vec<u8> {
    let message = |at: usize| {
        let role = if at % 2 == 0 { "user" } else { "assistant" };
        format!("{{\"role\":\"{role}\",\"content\":\"{text}\"}}")
    };
    let messages: Vec<String> = (0..messages).map(message).collect();
    format!(
        "{{\"model\":\"@production\",\"messages\":[{}],\"temperature\":0.7,\"max_tokens\":256,\
         \"stream\":true,\"user\":\"user-1234\",\"mlx:tags\":{{\"team\":\"search\"}}}}",
        messages.join(",")
    )
    .into_bytes()
}

const SENTENCE: &str = "The quick brown fox jumps over the lazy dog, and then it asks in \\\"plain\\\" \
words what the capital of France is, how far it lies from here, and which train goes there today.";

const CHUNK: &str = "data: {\"id\":\"chatcmpl-9xKfQ2vJ7\",\"object\":\"chat.completion.chunk\",\
\"created\":1700000000,\"model\":\"gpt-4o-mini\",\"choices\":[{\"index\":0,\"delta\":\
{\"content\":\" word\"},\"finish_reason\":null}],\"usage\":null}\n\n";

fn bodies(criterion: &mut Criterion) {
    let small = chat(5, SENTENCE);
    let large = chat(1, &SENTENCE.repeat(2_900));
    let plain = chat(1, &"a".repeat(500_000));
    let many = chat(2_700, SENTENCE);
    for (name, body) in [
        ("1.2 KB", &small),
        ("500 KB, one message", &large),
        ("500 KB, one message, no escapes", &plain),
        ("500 KB, 2,700 messages", &many),
    ] {
        let mut group = criterion.benchmark_group(format!("body of {name}"));
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function("utf-8 alone", |bencher| {
            bencher.iter(|| black_box(std::str::from_utf8(black_box(body)).is_ok()));
        });
        group.bench_function("scan", |bencher| {
            bencher.iter(|| black_box(scan(black_box(body), Shape::Chat).is_ok()));
        });
        group.bench_function("serde_json to a tree", |bencher| {
            bencher.iter(|| {
                black_box(serde_json::from_slice::<serde_json::Value>(black_box(body)).is_ok())
            });
        });
        let edit = Edit { model: Some("gpt-4o-mini"), include_usage: true, output_limit: None };
        let Ok(facts) = scan(body, Shape::Chat) else { return };
        let mut out = Vec::new();
        group.bench_function("patch", |bencher| {
            bencher.iter(|| {
                out.clear();
                patch(black_box(body), &facts, &edit, &mut out);
                black_box(out.len())
            });
        });
        group.finish();
    }
}

fn streams(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(format!("event of {} bytes", CHUNK.len()));
    for (name, cut_usage) in [("looked at", false), ("held until shown not to be usage", true)]
    {
        let mut follower = Follower::new(cut_usage);
        let mut out = Vec::new();
        follower.feed(CHUNK.as_bytes(), &mut out);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                follower.feed(black_box(CHUNK.as_bytes()), &mut out);
                black_box(out.len())
            });
        });
        group.bench_function(format!("{name}, in two halves"), |bencher| {
            let (head, tail) = CHUNK.as_bytes().split_at(CHUNK.len() / 2);
            bencher.iter(|| {
                out.clear();
                follower.feed(black_box(head), &mut out);
                follower.feed(black_box(tail), &mut out);
                black_box(out.len())
            });
        });
    }
    let mut follower = Follower::new(false);
    follower.count_text(true);
    let mut out = Vec::new();
    follower.feed(CHUNK.as_bytes(), &mut out);
    group.bench_function("looked at, its text counted", |bencher| {
        bencher.iter(|| {
            out.clear();
            follower.feed(black_box(CHUNK.as_bytes()), &mut out);
            black_box(out.len())
        });
    });
    group.bench_function("new follower", |bencher| {
        bencher.iter(|| black_box(Follower::new(black_box(true))));
    });
    group.finish();
}

fn answers(criterion: &mut Criterion) {
    let usage = "\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":34,\"total_tokens\":46,\
        \"prompt_tokens_details\":{\"cached_tokens\":0}}}";
    let chat = format!(
        "{{\"id\":\"chatcmpl-1\",\"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\
         \"content\":\"{}\"}},\"finish_reason\":\"stop\"}}],{usage}",
        SENTENCE.repeat(5)
    );
    let vector = vec!["-0.012345678"; 1536].join(",");
    let embedding = format!("{{\"data\":[{{\"embedding\":[{vector}]}}],{usage}");
    let mut group = criterion.benchmark_group("usage of an answer");
    for (name, answer) in [("chat", chat), ("embedding of 1,536 numbers", embedding)] {
        group.throughput(Throughput::Bytes(answer.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(usage_of_answer(black_box(answer.as_bytes()))));
        });
    }
    group.finish();
}

criterion_group!(benches, bodies, streams, answers);
criterion_main!(benches);
