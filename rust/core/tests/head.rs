//! What heads are made of, what is refused, and that neither depends on how bytes are cut.

use modelux_core::head::{
    Framing, HEADERS_COUNT_MAX, HeadFault, Parse, RequestHead, ResponseHead, parse_request,
    parse_response,
};
use proptest::prelude::*;

const MAX: usize = 32 * 1024;

fn request(bytes: &[u8]) -> RequestHead<'_> {
    match parse_request(bytes, MAX) {
        Parse::Done(head) => head,
        other => panic!("{other:?}"),
    }
}

fn response(bytes: &[u8]) -> ResponseHead<'_> {
    match parse_response(bytes, MAX, false) {
        Parse::Done(head) => head,
        other => panic!("{other:?}"),
    }
}

/// The fault, and how many bytes it takes to see it.
fn refused(bytes: &[u8]) -> (HeadFault, usize) {
    for end in 0..=bytes.len() {
        match parse_request(&bytes[..end], MAX) {
            Parse::Partial => {}
            Parse::Refused(fault) => return (fault, end),
            Parse::Done(_) => panic!("accepted: {:?}", String::from_utf8_lossy(bytes)),
        }
    }
    panic!("no fault: {:?}", String::from_utf8_lossy(bytes));
}

#[test]
fn a_request_head_is_taken_apart() {
    let bytes = b"POST /v1/chat/completions?a=b?c HTTP/1.1\r\nHost: localhost:8080\r\nX_Odd:\t a b \t\r\n\
        Content-Length: 12\r\nEmpty:   \r\nConnection: close, X-Odd\r\nExpect: 100-continue\r\n\r\nbody";
    let head = request(bytes);
    assert_eq!(
        (head.method, head.path, head.query, head.minor_version),
        ("POST", "/v1/chat/completions", "a=b?c", 1)
    );
    assert_eq!(head.target, "/v1/chat/completions?a=b?c");
    assert_eq!(head.framing, Framing::Length(12));
    assert!(!head.keep_alive);
    assert!(head.expect_continue);
    assert_eq!(&bytes[head.head_bytes..], b"body");
    assert_eq!(head.headers_count(), 6);
    assert_eq!(head.header("x_odd"), Some(&b"a b"[..]));
    assert_eq!(head.header("empty"), Some(&b""[..]));
    assert_eq!(head.header("absent"), None);
    let names: Vec<_> = head.headers().map(|(name, _)| name).collect();
    assert_eq!(names, ["Host", "X_Odd", "Content-Length", "Empty", "Connection", "Expect"]);
    assert!(head.is_hop_by_hop("X-Odd"));
    assert!(head.is_hop_by_hop("transfer-encoding"));
    assert!(!head.is_hop_by_hop("X_Odd"));
}

