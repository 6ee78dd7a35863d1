//! The live state as its users see it: through two mappings of one file, and many threads.

use std::sync::atomic::AtomicU64;

use proptest::prelude::*;

use super::*;
use crate::breaker::Event;

const S: u64 = 1_000_000;
const START: u64 = 1_000 * S;
const MINUTE: u64 = 60 * S;

struct File {
    folder: tempfile::TempDir,
}

impl File {
    fn new(workers: u32) -> Self {
        let file = Self { folder: tempfile::tempdir().unwrap() };
        drop(Live::open_or_create(&file.path(), "boot", workers).unwrap());
        file
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("live")
    }

    fn open(&self) -> Live {
        Live::open(&self.path()).unwrap()
    }
}

/// Fail an attempt that began when it ended, so many times.
fn fail(live: &Live, target: TargetId, times: u32, now_us: u64) -> Option<Change> {
    (0..times).fold(None, |seen, _| live.report(target, Event::Failed, now_us, now_us).or(seen))
}

// --- the file ------------------------------------------------------------------------------------

#[test]
fn two_mappings_of_one_file_see_each_other() {
    let file = File::new(2);
    let (one, two) = (file.open(), file.open());
    let here = one.target("openai", "gpt-4o");
    let there = two.target("openai", "gpt-4o");
    assert_eq!(here, there);
    one.began(here, 0, START);
    two.began(there, 1, START + S);
    one.ttft(here, SizeClass::Small, 250_000, START);
    fail(&two, there, 5, START);
    let view = one.read(here, START + S);
    assert_eq!(view.in_flight, 2);
    assert_eq!(view.last_used_us, START + S);
    assert_eq!(view.health.name(), "open");
    assert_eq!(view.error_rate, Some(1.0));
    assert_eq!(two.read_class(there, SizeClass::Small, START).ttft_us, Some(250_000.0));
    two.ended(there, 1);
    assert_eq!(one.read(here, START).in_flight, 1);
}

#[test]
fn figures_outlive_a_restart_but_not_another_boot_or_layout() {
    let file = File::new(2);
    let live = file.open();
    let target = live.target("openai", "gpt-4o");
    live.ttft(target, SizeClass::Small, 5_000, START);
    drop(live);

    let again = Live::open_or_create(&file.path(), "boot", 2).unwrap();
    assert!(again.read_class(target, SizeClass::Small, START).ttft_us.is_some());
    again.word(8).store(LAYOUT_VERSION + 1, Ordering::Relaxed);
    let error = Live::open(&file.path()).err().unwrap();
    assert!(error.to_string().contains("live layout 3"), "{error}");
    again.word(8).store(LAYOUT_VERSION, Ordering::Relaxed);

    let fresh = Live::open_or_create(&file.path(), "another boot", 2).unwrap();
    assert_eq!(fresh.targets(START), []);
    std::fs::write(file.path(), vec![1; 9000]).unwrap();
    let error = Live::open(&file.path()).err().unwrap();
    assert!(error.to_string().contains("not a file of live state"), "{error}");
    assert!(Live::open_or_create(&file.path(), "boot", 2).is_ok());
    std::fs::write(file.path(), []).unwrap();
    assert!(Live::open(&file.path()).is_err());
}

#[test]
fn the_file_grows_with_the_workers_and_keeps_what_it_holds() {
    let file = File::new(1);
    let live = file.open();
    let target = live.target("openai", "gpt-4o");
    live.began(target, 0, START);
    let grown = Live::open_or_create(&file.path(), "boot", 8).unwrap();
    grown.began(target, 7, START);
    assert_eq!(grown.read(target, START).in_flight, 2);
    assert_eq!(live.read(target, START).in_flight, 1, "mapped before it grew");
    assert_eq!(Live::open_or_create(&file.path(), "boot", 2).unwrap().workers(), 8);
    assert!(file.open().as_worker(8).is_err());
    assert_eq!(file.open().as_worker(7).unwrap().worker(), 7);
    assert!(Live::open_or_create(&file.path(), "boot", 0).is_err());
    assert_eq!(grown.mapped.len() as u64, Live::file_bytes(8));
}

