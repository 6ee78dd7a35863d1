//! The ring beside a queue: whatever is done in whatever order, the same comes out.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that unwraps names the line that failed"
)]

use std::collections::VecDeque;
use std::path::Path;

use modelux_core::ring::{
    Accepted, BODY_BYTES_MAX, Bodies, CUT_BODY_BYTES, INLINE_BODY_BYTES_MAX, RING_BYTES_MIN,
    RingReader, RingWriter, Trace,
};
use proptest::prelude::*;

const SPILL_BYTES: u64 = 3 * 1024 * 1024;

#[derive(Clone, Debug)]
enum Step {
    Append {
        meta_bytes: usize,
        request_bytes: usize,
        response_bytes: usize,
    },
    Read {
        records_max: usize,
    },
    Commit,
    /// The trace writer is killed: what it read and did not commit comes again.
    RestartReader,
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![
        4 => 0_usize..3_000,
        2 => 20_000_usize..40_000,
        1 => 100_000_usize..300_000,
    ];
    prop_oneof![
        6 => (1_usize..4_000, size.clone(), size).prop_map(
            |(meta_bytes, request_bytes, response_bytes)| Step::Append {
                meta_bytes, request_bytes, response_bytes
            }
        ),
        3 => (1_usize..20).prop_map(|records_max| Step::Read { records_max }),
        2 => Just(Step::Commit),
        1 => Just(Step::RestartReader),
    ]
}

/// Bytes that say where they belong: of another record, body or place they are others.
fn bytes(number: u64, length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| (at ^ (number * 31)).to_le_bytes()[0]).collect()
}

struct Model {
    /// Committed by the producer and not yet by the reader, in order of arrival.
    ring: VecDeque<Trace>,
    spill: VecDeque<Trace>,
    number: u64,
}

fn expected(trace: &Trace, kept: Bodies) -> Trace {
    let mut left = trace.clone();
    left.bodies = kept;
    match kept {
        Bodies::Kept => {}
        Bodies::Cut => {
            left.request.truncate(CUT_BODY_BYTES);
            left.response.truncate(CUT_BODY_BYTES);
        }
        Bodies::Shed | Bodies::Off => {
            left.request.clear();
            left.response.clear();
        }
    }
    left
}

/// Whether what came out is what went in, but for bodies given up as their state says.
fn is_faithful(out: &Trace, put: &Trace, kept: Bodies) -> bool {
    if out.meta != put.meta || out.bodies != kept {
        return false;
    }
    if *out == expected(put, kept) {
        return true;
    }
    // One large body may have been shed beside a small one that is kept or cut.
    kept == Bodies::Shed
        && [(&out.request, &put.request), (&out.response, &put.response)].into_iter().all(
            |(out, put)| {
                out.is_empty() || out == put || **out == put[..put.len().min(CUT_BODY_BYTES)]
            },
        )
}

fn append(writer: &mut RingWriter, model: &mut Model, step: &Step) {
    let Step::Append { meta_bytes, request_bytes, response_bytes } = *step else { return };
    model.number += 1;
    let trace = Trace {
        meta: bytes(model.number, meta_bytes),
        request: bytes(model.number + 1_000, request_bytes),
        response: bytes(model.number + 2_000, response_bytes),
        bodies: Bodies::Kept,
    };
    match writer.append(&trace.meta, &trace.request, &trace.response, Bodies::Kept) {
        Accepted::Ring(kept) => model.ring.push_back(Trace { bodies: kept, ..trace }),
        Accepted::Spill => model.spill.push_back(Trace { bodies: Bodies::Shed, ..trace }),
        Accepted::Lost => {}
    }
}

fn check(traces: &[Trace], model: &mut Model, unsettled: &mut Vec<Trace>) {
    for out in traces {
        // The ring's come in order and the spill's do; which comes first is the reader's.
        let from_ring = model.ring.front().is_some_and(|put| is_faithful(out, put, put.bodies));
        let put = if from_ring { model.ring.pop_front() } else { model.spill.pop_front() };
        let put = put.expect("more came out than went in");
        assert!(is_faithful(out, &put, put.bodies), "not what went in: {:?}", out.bodies);
        unsettled.push(put);
    }
}

