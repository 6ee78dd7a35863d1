//! Maps that are not ours, not whole, or full: refused or survived, never believed.

use std::fs::{self, OpenOptions};
use std::path::Path;

use modelux_core::ledger::{HoldRow, Ledger, LedgerFault, MAP_BYTES_MIN, discard};

use crate::support::{BUDGET, Bench, OTHER, STAMP, create, hold, row_for, row_of};

fn refused(dir: &Path) -> String {
    let at_start = Ledger::create(dir, MAP_BYTES_MIN, STAMP).err().unwrap();
    let later = Ledger::open(dir).err().unwrap();
    assert!(matches!(at_start, LedgerFault::NotOurs(_)), "{at_start}");
    assert!(matches!(later, LedgerFault::NotOurs(_)), "{later}");
    at_start.to_string()
}

/// A map with something in it, closed.
fn filled() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = create(dir.path());
    let mut turn = ledger.turn().unwrap();
    let names: Vec<String> = (0..3_000).map(|number| format!("user-{number}")).collect();
    for (seq, name) in names.iter().enumerate() {
        turn.hold(seq as u64, [0; 16], 0, 1, 0, &[row_for(BUDGET, name, 0)]).unwrap();
    }
    turn.commit().unwrap();
    dir
}

fn set_len(path: &Path, bytes: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(bytes).unwrap();
}

#[test]
fn what_was_committed_is_there_for_the_next_supervisor_of_the_same_boot() {
    let dir = filled();
    let ledger = create(dir.path());
    ledger.verify().unwrap();
    assert_eq!(ledger.rows().unwrap().len(), 3_000);
    assert_eq!(ledger.stamp().unwrap(), STAMP);
}

#[test]
fn a_map_of_another_boot_is_refused_and_left_as_it_is() {
    let dir = filled();
    let fault = Ledger::create(dir.path(), MAP_BYTES_MIN, "boot 2").err().unwrap();
    assert!(fault.to_string().contains("its stamp is `boot 1`, not `boot 2`"), "{fault}");
    assert_eq!(create(dir.path()).rows().unwrap().len(), 3_000);
    discard(dir.path()).unwrap();
    discard(dir.path()).unwrap();
    let ledger = Ledger::create(dir.path(), MAP_BYTES_MIN, "boot 2").unwrap();
    assert_eq!(ledger.rows().unwrap(), []);
}

#[test]
fn a_copy_is_refused_whatever_it_holds() {
    let dir = filled();
    let path = dir.path().join("ledger.mdb");
    let other = dir.path().join("other");
    fs::copy(&path, &other).unwrap();
    fs::rename(&other, &path).unwrap();
    assert!(refused(dir.path()).contains("it is a copy"));
}

#[test]
fn a_map_that_was_cut_is_refused_before_it_is_mapped() {
    let dir = filled();
    let path = dir.path().join("ledger.mdb");
    for bytes in [MAP_BYTES_MIN - 4_096, 200_000, 8_192, 4_096, 100, 0] {
        set_len(&path, bytes);
        refused(dir.path());
    }
    // Grown again it has its length, but not its header.
    set_len(&path, MAP_BYTES_MIN);
    assert!(refused(dir.path()).contains("not an LMDB file"));
}

#[test]
fn a_map_with_holes_is_given_its_room_again_and_found_out() {
    let dir = filled();
    let path = dir.path().join("ledger.mdb");
    set_len(&path, 100_000);
    set_len(&path, MAP_BYTES_MIN);
    match Ledger::create(dir.path(), MAP_BYTES_MIN, STAMP) {
        Ok(ledger) => {
            let fault = ledger.verify().err().unwrap();
            assert!(matches!(fault, LedgerFault::Inconsistent(_)), "{fault}");
        }
        Err(fault) => assert!(
            matches!(fault, LedgerFault::Inconsistent(_) | LedgerFault::NotOurs(_)),
            "{fault}"
        ),
    }
}

#[test]
fn what_is_not_a_map_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Ledger::open(dir.path()).err(), Some(LedgerFault::NotOurs(_))));
    let path = dir.path().join("ledger.mdb");
    let bytes = usize::try_from(MAP_BYTES_MIN).unwrap();
    for content in [vec![0; bytes], vec![0xa5; bytes], b"hello".to_vec()] {
        fs::write(&path, content).unwrap();
        refused(dir.path());
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refused(dir.path());
}