// --- entries -------------------------------------------------------------------------------------

#[test]
fn many_threads_that_make_the_same_entries_at_once_end_with_one_of_each() {
    let file = File::new(1);
    let ids: Vec<Vec<TargetId>> = std::thread::scope(|scope| {
        let make = || {
            let live = file.open();
            (0..200).map(|n| live.target("p", &format!("m{n}"))).collect()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(file.open().targets(START).len(), 200);
}

#[test]
fn a_text_that_a_killed_writer_left_halfway_is_written_again() {
    let live = Live::private().unwrap();
    let target = live.target("openai", "gpt-4o");
    let text = layout::TARGETS.texts.unwrap() + target.0.index as usize * table::TEXT_BYTES;
    live.word(text).store(0, Ordering::Relaxed);
    assert_eq!(live.targets(START), []);
    let _ = live.target("openai", "gpt-4o");
    assert_eq!(live.targets(START)[0].model, "gpt-4o");
}

#[test]
fn any_name_can_be_a_model() {
    let live = Live::private().unwrap();
    for model in ["", "\0", "a\0b", "ü", &"ä".repeat(300)] {
        let target = live.target("p", model);
        live.began(target, 0, START);
        assert_eq!(live.read(target, START).in_flight, 1, "{model:?}");
        assert!(live.targets(START).iter().any(|row| model.starts_with(&row.model)));
    }
    assert_ne!(live.target("a", "bc"), live.target("ab", "c"));
}

#[test]
fn a_full_table_gives_way_where_it_is_idle_and_forgets_what_was_there() {
    let live = Live::private().unwrap();
    let all: Vec<TargetId> = (0..4 * TARGETS_MAX)
        .map(|n| {
            let target = live.target("p", &format!("m{n}"));
            live.began(target, 0, START);
            live.ended(target, 0);
            live.ttft(target, SizeClass::Small, 9_000, START);
            live.report(target, Event::Failed, START, START);
            target
        })
        .collect();
    let known = |now_us: u64| {
        let seen = |target: &&TargetId| live.read(**target, now_us).last_used_us > 0;
        all.iter().filter(seen).count()
    };
    let before = known(START);
    assert!(before > TARGETS_MAX * 9 / 10, "{before}");
    // All are in use, so a late comer is healthy and unknown, and can do no harm.
    let late = live.target("p", "late");
    live.began(late, 0, START);
    assert_eq!(fail(&live, late, 5, START), None);
    assert_eq!(live.read(late, START).health, Health::Closed);
    live.ended(late, 0);
    // One that is in flight stays, however long it takes.
    let busy = all.iter().find(|id| live.read(**id, START).last_used_us > 0).unwrap();
    live.began(*busy, 0, START);
    let later = START + 11 * MINUTE;
    let other = live.target("p", "tells the time");
    live.began(other, 0, later);
    for n in 0..8 * TARGETS_MAX {
        let target = live.target("q", &format!("m{n}"));
        let view = live.read(target, later);
        assert_eq!((view.in_flight, view.error_rate), (0, None));
        let class = live.read_class(target, SizeClass::Small, START);
        assert_eq!(class, ClassView::default());
    }
    assert_eq!(live.read(*busy, later).in_flight, 1);
    assert!(known(START) < before / 10, "{}", known(START));
    assert!(live.targets(later).iter().all(|row| row.provider == "q" || row.attempts > 0));
}

#[test]
fn an_entry_that_was_taken_over_is_made_anew_by_the_next_attempt() {
    let live = Live::private().unwrap();
    let target = live.target("p", "idle for long");
    live.began(target, 0, START);
    let key = layout::TARGETS.word(&live.mapped, target.0.index as usize, 0);
    key.store(key.load(Ordering::Relaxed) ^ 1, Ordering::Relaxed);
    live.ended(target, 0);
    live.ttft(target, SizeClass::Small, 5, START);
    assert!(!live.take_probe(target, START));
    assert_eq!(live.read(target, START).last_used_us, 0);
    live.began(target, 0, START + S);
    assert_eq!(live.read(target, START + S).in_flight, 1);
    assert!(fail(&live, target, 5, START + S).is_some());
    // Its name is not known by its key: people see it once somebody has asked for it.
    assert_eq!(live.targets(START), []);
    assert_eq!(live.read(live.target("p", "idle for long"), START).health.name(), "open");
    assert_eq!(live.targets(START)[0].model, "idle for long");
}

#[test]
fn what_has_no_identifier_is_healthy_and_unknown_and_nothing_is_made_for_it() {
    let live = Live::private().unwrap();
    let (none, nobody) = (TargetId::default(), CredentialId::default());
    live.began(none, 0, START);
    assert_eq!(fail(&live, none, 5, START), None);
    assert!(!live.take_probe(none, START));
    live.reject_credential(nobody, START, 7);
    assert!(!live.is_rejected(nobody, START, 7));
    assert_eq!(live.read(none, START).health, Health::Closed);
    assert!(layout::TARGETS.entries(&live.mapped).next().is_none());
}

#[test]
fn a_mark_of_a_process_that_died_taking_an_entry_over_is_no_obstacle() {
    let live = Live::private().unwrap();
    let target = live.target("p", "m0");
    live.began(target, 0, START);
    for index in 0..TARGETS_MAX {
        let mark = (0xFFFF << 48) | (START / S);
        layout::TARGETS.word(&live.mapped, index, 0).store(mark, Ordering::Relaxed);
    }
    let early = live.target("p", "m1");
    live.began(early, 0, START + S);
    assert_eq!(live.read(early, START).in_flight, 0, "the other may still be at it");
    live.note_time(START + 5 * S);
    let target = live.target("p", "m2");
    live.began(target, 0, START + 5 * S);
    assert_eq!(live.read(target, START).in_flight, 1);
    assert_eq!(live.targets(START).len(), 1);
}

// --- the breaker ---------------------------------------------------------------------------------

#[test]
fn it_opens_at_the_fifth_failure_is_probed_once_and_closes_with_a_forgotten_window() {
    let file = File::new(1);
    let (one, two) = (file.open(), file.open());
    let target = one.target("p", "m");
    assert_eq!(fail(&one, target, 4, START), None);
    let change = fail(&two, target, 1, START).unwrap();
    assert_eq!(change.before, Health::Closed);
    let until_us = START + 5 * S;
    assert_eq!(change.after, Health::Open { until_us, since_us: START });
    assert!(!one.take_probe(target, until_us - 1_000));
    assert!(one.take_probe(target, until_us));
    assert!(!two.take_probe(target, until_us));
    // A late success of before, and a late failure.
    assert_eq!(one.report(target, Event::Ok, START, until_us), None);
    assert_eq!(fail(&one, target, 0, START), None);
    let change = two.report(target, Event::Ok, until_us, until_us + S).unwrap();
    assert_eq!(change.before, Health::HalfOpen { since_us: until_us });
    assert_eq!(change.after, Health::Closed);
    assert_eq!(one.read(target, until_us + S).error_rate, None);
    assert_eq!(fail(&one, target, 4, until_us + 2 * S), None);
}

#[test]
fn of_many_that_ask_for_the_probe_at_once_one_gets_it() {
    let file = File::new(1);
    let live = file.open();
    let target = live.target("p", "m");
    let mut now_us = START;
    fail(&live, target, 5, now_us);
    for _ in 0..200 {
        now_us += 6 * MINUTE;
        let winners = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let other = file.open();
                    winners.fetch_add(
                        u64::from(other.take_probe(target, now_us)),
                        Ordering::Relaxed,
                    );
                });
            }
        });
        assert_eq!(winners.into_inner(), 1);
        fail(&live, target, 1, now_us);
    }
}

