//! What a decision and an attempt cost in the live state, with a hundred targets in it.

#![expect(missing_docs, reason = "the functions that criterion's macros make")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use modelux_core::breaker::Event;
use modelux_core::live::{Live, SizeClass, TargetId};

const START_US: u64 = 1_000_000_000;
const WORKERS: u32 = 4;

/// Live state in a file for four workers, and the targets in it, each with samples.
fn filled(folder: &tempfile::TempDir) -> Option<(Live, Vec<TargetId>)> {
    let live = Live::open_or_create(&folder.path().join("live"), "boot", WORKERS).ok()?;
    let targets: Vec<TargetId> =
        (0..100).map(|number| live.target("openai", &format!("model-{number}"))).collect();
    for target in &targets {
        live.began(*target, 0, START_US);
        live.ttft(*target, SizeClass::Small, 250_000, START_US);
        live.report(*target, Event::Ok, START_US, START_US);
    }
    Some((live, targets))
}

fn reading(criterion: &mut Criterion) {
    let Ok(folder) = tempfile::tempdir() else { return };
    let Some((live, targets)) = filled(&folder) else { return };
    let target = targets[7];
    criterion.bench_function("read a target's health", |bencher| {
        bencher.iter(|| live.read(black_box(target), START_US + 1));
    });
    criterion.bench_function("read its latency", |bencher| {
        bencher.iter(|| live.read_class(black_box(target), SizeClass::Small, START_US + 1));
    });
    criterion.bench_function("read its median of five minutes", |bencher| {
        bencher.iter(|| live.p50_ms(black_box(target), START_US + 1));
    });
    criterion.bench_function("find a target by name", |bencher| {
        bencher.iter(|| live.target(black_box("openai"), black_box("model-7")));
    });
    criterion.bench_function("ask whether a credential cools, while none does", |bencher| {
        bencher.iter(|| live.cooling_until_us(black_box(target), "openai", START_US + 1));
    });
    criterion.bench_function("ask for a warm prompt", |bencher| {
        bencher.iter(|| live.warm_tokens(black_box(42), target, START_US + 1));
    });
}

fn writing(criterion: &mut Criterion) {
    let Ok(folder) = tempfile::tempdir() else { return };
    let Some((live, targets)) = filled(&folder) else { return };
    let target = targets[7];
    let mark = live.mark("default/@production v4 attempts[0]");
    let mut now_us = START_US;
    criterion.bench_function("begin and end an attempt", |bencher| {
        bencher.iter(|| {
            live.began(black_box(target), 1, now_us);
            live.ended(target, 1);
        });
    });
    criterion.bench_function("take a latency in", |bencher| {
        bencher.iter(|| {
            now_us += 50;
            live.ttft(black_box(target), SizeClass::Small, 250_000, now_us);
        });
    });
    criterion.bench_function("report a success", |bencher| {
        bencher.iter(|| {
            now_us += 50;
            live.report(black_box(target), Event::Ok, now_us, now_us)
        });
    });
    criterion.bench_function("touch a mark", |bencher| {
        bencher.iter(|| live.touch(black_box(mark), 1_700_000_000));
    });
    criterion.bench_function("all that an attempt writes", |bencher| {
        bencher.iter(|| {
            now_us += 50;
            live.began(black_box(target), 1, now_us);
            live.ttft(target, SizeClass::Small, 250_000, now_us);
            live.total(target, SizeClass::Small, 900_000, now_us);
            live.report(target, Event::Ok, now_us, now_us);
            live.ended(target, 1);
        });
    });
}

criterion_group!(benches, reading, writing);
criterion_main!(benches);
