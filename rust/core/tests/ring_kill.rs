//! A real process appends and is killed with SIGKILL, again and again: nothing that it was told
//! is accepted is lost, doubled or torn.

#![expect(clippy::unwrap_used, reason = "a test that unwraps names the line that failed")]

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use modelux_core::ring::{Bodies, RingReader, RingWriter, Trace};

const ROUNDS: u64 = 250;
const PLACE: &str = "MODELUX_TEST_RING_DIR";
const ROUND: &str = "MODELUX_TEST_RING_ROUND";

fn fill(number: u64, length: usize) -> Vec<u8> {
    let mut out = number.to_le_bytes().to_vec();
    out.extend((8..length.max(8) as u64).map(|at| (at ^ number).to_le_bytes()[0]));
    out
}

/// Sizes that reach every way: inline, around the end, by reference, cut, shed, spilled.
fn sizes(number: u64) -> (usize, usize, usize) {
    let body = match number % 11 {
        0 => 50_000,
        1 | 2 => 5_000,
        _ => 300,
    };
    (200 + usize::try_from(number % 700).unwrap(), body, 100)
}

fn is_whole(trace: &Trace, number: u64) -> bool {
    let (meta_bytes, request_bytes, response_bytes) = sizes(number);
    let is_start = |part: &[u8], whole: Vec<u8>| whole.starts_with(part);
    let is_kept = trace.bodies != Bodies::Kept
        || (trace.request.len() == request_bytes && trace.response.len() == response_bytes);
    trace.meta == fill(number, meta_bytes)
        && is_start(&trace.request, fill(number, request_bytes))
        && is_start(&trace.response, fill(number, response_bytes))
        && is_kept
}

/// The process that is killed; nothing but a test's child when its variables are set.
#[test]
fn child_appends_until_it_is_killed() {
    let Some(dir) = std::env::var_os(PLACE) else { return };
    let round: u64 = std::env::var(ROUND).unwrap().parse().unwrap();
    let dir = Path::new(&dir);
    let ring = dir.join(format!("ring.0.{round}"));
    let mut writer =
        RingWriter::create(&ring, 256 * 1024, dir, 8 << 20, "boot", 0, round).unwrap();
    // The harness owns stdout; what was accepted is told on stderr, unbuffered, byte by byte.
    let mut told = std::io::stderr();
    for number in 0.. {
        let (meta, request, response) = sizes(number);
        writer.append(
            &fill(number, meta),
            &fill(number, request),
            &fill(number, response),
            Bodies::Kept,
        );
        told.write_all(b".").unwrap();
        assert_eq!(writer.stats().lost, 0);
        if number % 8 == 7 {
            // Room for the reader, so that the way in is not only the spill.
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

fn drain(reader: &mut RingReader, seen: &mut Vec<bool>) {
    loop {
        let traces = reader.read(64).unwrap();
        if traces.is_empty() {
            return;
        }
        for trace in &traces {
            let number = u64::from_le_bytes(trace.meta[..8].try_into().unwrap());
            assert!(is_whole(trace, number), "record {number} is torn");
            let index = usize::try_from(number).unwrap();
            if seen.len() <= index {
                seen.resize(index + 1, false);
            }
            assert!(!seen[index], "record {number} came twice");
            seen[index] = true;
        }
        reader.commit().unwrap();
    }
}

#[test]
fn nothing_accepted_is_lost_doubled_or_torn_when_the_worker_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut total = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_appends_until_it_is_killed", "--nocapture", "-q"])
            .env(PLACE, dir.path())
            .env(ROUND, round.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told_to = child.stderr.take().unwrap();
        let mut first = [0; 1];
        told_to.read_exact(&mut first).unwrap();
        let ring = dir.path().join(format!("ring.0.{round}"));
        let mut reader = RingReader::open(&ring, dir.path(), Some("boot")).unwrap();
        assert!(reader.owner_alive().unwrap());
        let mut seen = Vec::new();
        // Killed after another number of appends each time, half of them while it is read.
        let mut told = 1;
        let mut some = vec![0; usize::try_from(1 + round * 7 % 97).unwrap()];
        while told < 1 + usize::try_from(round * 13 % 180).unwrap() {
            told += told_to.read(&mut some).unwrap();
            if round % 2 == 0 {
                drain(&mut reader, &mut seen);
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!reader.owner_alive().unwrap());
        let mut rest = Vec::new();
        told_to.read_to_end(&mut rest).unwrap();
        told += rest.len();
        drain(&mut reader, &mut seen);
        // Every accepted one, and at most one that was committed but no longer told.
        assert!(seen.iter().all(|seen| *seen), "round {round}: a record is missing");
        assert!((told..=told + 1).contains(&seen.len()), "{told} told, {} seen", seen.len());
        reader.remove().unwrap();
        total += seen.len();
    }
    assert!(total as u64 > ROUNDS);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