#[test]
fn over_half_of_twenty_within_thirty_seconds_opens_it_though_never_five_in_a_row() {
    let live = Live::private().unwrap();
    let target = live.target("p", "m");
    let pattern = [Event::Failed, Event::Failed, Event::Ok];
    let mut opened_at = None;
    for step in 0..60 {
        let now_us = START + step * S;
        let event = pattern[usize::try_from(step % 3).unwrap()];
        if live.report(target, event, now_us, now_us).is_some() {
            opened_at = Some(step + 1);
            break;
        }
    }
    assert_eq!(opened_at, Some(20));
    // The same at one in three seconds never has twenty in the window.
    let slow = live.target("p", "slow");
    for step in 0..60 {
        let now_us = START + step * 3 * S;
        let event = pattern[usize::try_from(step % 3).unwrap()];
        assert_eq!(live.report(slow, event, now_us, now_us), None);
    }
}

#[test]
fn the_error_rate_looks_back_thirty_seconds() {
    let live = Live::private().unwrap();
    let target = live.target("p", "m");
    fail(&live, target, 1, START);
    for _ in 0..3 {
        live.report(target, Event::Ok, START + 20 * S, START + 20 * S);
        live.report(target, Event::Neutral, START + 20 * S, START + 20 * S);
    }
    assert_eq!(live.read(target, START + 20 * S).error_rate, Some(0.25));
    assert_eq!(live.read(target, START + 35 * S).error_rate, Some(0.0));
    assert_eq!(live.read(target, START + 60 * S).error_rate, None);
}

