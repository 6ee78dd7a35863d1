//! The chunked coding: what comes out, what is refused, and that cuts do not matter.

use modelux_core::chunked::{ChunkFault, Decoder, TRAILER_BYTES_MAX};
use proptest::prelude::*;

/// Payload, bytes consumed and whether the message ended, or the fault; fed in pieces.
type Outcome = (Vec<u8>, Result<(usize, bool), ChunkFault>);

fn decode(pieces: &[&[u8]]) -> Outcome {
    let mut decoder = Decoder::new();
    let (mut out, mut consumed, mut done) = (Vec::new(), 0, false);
    for piece in pieces {
        match decoder.feed(piece, &mut out) {
            Ok(progress) => {
                assert!(progress.done || progress.consumed == piece.len());
                consumed += progress.consumed;
                done = progress.done;
            }
            Err(fault) => return (out, Err(fault)),
        }
    }
    (out, Ok((consumed, done)))
}

#[test]
fn chunks_are_joined_and_what_follows_the_message_is_left() {
    let bytes =
        b"5\r\nhello\r\n00A;n=v;m=\"a\\\"b\";flag\r\n, world...\r\n0\r\nX-T: a\r\n\r\nNEXT";
    let (out, outcome) = decode(&[bytes]);
    assert_eq!(out, b"hello, world...");
    assert_eq!(outcome, Ok((bytes.len() - 4, true)));
}

#[test]
fn an_ended_message_takes_no_more_bytes() {
    let mut decoder = Decoder::new();
    let mut out = Vec::new();
    assert!(decoder.feed(b"0\r\n\r\n", &mut out).is_ok_and(|progress| progress.done));
    let after = decoder.feed(b"0\r\n\r\n", &mut out);
    assert!(after.is_ok_and(|progress| progress.done && progress.consumed == 0));
}

#[test]
fn a_broken_coding_is_refused_for_good() {
    let long_name = format!("1;{}\r\n", "n".repeat(255));
    let long_trailers = format!("0\r\n{}\r\n", "A: b\r\n".repeat(TRAILER_BYTES_MAX / 6 + 1));
    for (bytes, fault) in [
        ("\r\n", ChunkFault::Size),
        ("-1\r\n", ChunkFault::Size),
        ("+1\r\n", ChunkFault::Size),
        (" 1\r\n", ChunkFault::Size),
        ("1 \r\n", ChunkFault::Size),
        ("1 ;a\r\n", ChunkFault::Size),
        ("0x1\r\n", ChunkFault::Size),
        ("g\r\n", ChunkFault::Size),
        (";a\r\n", ChunkFault::Size),
        ("00000000000000001\r\n", ChunkFault::Size),
        ("fffffffffffffffff\r\n", ChunkFault::Size),
        ("1\na\r\n0\r\n\r\n", ChunkFault::LineEnd),
        ("1\r\r\n", ChunkFault::LineEnd),
        ("1;\r\n", ChunkFault::Extension),
        ("1; a\r\n", ChunkFault::Extension),
        ("1;a=\r\n", ChunkFault::Extension),
        ("1;a=\"\r\n\"", ChunkFault::Extension),
        ("1;a=\"b\"c\r\n", ChunkFault::Extension),
        ("1;a\0\r\n", ChunkFault::Extension),
        ("1;a\n", ChunkFault::LineEnd),
        (&long_name, ChunkFault::LineTooLong),
        ("1\r\nab\r\n", ChunkFault::DataEnd),
        ("1\r\na\n0\r\n\r\n", ChunkFault::DataEnd),
        ("1\r\na\r0\r\n\r\n", ChunkFault::DataEnd),
        ("1\r\na0\r\n\r\n", ChunkFault::DataEnd),
        ("0\r\n\n", ChunkFault::LineEnd),
        ("0\r\n\rX", ChunkFault::LineEnd),
        ("0\r\nA\r\n\r\n", ChunkFault::Trailer),
        ("0\r\n: a\r\n\r\n", ChunkFault::Trailer),
        ("0\r\nA : a\r\n\r\n", ChunkFault::Trailer),
        ("0\r\nA: a\r\n b\r\n\r\n", ChunkFault::Trailer),
        ("0\r\nA: \0\r\n\r\n", ChunkFault::Trailer),
        ("0\r\nA: a\n\r\n", ChunkFault::LineEnd),
        ("0\r\nA: a\rb\r\n\r\n", ChunkFault::LineEnd),
        (&long_trailers, ChunkFault::TrailerTooLarge),
    ] {
        let mut decoder = Decoder::new();
        let mut out = Vec::new();
        assert_eq!(decoder.feed(bytes.as_bytes(), &mut out), Err(fault), "{bytes:?}");
        assert_eq!(decoder.feed(b"0\r\n\r\n", &mut out), Err(fault));
        assert_eq!(decoder.feed(b"", &mut out), Err(fault));
    }
}

