//! That a stream says and relays the same however it is cut.

use modelux_core::sse::{EVENT_BYTES_MAX, Follower};
use modelux_core::tokens::relayed_tokens;
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
    counts: (u64, u64, u64),
}

fn follow<'b>(pieces: impl Iterator<Item = &'b [u8]>, cut_usage: bool) -> Seen {
    follow_with(pieces, cut_usage, true)
}

fn follow_with<'b>(
    pieces: impl Iterator<Item = &'b [u8]>,
    cut_usage: bool,
    count_text: bool,
) -> Seen {
    let mut follower = Follower::new(cut_usage);
    follower.count_text(count_text);
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
        counts: (follower.output_events(), follower.usage_events_cut(), follower.text_bytes()),
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
        "\"delta\":",
        "\"text\":\"ab",
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
    fn counting_text_changes_nothing_else(stream in streams(), cut_usage: bool) {
        let whole = std::iter::once(stream.as_slice());
        let mut seen = follow(whole.clone(), cut_usage);
        seen.counts.2 = 0;
        prop_assert_eq!(follow_with(whole, cut_usage, false), seen);
    }

    #[test]
    fn the_text_of_a_stream_is_counted_in_bytes_of_its_meaning(
        texts in prop::collection::vec("(\\PC|[\n\"\\\\]){0,12}", 0..8),
        is_ascii: bool,
        line_end in prop::sample::select(vec!["\n", "\r\n", "\r"]),
        size in 1..90_usize,
    ) {
        let quoted = |text: &String| {
            let json = serde_json::to_string(text).unwrap();
            if is_ascii { escaped(&json) } else { json }
        };
        let stream = texts
            .iter()
            .enumerate()
            .map(|(at, text)| {
                let text = quoted(text);
                let choice = match at % 4 {
                    0 => format!("{{\"index\":0,\"delta\":{{\"role\":\"x\",\"content\":{text}}}}}"),
                    1 => format!("{{\"delta\":{{\"tool_calls\":[{{\"id\":\"x\",\"function\":\
                                  {{\"arguments\":{text}}}}}]}},\"index\":1}}"),
                    2 => format!("{{\"text\":{text},\"index\":2}}"),
                    _ => format!("{{\"delta\":{{\"reasoning_content\":{text}}}}}"),
                };
                format!("data: {{\"choices\":[{choice}]}}{line_end}{line_end}")
            })
            .collect::<Vec<String>>()
            .concat();
        let seen = follow(stream.as_bytes().chunks(size), false);
        let bytes: usize = texts.iter().map(String::len).sum();
        let (least, most) = if is_ascii { (bytes, bytes * 2) } else { (bytes, bytes) };
        let counted = usize::try_from(seen.counts.2).unwrap();
        prop_assert!((least..=most).contains(&counted), "{} in {}", counted, stream);
        prop_assert_eq!(relayed_tokens(stream.as_bytes(), true, None), seen.counts.2);
    }

    #[test]
    fn a_cut_stream_has_no_more_text_than_the_whole_and_less_by_what_is_missing(
        text in "[a-z]{1,20}", missing in 0..60_usize,
    ) {
        let event = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
        let stream = event.repeat(2);
        let end = stream.len() - missing.min(event.len());
        let cut = follow(std::iter::once(&stream.as_bytes()[..end]), true);
        let lost = missing.saturating_sub("\"}}]}\n\n".len()).min(text.len());
        prop_assert_eq!(cut.counts.2, (2 * text.len() - lost) as u64);
    }

    #[test]
    fn any_bytes_pass(stream in prop::collection::vec(any::<u8>(), 0..200), cut_usage: bool) {
        let whole = follow(std::iter::once(stream.as_slice()), cut_usage);
        prop_assert_eq!(&whole.relayed, &stream);
        prop_assert_eq!(&follow(stream.chunks(1), cut_usage), &whole);
    }
}

/// The same JSON in ASCII, as some servers write it.
fn escaped(json: &str) -> String {
    json.encode_utf16()
        .map(|unit| match u8::try_from(unit) {
            Ok(byte) if byte.is_ascii() => char::from(byte).to_string(),
            _ => format!("\\u{unit:04x}"),
        })
        .collect()
}

#[test]
fn usage_inside_a_choice_counts_where_there_is_one_choice() {
    let end = |index: &str, figures: &str| {
        format!(
            "data: {{\"choices\":[{{\"index\":{index},\"delta\":{{}},\"finish_reason\":\"stop\",\
             \"usage\":{{{figures}}}}}]}}\n\n"
        )
    };
    let usage = |stream: String| {
        let seen = follow(std::iter::once(stream.as_bytes()), true);
        assert_eq!(seen.relayed, stream.as_bytes());
        seen.usage.map(|usage| (usage.input_sum(), usage.output_sum()))
    };
    let one = end("0", r#""prompt_tokens":19,"completion_tokens":13,"total_tokens":32"#);
    assert_eq!(usage(one.clone()), Some((19, 13)));
    let lower = r#""prompt_tokens":1,"completion_tokens":1"#;
    assert_eq!(usage(one.clone() + &end("0", lower)), Some((19, 13)));
    assert_eq!(usage(end("0", lower) + &one), Some((19, 13)));
    // Each of several tells of its own output only.
    assert_eq!(usage(one.clone() + &end("1", lower)), None);
    assert_eq!(usage(end("1", lower)), None);
    let both =
        format!("{one}data: {{\"choices\":[{{\"index\":1}}],\"usage\":{{{lower}}}}}\n\n");
    assert_eq!(usage(both), Some((1, 1)));
    let void = end("0", r#""prompt_tokens":-1,"completion_tokens":1"#);
    assert_eq!(usage(void), None);
}

#[test]
fn an_event_too_large_to_be_looked_at_counts_whole() {
    let event = format!("data: {{\"x\":\"{}\"}}\n\n", "a".repeat(EVENT_BYTES_MAX));
    for size in [event.len(), 1000, 65_537] {
        let seen = follow(event.as_bytes().chunks(size), false);
        assert_eq!(seen.counts.2, event.len() as u64, "{size}");
        let cut = &event.as_bytes()[..event.len() - 2];
        assert_eq!(follow(cut.chunks(size), false).counts.2, cut.len() as u64, "{size}");
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