// --- in flight -----------------------------------------------------------------------------------

#[test]
fn what_a_dead_worker_had_in_flight_is_cleared_and_its_late_ends_count_for_nothing() {
    let file = File::new(2);
    let live = file.open();
    let target = live.target("p", "m");
    for worker in [0, 0, 0, 1] {
        live.began(target, worker, START);
    }
    live.clear_worker(0);
    assert_eq!(live.read(target, START).in_flight, 1);
    live.ended(target, 0);
    assert_eq!(live.read(target, START).in_flight, 1);
    live.began(target, 99, START);
    live.ended(target, 99);
    live.clear_worker(99);
    assert_eq!(live.read(target, START).in_flight, 1);
}

// --- latency -------------------------------------------------------------------------------------

#[test]
fn a_class_without_samples_goes_by_the_nearest_that_has_some() {
    let live = Live::private().unwrap();
    let target = live.target("p", "m");
    let ttft = |class, now_us| live.read_class(target, class, now_us).ttft_us;
    assert_eq!(ttft(SizeClass::Small, START), None);
    live.ttft(target, SizeClass::Huge, 8_000, START);
    assert_eq!(ttft(SizeClass::Small, START), Some(8_000.0));
    live.ttft(target, SizeClass::Small, 1_000, START + 5 * MINUTE);
    assert_eq!(ttft(SizeClass::Medium, START + 5 * MINUTE), Some(1_000.0));
    assert_eq!(ttft(SizeClass::Large, START + 5 * MINUTE), Some(8_000.0));
    assert_eq!(ttft(SizeClass::Huge, START + 11 * MINUTE), Some(1_000.0), "the own is stale");
    assert_eq!(ttft(SizeClass::Huge, START + 16 * MINUTE), None);
    assert_eq!(live.read_class(target, SizeClass::Small, START).total_us, None);
}

#[test]
fn sizes_fall_into_the_class_that_their_bound_says() {
    for (tokens, class) in [
        (0, SizeClass::Small),
        (999, SizeClass::Small),
        (1_000, SizeClass::Medium),
        (7_999, SizeClass::Medium),
        (8_000, SizeClass::Large),
        (31_999, SizeClass::Large),
        (32_000, SizeClass::Huge),
        (u64::MAX, SizeClass::Huge),
    ] {
        assert_eq!(SizeClass::of(tokens), class, "{tokens}");
    }
}