#[test]
fn a_size_beyond_the_limits_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for bytes in [0, MAP_BYTES_MIN - 1, u64::MAX] {
        let fault = Ledger::create(dir.path(), bytes, STAMP).err().unwrap();
        assert!(fault.to_string().contains(&bytes.to_string()), "{fault}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_map_that_cannot_have_its_room_is_not_left_behind() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    assert!(Ledger::create(&missing, MAP_BYTES_MIN, STAMP).is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Make rows, one a turn, until there is no room.
fn fill(bench: &mut Bench, seqs: &mut Vec<u64>) {
    loop {
        let seq = seqs.len() as u64;
        let name = format!("user-{seq}");
        let mut turn = bench.ledger.turn().unwrap();
        match turn.hold(seq, [0; 16], 0, 10, 0, &[row_for(BUDGET, &name, 0), row_of(OTHER)]) {
            Ok(()) => turn.commit().unwrap(),
            Err(fault) => {
                assert_eq!(fault, LedgerFault::Full);
                // Refused is not half done: the turn goes on.
                turn.commit().unwrap();
                return;
            }
        }
        seqs.push(seq);
    }
}

#[test]
fn a_full_map_refuses_new_rows_first_then_holds_and_never_a_settle() {
    let mut bench = Bench::new();
    let mut seqs = Vec::new();
    fill(&mut bench, &mut seqs);
    assert!(seqs.len() > 3_000, "{}", seqs.len());
    bench.ledger.verify().unwrap();
    // A row that is there can still be held on, until that has filled its part, too.
    let row = row_of(OTHER);
    let known = seqs.len() as u64;
    for seq in known.. {
        let mut turn = bench.ledger.turn().unwrap();
        if turn.hold(seq, [0; 16], 0, 10, 0, &[row]).is_err() {
            break;
        }
        turn.commit().unwrap();
        seqs.push(seq);
    }
    assert!(seqs.len() as u64 > known + 100, "{}", seqs.len());
    let info = bench.ledger.info().unwrap();
    assert!(info.used_bytes <= info.map_bytes, "{info:?}");
    assert_eq!(info.holds, seqs.len() as u64);
    // All that is held can be settled: alone, and many at once.
    for (turn_number, part) in seqs.chunks(20).enumerate() {
        let part = if turn_number == 0 { &part[..1] } else { part };
        let mut turn = bench.ledger.turn().unwrap();
        for seq in part {
            turn.settle(*seq, 4).unwrap();
        }
        turn.commit().unwrap();
    }
    bench.ledger.verify().unwrap();
    // Room that was freed is used again.
    assert!(bench.ledger.drop_past(86_400, u64::MAX).unwrap() > 3_000);
    hold(&mut bench.ledger, u64::MAX, 0, 10, &[row_for(BUDGET, "late", 86_400)]);
    bench.ledger.verify().unwrap();
}

#[test]
fn a_turn_too_large_for_what_is_left_changes_nothing_and_smaller_ones_pass() {
    let mut bench = Bench::new();
    let names: Vec<String> = (0..9_000).map(|number| format!("user-{number}")).collect();
    let rows: Vec<HoldRow<'_>> = names.iter().map(|name| row_for(BUDGET, name, 0)).collect();
    let mut turn = bench.ledger.turn().unwrap();
    // The part in use is looked up once a turn: one turn alone can run over every part.
    let mut fault = None;
    for round in 0..20_u64 {
        for (number, row) in rows.iter().enumerate() {
            let seq = round * 100_000 + number as u64;
            if let Err(found) = turn.hold(seq, [0; 16], 0, 10, 0, &[*row]) {
                fault = Some(found);
                break;
            }
        }
    }
    assert_eq!(fault, Some(LedgerFault::Full));
    assert_eq!(turn.commit(), Err(LedgerFault::Full));
    assert_eq!(bench.ledger.rows().unwrap(), []);
    bench.hold(1, 0, 10, &rows[..5]);
    bench.settle(1, 3);
    bench.ledger.verify().unwrap();
}