#[test]
fn the_largest_size_is_believed_and_does_not_overflow() {
    let mut decoder = Decoder::new();
    let mut out = Vec::new();
    let progress = decoder.feed(b"ffffffffffffffff\r\nabc", &mut out);
    assert!(progress.is_ok_and(|progress| !progress.done));
    assert_eq!(out, b"abc");
}

#[test]
fn the_limits_on_lines_and_trailers_are_exact() {
    let line = |length: usize| format!("1;{}\r\na\r\n0\r\n\r\n", "n".repeat(length - 2));
    assert!(matches!(decode(&[line(256).as_bytes()]).1, Ok((_, true))));
    assert_eq!(decode(&[line(257).as_bytes()]).1, Err(ChunkFault::LineTooLong));
    let trailer = |bytes: usize| format!("0\r\nA:{}\r\n\r\n", "b".repeat(bytes - 6));
    assert!(matches!(decode(&[trailer(TRAILER_BYTES_MAX).as_bytes()]).1, Ok((_, true))));
    assert_eq!(
        decode(&[trailer(TRAILER_BYTES_MAX + 1).as_bytes()]).1,
        Err(ChunkFault::TrailerTooLarge)
    );
}

fn broken_messages() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "5\r\nhello\r\n",
        "1;a=b\r\nx\r\n",
        "0\r\n",
        "\r\n",
        "A: b\r\n",
        "A;b=\"c\"\r\n0123456789\r\n",
        "f",
        "\r",
        "\n",
        ";",
        "\"",
        "=",
        " ",
        ":",
        "\0",
        "0",
        "hello",
    ]);
    prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat().into_bytes())
}

/// The pieces between cuts; cuts beyond the end are at the end.
fn cut<'b>(bytes: &'b [u8], cuts: &[usize]) -> Vec<&'b [u8]> {
    let mut places: Vec<_> = cuts.iter().map(|cut| (*cut).min(bytes.len())).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #[test]
    fn the_outcome_does_not_depend_on_how_the_bytes_are_cut(
        bytes in broken_messages(), cuts in prop::collection::vec(0..60_usize, 0..8),
    ) {
        prop_assert_eq!(decode(&[&bytes]), decode(&cut(&bytes, &cuts)));
        let singly: Vec<_> = bytes.chunks(1).collect();
        prop_assert_eq!(decode(&[&bytes]), decode(&singly));
    }

    #[test]
    fn any_bytes_at_all_give_progress_or_a_fault(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let (out, _) = decode(&[&bytes]);
        prop_assert!(out.len() <= bytes.len());
    }

    #[test]
    fn what_was_encoded_comes_back(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
        cuts in prop::collection::vec(0..200_usize, 0..8),
    ) {
        let mut bytes = Vec::new();
        for chunk in &chunks {
            bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        let (out, outcome) = decode(&cut(&bytes, &cuts));
        prop_assert_eq!(out, chunks.concat());
        prop_assert_eq!(outcome, Ok((bytes.len(), true)));
    }
}