#[test]
fn people_see_percentiles_and_results_of_the_last_five_minutes() {
    let live = Live::private().unwrap();
    let target = live.target("p", "m");
    live.total(target, SizeClass::Small, 60_000_000, START);
    fail(&live, target, 1, START);
    let now_us = START + 5 * MINUTE;
    for ms in 1..=100_u64 {
        live.total(target, SizeClass::Small, ms * 1_000, now_us);
        live.ttft(target, SizeClass::Large, 10_000, now_us);
        live.report(target, Event::Ok, now_us, now_us);
    }
    let row = &live.targets(now_us)[0];
    assert_eq!((row.ok, row.failed), (100, 0));
    let near = |found: Option<f32>, want: f32| (found.unwrap() - want).abs() < want * 0.13;
    assert!(near(row.total.p50_ms, 50.0), "{row:?}");
    assert!(near(row.total.p95_ms, 95.0), "{row:?}");
    assert!(near(row.total.p99_ms, 99.0), "{row:?}");
    assert!(near(row.ttft.p99_ms, 10.0), "{row:?}");
    assert!(near(live.p50_ms(target, now_us), 50.0));
    let classes: Vec<&str> = row.averages.iter().map(|each| each.class.name()).collect();
    assert_eq!(classes, ["small", "large"]);
    let much_later = &live.targets(now_us + 6 * MINUTE)[0];
    assert_eq!((much_later.ok, much_later.total), (0, Percentiles::default()));
    // The slot of the minute is used again by one six minutes on.
    live.total(target, SizeClass::Small, 1_000, now_us + 6 * MINUTE);
    let p99_ms = live.targets(now_us + 6 * MINUTE)[0].total.p99_ms.unwrap();
    assert!(p99_ms < 2.0, "{p99_ms}");
}

// --- credentials ---------------------------------------------------------------------------------

#[test]
fn a_refused_credential_is_passed_over_for_a_minute_unless_its_secret_changed() {
    let file = File::new(1);
    let (one, two) = (file.open(), file.open());
    let id = one.credential("openai", "main");
    one.reject_credential(id, START, 7);
    assert!(two.is_rejected(two.credential("openai", "main"), START + 59 * S, 7));
    assert!(!two.is_rejected(id, START + 60 * S, 7));
    assert!(!two.is_rejected(id, START, 8), "a changed value clears the mark");
    assert!(!two.is_rejected(two.credential("openai", "other"), START, 7));
    assert_eq!(two.credentials(START)[0].rejected_until_us, Some(START + 60 * S));
    two.accept_credential(id);
    assert!(!one.is_rejected(id, START, 7));
    let key = layout::CREDENTIALS.word(&one.mapped, id.0.index as usize, 0);
    key.store(key.load(Ordering::Relaxed) ^ 1, Ordering::Relaxed);
    one.reject_credential(id, START, 7);
    assert!(two.is_rejected(id, START, 7), "taken over meanwhile");
}

#[test]
fn a_pause_holds_for_one_credential_at_one_target_and_five_minutes_at_most() {
    let live = Live::private().unwrap();
    let (target, other) = (live.target("p", "m"), live.target("p", "n"));
    assert_eq!(live.cooling_until_us(target, "a", START), None);
    live.cool(target, "a", START + 30 * S, START);
    assert_eq!(live.cooling_until_us(target, "a", START + 29 * S), Some(START + 30 * S));
    assert_eq!(live.cooling_until_us(target, "a", START + 30 * S), None);
    assert_eq!(live.cooling_until_us(target, "b", START), None);
    assert_eq!(live.cooling_until_us(other, "a", START), None);
    live.cool(other, "b", START + 60 * MINUTE, START);
    assert_eq!(live.cooling_until_us(other, "b", START), Some(START + 5 * MINUTE));
    live.cool(target, "a", START, START);
    assert_eq!(live.cooling_until_us(target, "a", START), Some(START + 30 * S));
    let row = |name: &str| {
        live.credentials(START).into_iter().find(|row| row.credential == name).unwrap()
    };
    assert_eq!(row("a").cooling_until_us, Some(START + 30 * S));
    assert_eq!(row("b").rejected_until_us, None);
}

