//! That a stream says and relays the same however it is cut.

use modelux_core::sse::Follower;
use modelux_core::usage::Usage;
use proptest::prelude::*;

const USAGE: &str =
    r#"data: {"id":"c","choices":[],"usage":{"prompt_tokens":5,"total_tokens":9}}"#;
const CONTENT: &str = r#"data: {"id":"c","choices":[{"delta":{"content":"é"}}],"usage":null}"#;

#[derive(Debug, PartialEq)]
struct Seen {
    relayed: Vec<u8>,
    facts: (bool, bool, bool, bool),
    usage: Option<Usage>,
    error: Option<Vec<u8>>,
    counts: (u64, u64),
}

fn follow<'b>(pieces: impl Iterator<Item = &'b [u8]>, cut_usage: bool) -> Seen {
    let mut follower = Follower::new(cut_usage);
    let mut relayed = Vec::new();
    for piece in pieces {
        follower.feed(piece, &mut relayed);
    }
    follower.finish(&mut relayed);
    Seen {
        relayed,
        facts: (
            follower.content_seen(),
            follower.done_seen(),
            follower.finish_reason_seen(),
            follower.at_event_boundary(),
        ),
        usage: follower.usage(),
        error: follower.error_event().map(<[u8]>::to_vec),
        counts: (follower.output_events(), follower.usage_events_cut()),
    }
}

fn streams() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        USAGE,
        CONTENT,
        "\n",
        "\n\n",
        "\r",
        "\r\n",
        "\r\n\r\n",
        "data: ",
        "data:",
        "data: [DONE]",
        ": ping",
        "event: error",
        "\u{feff}",
        "{",
        "}",
        "\"choices\":[]",
        "\"choices\":[{",
        ",",
        "\"usage\":{}",
        "\"usage\":{\"total_tokens\":3}",
        "\"error\":{}",
        "é",
        " ",
        "\"",
        "\\",
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}",
    ]);
    prop::collection::vec(pieces, 0..16).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn cuts_do_not_matter(stream in streams(), size in 1..90_usize, cut_usage: bool) {
        let whole = follow(std::iter::once(stream.as_slice()), cut_usage);
        prop_assert_eq!(&follow(stream.chunks(size), cut_usage), &whole);
        prop_assert_eq!(&follow(stream.chunks(1), cut_usage), &whole);
        if !cut_usage && whole.error.is_none() {
            prop_assert_eq!(&whole.relayed, &stream);
        }
    }

    #[test]
    fn any_bytes_pass(stream in prop::collection::vec(any::<u8>(), 0..200), cut_usage: bool) {
        let whole = follow(std::iter::once(stream.as_slice()), cut_usage);
        prop_assert_eq!(&whole.relayed, &stream);
        prop_assert_eq!(&follow(stream.chunks(1), cut_usage), &whole);
    }
}

#[test]
fn a_held_event_is_read_once_however_it_drips() {
    // Method: an event that stays undecided to its end comes byte by byte. Were it read anew
    // for each byte, this would take minutes.
    let event = format!(
        "data: {{\"id\":\"{}\",\"choices\":[],\"usage\":{{}}}}\n\n",
        "x".repeat(65_000)
    );
    let mut follower = Follower::new(true);
    let mut relayed = Vec::new();
    for byte in event.as_bytes() {
        follower.feed(std::slice::from_ref(byte), &mut relayed);
    }
    assert_eq!(relayed, b"");
    assert_eq!(follower.usage_events_cut(), 1);
}