fn open(dir: &Path) -> RingReader {
    RingReader::open(&dir.join("ring.0.1"), dir, Some("boot")).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_was_accepted_comes_out_once_in_order_and_whole(
        steps in prop::collection::vec(step(), 1..120)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ring.0.1");
        let mut writer = RingWriter::create(
            &path, RING_BYTES_MIN, dir.path(), SPILL_BYTES, "boot", 0, 1,
        ).unwrap();
        let mut reader = open(dir.path());
        let mut model = Model { ring: VecDeque::new(), spill: VecDeque::new(), number: 0 };
        let mut unsettled: Vec<Trace> = Vec::new();
        let mut stored = 0_u64;
        let mut seen = std::collections::HashSet::new();
        for step in &steps {
            match step {
                Step::Append { .. } => append(&mut writer, &mut model, step),
                Step::Read { records_max } => {
                    let traces = reader.read(*records_max).unwrap();
                    prop_assert!(traces.len() <= *records_max);
                    for trace in &traces {
                        if seen.insert(trace.meta.clone()) { stored += 1; }
                    }
                    check(&traces, &mut model, &mut unsettled);
                }
                Step::Commit => { reader.commit().unwrap(); }
                Step::RestartReader => {
                    drop(reader);
                    reader = open(dir.path());
                    // A restart may repeat anything that was read since the last commit: run
                    // it all and let the store's rule (one record an id) settle it.
                    loop {
                        let traces = reader.read(64).unwrap();
                        if traces.is_empty() { break; }
                        for trace in &traces {
                            if seen.insert(trace.meta.clone()) { stored += 1; }
                        }
                    }
                    reader.commit().unwrap();
                    prop_assert!(reader.is_drained());
                    model.ring.clear();
                    model.spill.clear();
                }
            }
        }
        drop(writer);
        prop_assert!(!reader.owner_alive().unwrap());
        loop {
            let traces = reader.read(64).unwrap();
            if traces.is_empty() { break; }
            for trace in &traces {
                if seen.insert(trace.meta.clone()) { stored += 1; }
            }
            check(&traces, &mut model, &mut unsettled);
            reader.commit().unwrap();
        }
        reader.commit().unwrap();
        let stats = reader.stats();
        prop_assert!(model.ring.is_empty() && model.spill.is_empty());
        prop_assert_eq!(stats.accepted, seen.len() as u64);
        prop_assert_eq!(stored, stats.accepted);
        prop_assert!(reader.is_drained());
        reader.remove().unwrap();
        prop_assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn any_bytes_in_the_data_area_are_records_or_a_fault_and_never_more(
        noise in prop::collection::vec(any::<u8>(), 64..2_000),
        at in 4_096_u64..60_000,
        appended in 1_usize..30,
    ) {
        use std::os::unix::fs::FileExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ring.0.1");
        let mut writer =
            RingWriter::create(&path, RING_BYTES_MIN, dir.path(), 0, "boot", 0, 1).unwrap();
        for number in 0..appended {
            writer.append(&bytes(number as u64, 900), &bytes(7, 600), b"", Bodies::Kept);
        }
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&noise, at).unwrap();
        let mut reader = open(dir.path());
        let mut read = 0;
        loop {
            match reader.read(100) {
                Ok(traces) if traces.is_empty() => break,
                Ok(traces) => read += traces.len(),
                Err(_) => { reader.skip().unwrap(); break; }
            }
        }
        prop_assert!(read <= appended);
        // Whatever it was, the ring goes on.
        writer.append(b"after", b"", b"", Bodies::Kept);
        reader.commit().unwrap();
        prop_assert_eq!(&reader.read(9).unwrap()[0].meta, b"after");
    }
}

#[test]
fn the_limits_fit_one_another() {
    // A body at its bound fits a segment of the spill, one at the inline bound the smallest ring.
    const { assert!(BODY_BYTES_MAX < 16 * 1024 * 1024 - 16) };
    assert!(INLINE_BODY_BYTES_MAX as u64 * 2 <= RING_BYTES_MIN);
}