#[test]
fn more_pauses_than_there_is_room_for_forget_those_that_end_first() {
    let live = Live::private().unwrap();
    let target = live.target("p", "m");
    for n in 0..4_096_u64 {
        live.cool(target, &n.to_string(), START + S + n, START);
    }
    let kept: Vec<u64> = (0..4_096)
        .filter(|n| live.cooling_until_us(target, &n.to_string(), START).is_some())
        .collect();
    assert!(kept.len() > 900, "{}", kept.len());
    assert!(kept.iter().filter(|n| **n >= 2_048).count() > kept.len() * 9 / 10);
}

// --- what is learnt ------------------------------------------------------------------------------

#[test]
fn the_expected_output_is_a_quarter_until_twenty_answers_came() {
    let live = Live::private().unwrap();
    let rt = live.route_target("default", "production", "p", "m");
    for _ in 0..19 {
        live.learn_output(rt, 500, 1_000, START);
    }
    assert!((live.output_share(rt) - 0.25).abs() < f32::EPSILON);
    live.learn_output(rt, 500, 1_000, START);
    assert!((live.output_share(rt) - 0.5).abs() < 0.001);
    for _ in 0..600 {
        live.learn_output(rt, u64::MAX, 1_000, START);
        live.learn_output(rt, 5, 0, START);
    }
    assert!((live.output_share(rt) - 1.0).abs() < 0.01, "{}", live.output_share(rt));
    let other = live.route_target("default", "production", "p", "n");
    assert!((live.output_share(other) - 0.25).abs() < f32::EPSILON);
    assert!((live.output_share(RouteTargetId::default()) - 0.25).abs() < f32::EPSILON);
}

#[test]
fn the_cached_share_follows_what_comes_and_fades_while_nothing_does() {
    let live = Live::private().unwrap();
    let rt = live.route_target("default", "production", "p", "m");
    assert!(live.cached_share(rt, START).abs() < f32::EPSILON);
    live.learn_cached(rt, 800, 1_000, START);
    assert!((live.cached_share(rt, START) - 0.8).abs() < 0.001);
    assert!((live.cached_share(rt, START + 10 * MINUTE) - 0.4).abs() < 0.01);
    for _ in 0..50 {
        live.learn_cached(rt, 0, 1_000, START);
    }
    assert!((live.cached_share(rt, START) - 0.4).abs() < 0.01);
}

#[test]
fn a_prompt_is_warm_where_it_was_seen_for_five_minutes() {
    let live = Live::private().unwrap();
    let (target, other) = (live.target("p", "m"), live.target("p", "n"));
    live.warm(42, target, 3_000, START);
    assert_eq!(live.warm_tokens(42, target, START + 299 * S), 3_000);
    assert_eq!(live.warm_tokens(42, target, START + 302 * S), 0);
    assert_eq!(live.warm_tokens(42, other, START), 0);
    assert_eq!(live.warm_tokens(43, target, START), 0);
    live.warm(42, target, u64::MAX, START);
    assert_eq!(live.warm_tokens(42, target, START), (1 << 20) - 1);
    for prefix in 0..100_000 {
        live.warm(prefix, target, 7, START + S);
    }
    let kept = (90_000..100_000).filter(|prefix| live.warm_tokens(*prefix, target, START) == 7);
    assert!(kept.count() > 4_000);
}

// --- marks ---------------------------------------------------------------------------------------

#[test]
fn marks_count_hits_and_runs_of_nulls_by_name() {
    let file = File::new(1);
    let (one, two) = (file.open(), file.open());
    let mark = one.mark("default/@production v4 rules[2]");
    assert_eq!(two.mark_view("default/@production v4 rules[3]"), None);
    one.touch(mark, 1_700_000_000);
    two.touch(two.mark("default/@production v4 rules[2]"), 1_700_000_009);
    one.touch(mark, 1_700_000_003);
    assert_eq!([true, true, true].map(|null| one.null_run(mark, null)), [1, 2, 3]);
    let view = two.mark_view("default/@production v4 rules[2]").unwrap();
    assert_eq!(view, MarkView { hits: 3, last_unix_s: 1_700_000_009, null_run: 3 });
    assert_eq!(two.null_run(mark, false), 0);
    assert_eq!(one.null_run(mark, true), 1);
    one.touch(MarkId::default(), 1);
    assert_eq!(one.null_run(MarkId::default(), true), 0);
}