#[test]
fn a_url_of_this_host_is_a_target_and_its_path_may_be_missing() {
    let head = request(b"GET HTTP://LocalHost:1?x HTTP/1.1\r\nHost: localhost:1\r\n\r\n");
    assert_eq!((head.path, head.query), ("/", "x"));
    let head = request(b"GET http://h/a/b HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((head.path, head.query), ("/a/b", ""));
}

#[test]
fn http_1_0_needs_no_host_and_closes_unless_it_asks_to_stay() {
    assert!(!request(b"GET / HTTP/1.0\r\n\r\n").keep_alive);
    assert!(request(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").keep_alive);
}

#[test]
fn one_empty_line_before_a_request_is_skipped_and_two_are_refused() {
    assert_eq!(request(b"\r\nGET / HTTP/1.0\r\n\r\n").head_bytes, 20);
    assert_eq!(refused(b"\r\n\r\nGET / HTTP/1.0\r\n\r\n"), (HeadFault::EmptyLine, 3));
}

#[test]
fn a_fault_is_seen_with_the_byte_that_makes_it() {
    let host = "Host: h\r\n";
    for (fault, seen, rest) in [
        (HeadFault::Method, "\x16".into(), "\x03\x01"),
        (HeadFault::Method, " ".into(), "GET / HTTP/1.1"),
        (HeadFault::Connect, "CONNECT ".into(), "h:443 HTTP/1.1\r\n"),
        (HeadFault::Http2Preface, "PRI ".into(), "* HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (HeadFault::BareLf, "GET / HTTP/1.1\n".into(), host),
        (HeadFault::BareLf, "\n".into(), "GET / HTTP/1.1\r\n\r\n"),
        (HeadFault::VersionMissing, "GET /\r".into(), "\n"),
        (HeadFault::Version, "GET / HTTP/2".into(), ".0\r\n\r\n"),
        (HeadFault::Version, "GET / HTTP/1.2".into(), "\r\n\r\n"),
        (HeadFault::Version, "GET / HTTP/1.10".into(), "\r\n\r\n"),
        (HeadFault::StartLine, "GET / HTTP/1.1 ".into(), "\r\n\r\n"),
        (HeadFault::TargetEmpty, "GET  ".into(), "/ HTTP/1.1\r\n"),
        (HeadFault::TargetFragment, "GET /#".into(), "a HTTP/1.1\r\n"),
        (HeadFault::Target, "GET /\x7f".into(), " HTTP/1.1\r\n"),
        (HeadFault::Target, "GET /\t".into(), " HTTP/1.1\r\n"),
        (HeadFault::TargetAsterisk, "GET * ".into(), "HTTP/1.1\r\n"),
        (HeadFault::TargetForm, "GET a/b ".into(), "HTTP/1.1\r\n"),
        (HeadFault::TargetForm, "GET http:/// ".into(), "HTTP/1.1\r\n"),
        (HeadFault::TargetForm, "GET http://u@h/ ".into(), "HTTP/1.1\r\n"),
        (HeadFault::LineFolded, format!("GET / HTTP/1.1\r\n{host} "), "folded\r\n\r\n"),
        (HeadFault::SpaceBeforeColon, format!("GET / HTTP/1.1\r\n{host}A "), ": b\r\n\r\n"),
        (HeadFault::Name, format!("GET / HTTP/1.1\r\n{host}A\r"), "\n\r\n"),
        (HeadFault::Name, format!("GET / HTTP/1.1\r\n{host}:"), " b\r\n\r\n"),
        (HeadFault::Value, format!("GET / HTTP/1.1\r\n{host}A: \0"), "\r\n\r\n"),
        (HeadFault::Value, format!("GET / HTTP/1.1\r\n{host}A: b\x7f"), "\r\n\r\n"),
        (HeadFault::BareCr, format!("GET / HTTP/1.1\r\n{host}A: b\rc"), "\r\n\r\n"),
        (HeadFault::BareLf, format!("GET / HTTP/1.1\r\n{host}A: b\n"), "\r\n"),
        (HeadFault::BareLf, format!("GET / HTTP/1.1\r\n{host}\n"), "body"),
        (HeadFault::BareCr, format!("GET / HTTP/1.1\r\n{host}\rb"), "ody"),
        (HeadFault::HostTwice, format!("GET / HTTP/1.1\r\n{host}{host}"), "\r\n"),
        (HeadFault::HostMissing, "GET / HTTP/1.1\r\n\r\n".into(), ""),
    ] {
        let whole = seen.clone() + rest;
        assert_eq!(refused(whole.as_bytes()), (fault, seen.len()), "{whole:?}");
    }
    assert_eq!(refused("GET /\u{e4} HTTP/1.1\r\n".as_bytes()), (HeadFault::Target, 6));
}

#[test]
fn a_host_is_a_name_with_an_optional_port() {
    for host in ["h", "a.b-c_d", "127.0.0.1:80", "[::1]", "[2001:db8::1]:65535"] {
        let bytes = format!("GET / HTTP/1.1\r\nhost:{host} \r\n\r\n");
        assert_eq!(request(bytes.as_bytes()).header("host"), Some(host.as_bytes()));
    }
    for host in [
        "", "h,i", "h/p", "u@h", "h:", "h:x", "h:65536", "h:000080", ":80", "[::1", "[::1]x",
        "[h]", "h i", "h%41", "h\u{e4}", "[::1]:", "*",
    ] {
        let bytes = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(refused(bytes.as_bytes()).0, HeadFault::Host, "{host:?}");
    }
}

#[test]
fn the_framing_fields_leave_no_choice() {
    for (fields, fault) in [
        ("Content-Length: 1\r\nContent-Length: 1\r\n", HeadFault::LengthTwice),
        ("Content-Length: 1\r\nContent-Length: 2\r\n", HeadFault::LengthTwice),
        ("Content-Length: 1, 1\r\n", HeadFault::Length),
        ("Content-Length: +1\r\n", HeadFault::Length),
        ("Content-Length: -1\r\n", HeadFault::Length),
        ("Content-Length: 1 2\r\n", HeadFault::Length),
        ("Content-Length: 0x1\r\n", HeadFault::Length),
        ("Content-Length:\r\n", HeadFault::Length),
        ("Content-Length: 9007199254740993\r\n", HeadFault::Length),
        ("Content-Length: 99999999999999999999999\r\n", HeadFault::Length),
        ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", HeadFault::LengthWithCoding),
        ("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", HeadFault::LengthWithCoding),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            HeadFault::CodingTwice,
        ),
        ("Transfer-Encoding: chunked, chunked\r\n", HeadFault::Coding),
        ("Transfer-Encoding: gzip, chunked\r\n", HeadFault::Coding),
        ("Transfer-Encoding: identity\r\n", HeadFault::Coding),
        ("Transfer-Encoding: chunked\t\r\n", HeadFault::Coding),
        ("Transfer-Encoding: chunked \t \r\n", HeadFault::Coding),
        ("Transfer-Encoding: \x0bchunked\r\n", HeadFault::Value),
        ("Transfer-Encoding:\r\n", HeadFault::Coding),
    ] {
        let bytes = format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        assert_eq!(refused(bytes.as_bytes()).0, fault, "{fields:?}");
    }
    let bytes = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(refused(bytes).0, HeadFault::CodingVersion);
    let bytes = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(refused(bytes).0.status(), 400);
    let bytes = b"POST / HTTP/1.1\r\nHost: h\r\ntransfer-encoding: CHUNKED\r\n\r\n";
    assert_eq!(request(bytes).framing, Framing::Chunked);
    let bytes = b"POST / HTTP/1.0\r\nContent-Length: 9007199254740992\r\n\r\n";
    assert_eq!(request(bytes).framing, Framing::Length(1 << 53));
}

#[test]
fn the_continue_that_nobody_needs_is_not_announced() {
    for (version, fields) in [
        (1, "Expect: 100-continue\r\n"),
        (1, "Expect: 100-continue\r\nContent-Length: 0\r\n"),
        (1, "Expect: something\r\nContent-Length: 5\r\n"),
        (0, "Expect: 100-continue\r\nContent-Length: 5\r\n"),
    ] {
        let bytes = format!("POST / HTTP/1.{version}\r\nHost: h\r\n{fields}\r\n");
        assert!(!request(bytes.as_bytes()).expect_continue, "{bytes:?}");
    }
}

#[test]
fn the_limits_on_size_and_count_are_exact() {
    let fields = |count: usize| "A: b\r\n".repeat(count);
    let bytes = format!("GET / HTTP/1.0\r\n{}\r\n", fields(HEADERS_COUNT_MAX));
    assert_eq!(request(bytes.as_bytes()).headers_count(), HEADERS_COUNT_MAX);
    assert!(matches!(parse_request(bytes.as_bytes(), bytes.len()), Parse::Done(_)));
    assert!(matches!(
        parse_request(bytes.as_bytes(), bytes.len() - 1),
        Parse::Refused(HeadFault::HeadTooLarge)
    ));
    let bytes = format!("GET / HTTP/1.0\r\n{}\r\n", fields(HEADERS_COUNT_MAX + 1));
    let (fault, seen) = refused(bytes.as_bytes());
    assert_eq!((fault, fault.status()), (HeadFault::TooManyFields, 431));
    assert_eq!(seen, bytes.len() - "A: b\r\n\r\n".len() + 1);
    for (length, accepted) in [(256, true), (257, false)] {
        let bytes = format!("GET / HTTP/1.0\r\n{}: b\r\n\r\n", "n".repeat(length));
        assert_eq!(matches!(parse_request(bytes.as_bytes(), MAX), Parse::Done(_)), accepted);
    }
    let endless = [b'a'; 64];
    assert!(matches!(
        parse_request(&[b"GET /", &endless[..]].concat(), 64),
        Parse::Refused(HeadFault::HeadTooLarge)
    ));
}

#[test]
fn the_body_of_a_response_ends_as_status_method_and_fields_say() {
    let framing = |start: &str, fields: &str, to_head: bool| {
        let bytes = format!("{start}\r\n{fields}\r\n");
        match parse_response(bytes.as_bytes(), MAX, to_head) {
            Parse::Done(head) => (head.framing, head.keep_alive),
            other => panic!("{other:?}"),
        }
    };
    let length = "Content-Length: 7\r\n";
    assert_eq!(framing("HTTP/1.1 200 OK", length, false), (Framing::Length(7), true));
    assert_eq!(framing("HTTP/1.1 200 OK", length, true), (Framing::None, true));
    assert_eq!(framing("HTTP/1.1 204", length, false), (Framing::None, true));
    assert_eq!(framing("HTTP/1.1 304 ", length, false), (Framing::None, true));
    assert_eq!(framing("HTTP/1.1 100 Continue", "", false), (Framing::None, true));
    assert_eq!(framing("HTTP/1.1 200 OK", "", false), (Framing::UntilClose, false));
    assert_eq!(framing("HTTP/1.0 200 OK", length, false), (Framing::Length(7), false));
    let chunked = "Transfer-Encoding: chunked\r\n";
    assert_eq!(framing("HTTP/1.1 200 OK", chunked, false), (Framing::Chunked, true));
}

#[test]
fn a_status_line_may_lack_its_reason_or_hold_one_in_any_script() {
    for (line, reason) in [
        ("HTTP/1.1 200", ""),
        ("HTTP/1.1 200 ", ""),
        ("HTTP/1.1 200 All right\t!", "All right\t!"),
        ("HTTP/1.1 200 schön", "schön"),
    ] {
        let bytes = format!("{line}\r\nHost: u@h\r\n\r\nrest");
        let head = response(bytes.as_bytes());
        assert_eq!((head.status, head.reason, head.head_bytes), (200, reason, bytes.len() - 4));
    }
}

#[test]
fn a_broken_response_head_is_refused() {
    for (bytes, fault) in [
        (&b"garbage\r\n\r\n"[..], HeadFault::Version),
        (b"\r\nHTTP/1.1 200 OK\r\n\r\n", HeadFault::Version),
        (b"HTTP/2 200\r\n\r\n", HeadFault::Version),
        (b"HTTP/1.1\r\n\r\n", HeadFault::Version),
        (b"HTTP/1.1 099 No\r\n\r\n", HeadFault::StatusCode),
        (b"HTTP/1.1 600 No\r\n\r\n", HeadFault::StatusCode),
        (b"HTTP/1.1 20 OK\r\n\r\n", HeadFault::StatusCode),
        (b"HTTP/1.1 2000 OK\r\n\r\n", HeadFault::StatusCode),
        (b"HTTP/1.1 200 O\x00K\r\n\r\n", HeadFault::Reason),
        (b"HTTP/1.1 200 OK\n\r\n", HeadFault::BareLf),
        (b"HTTP/1.1 200\n\r\n", HeadFault::BareLf),
        (b"HTTP/1.1 200 sch\xc3\xb6n\n\r\n", HeadFault::BareLf),
        (b"HTTP/1.1 200 O\rK\r\n\r\n", HeadFault::BareCr),
        (b"HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n", HeadFault::Value),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", HeadFault::LineFolded),
        (b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", HeadFault::SpaceBeforeColon),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", HeadFault::Length),
        (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", HeadFault::CodingVersion),
    ] {
        match parse_response(bytes, MAX, false) {
            Parse::Refused(found) => assert_eq!(found, fault, "{bytes:?}"),
            other => panic!("{other:?} for {bytes:?}"),
        }
    }
}

#[test]
fn every_fault_has_its_own_name_and_text_and_a_status_of_two() {
    let mut names: Vec<_> = HeadFault::ALL.iter().map(|fault| fault.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), HeadFault::ALL.len());
    for fault in HeadFault::ALL {
        assert!(matches!(fault.status(), 400 | 431));
        assert!(!fault.text().is_empty() && !fault.text().ends_with('.'));
    }
}

/// Pieces that matter, so that most sums of them get past the first line.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => prop::sample::select(vec![
            "Host: h\r\n", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "A: b\r\n",
            "Connection: close\r\n", "Accept: */*\r\n", "X-Empty:\r\n", "X-Space:  \t\r\n",
            "X: \t b \t\r\n",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        2 => prop::sample::select(vec![
            "\r\n", "\n", "\r", " ", ":", "\0", "\t", "Host: h\n", "Content-Length: 5\n", "A : b\r\n",
            " b\r\n", "A\r\n", "\u{e4}", "h", ",", "Content-Length: 6\r\n", "5", "-", "HTTP/1.1",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn request_bytes() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "POST /v1/x?y=z HTTP/1.1\r\n",
        "GET / HTTP/1.0\r\n",
        "\r\nGET / HTTP/1.1\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        "GET http://h/ HTTP/1.1\r\n",
        "GET / HTTP/1.1\n",
        "GET /",
        "\n\nGET / HTTP/1.1\r\n",
        "\r\n\r\nGET / HTTP/1.1\r\n",
        "M-SEARCH / HTTP/1.1\r\n",
        "",
    ]);
    (line, pieces(), prop::sample::select(vec!["\r\n", "\r\nbody", "\n", ""]))
        .prop_map(|(line, fields, end)| [line.as_bytes(), &fields, end.as_bytes()].concat())
}

fn response_bytes() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(vec![
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.0 200 OK\r\n",
        "HTTP/1.1 204\r\n",
        "HTTP/1.1 100 \r\n",
        "HTTP/1.1 500 sch\u{f6}n\r\n",
        "HTTP/1.1 200 OK\n",
        "HTTP/1.1 20",
        "\r\nHTTP/1.1 200 OK\r\n",
        "",
    ]);
    (line, pieces(), prop::sample::select(vec!["\r\n", "\r\nbody", "\n", ""]))
        .prop_map(|(line, fields, end)| [line.as_bytes(), &fields, end.as_bytes()].concat())
}

/// A verdict with everything that a caller can see, as text.
fn request_verdict(bytes: &[u8], max: usize) -> Result<String, Option<HeadFault>> {
    match parse_request(bytes, max) {
        Parse::Done(head) => Ok(format!(
            "{} {:?} {:?} {:?}",
            head.head_bytes,
            (head.method, head.target, head.path, head.query, head.minor_version),
            (head.framing, head.keep_alive, head.expect_continue),
            head.headers().collect::<Vec<_>>(),
        )),
        Parse::Partial => Err(None),
        Parse::Refused(fault) => Err(Some(fault)),
    }
}

fn response_verdict(bytes: &[u8], max: usize) -> Result<String, Option<HeadFault>> {
    match parse_response(bytes, max, false) {
        Parse::Done(head) => Ok(format!(
            "{} {:?} {:?} {:?}",
            head.head_bytes,
            (head.status, head.reason, head.minor_version),
            (head.framing, head.keep_alive),
            head.headers().collect::<Vec<_>>(),
        )),
        Parse::Partial => Err(None),
        Parse::Refused(fault) => Err(Some(fault)),
    }
}

type Verdict = fn(&[u8], usize) -> Result<String, Option<HeadFault>>;

/// Once a prefix has a verdict, each longer one has the same.
fn assert_cuts_do_not_matter(bytes: &[u8], max: usize, verdict: Verdict) {
    let mut settled = None;
    for end in 0..=bytes.len() {
        let found = verdict(&bytes[..end], max);
        match &settled {
            Some(settled) => assert_eq!(settled, &found, "at {end} of {bytes:?}"),
            None if found != Err(None) => settled = Some(found),
            None => {}
        }
    }
    // Only where the fast and the slow pass disagree.
    assert_ne!(settled, Some(Err(Some(HeadFault::Malformed))), "{bytes:?}");
}

proptest! {
    #[test]
    fn the_verdict_on_a_request_does_not_depend_on_how_it_is_cut(
        bytes in request_bytes(), max in prop_oneof![Just(MAX), 0..200_usize],
    ) {
        assert_cuts_do_not_matter(&bytes, max, request_verdict);
    }

    #[test]
    fn the_verdict_on_a_response_does_not_depend_on_how_it_is_cut(
        bytes in response_bytes(), max in prop_oneof![Just(MAX), 0..200_usize],
    ) {
        assert_cuts_do_not_matter(&bytes, max, response_verdict);
    }

    #[test]
    fn any_bytes_at_all_have_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        assert_cuts_do_not_matter(&bytes, MAX, request_verdict);
        assert_cuts_do_not_matter(&bytes, MAX, response_verdict);
    }

    #[test]
    fn a_changed_byte_never_hides_a_disagreement(
        place in 0..200_usize, byte in any::<u8>(),
    ) {
        let mut bytes = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:8080\r\n\
            Authorization: Bearer x\r\nContent-Length: 10\r\nConnection: keep-alive\r\n\
            X-Empty:\r\nX-Spaces: \t \r\n\r\n0123456789".to_vec();
        let last = bytes.len() - 1;
        bytes[place.min(last)] = byte;
        assert_cuts_do_not_matter(&bytes, MAX, request_verdict);
    }

    #[test]
    fn every_line_of_an_accepted_head_ends_in_crlf(bytes in request_bytes()) {
        if let Parse::Done(head) = parse_request(&bytes, MAX) {
            let lines = &bytes[..head.head_bytes];
            for (at, byte) in lines.iter().enumerate() {
                prop_assert!(*byte != b'\n' || lines[at - 1] == b'\r');
                prop_assert!(*byte != b'\r' || lines[at + 1] == b'\n');
            }
        }
    }
}