#[test]
fn a_full_table_of_marks_forgets_those_touched_longest_ago_and_they_come_back() {
    let live = Live::private().unwrap();
    let old = live.mark("old");
    live.touch(old, 5);
    for n in 0..40_000_u64 {
        live.touch(live.mark(&format!("mark {n}")), 10 + n);
    }
    assert_eq!(live.mark_view("old"), None);
    assert!(live.mark_view("mark 39999").is_some());
    live.touch(old, 50_000);
    assert_eq!(live.mark_view("old").unwrap().hits, 1);
}

// --- all at once ---------------------------------------------------------------------------------

#[test]
fn threads_that_hammer_one_entry_lose_no_attempt_and_tear_no_figure() {
    let file = File::new(4);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let file = &file;
            scope.spawn(move || {
                let live = file.open();
                let target = live.target("p", "m");
                for step in 0..2_000_u64 {
                    let now_us = START + step * 1_000;
                    live.began(target, worker, now_us);
                    live.ttft(target, SizeClass::Small, 1_000 + step % 7, now_us);
                    live.report(target, Event::Ok, now_us, now_us);
                    let class = live.read_class(target, SizeClass::Small, now_us);
                    assert!((1_000.0..=1_007.0).contains(&class.ttft_us.unwrap()));
                    live.ended(target, worker);
                }
            });
        }
    });
    let row = &file.open().targets(START + 2 * S)[0];
    assert_eq!((row.attempts, row.ok, row.view.in_flight), (8_000, 8_000, 0));
    assert_eq!(row.view.error_rate, Some(0.0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// One process's breaker is what the table says, whatever the window's buckets do.
    #[test]
    fn the_breaker_in_memory_follows_the_table(
        steps in prop::collection::vec((0..4_usize, 0..4_000_u64, 0..3_u64), 1..120)
    ) {
        use crate::breaker::{Breaker, State, Window, next};
        let live = Live::private().unwrap();
        let target = live.target("p", "m");
        let (mut model, mut seen) = (Breaker::default(), Vec::<(u64, bool)>::new());
        let mut now_ms = 3_000_000;
        for (kind, step_ms, late_s) in steps {
            now_ms += step_ms;
            let began_ms = now_ms - late_s * 1_000;
            let event = [Event::Ok, Event::Failed, Event::Neutral, Event::Probe][kind];
            if event == Event::Probe {
                let after = next(model, event, now_ms, now_ms, Window::default());
                prop_assert_eq!(live.take_probe(target, now_ms * 1_000), after != model);
                model = after;
                continue;
            }
            if model.state == State::Closed && model.counts(began_ms) && event != Event::Neutral {
                seen.push((now_ms / 3_000, event == Event::Failed));
            }
            let recent = |failed: bool| {
                let is_recent = |one: &&(u64, bool)| one.0 + 10 > now_ms / 3_000;
                let found = seen.iter().filter(is_recent).filter(|one| one.1 == failed).count();
                u32::try_from(found).unwrap()
            };
            let window = Window { ok: recent(false), failed: recent(true) };
            let after = next(model, event, began_ms, now_ms, window);
            let change = live.report(target, event, began_ms * 1_000, now_ms * 1_000);
            prop_assert_eq!(change.is_some(), after.state != model.state);
            if after.state == State::Closed && model.state != State::Closed {
                seen.clear();
            }
            model = after;
            let name = live.read(target, now_ms * 1_000).health.name();
            prop_assert_eq!(name, model.state.name());
        }
    }
}
