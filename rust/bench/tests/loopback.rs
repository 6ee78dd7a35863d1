//! Both programs as processes, one against the other.

#![expect(clippy::unwrap_used, reason = "a test that unwraps names the line that failed")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

struct Upstream {
    child: Child,
    address: String,
}

impl Upstream {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_upstream"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.split('"').nth(3).unwrap().to_owned();
        Self { child, address }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn body_file(name: &str, body: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("loadgen-{}-{name}.json", std::process::id()));
    std::fs::write(&path, body).unwrap();
    path
}

/// Run the load generator for a moment and return what it printed.
fn load(to: &str, name: &str, body: &str, more: &[&str]) -> String {
    let path = body_file(name, body);
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["--to", to, "--body", path.to_str().unwrap()])
        .args(["--warmup-s", "0.02", "--duration-s", "0.1", "--drain-s", "5"])
        .args(more)
        .output()
        .unwrap();
    std::fs::remove_file(path).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The whole number after `"name":`.
fn number(json: &str, name: &str) -> u64 {
    let key = format!("\"{name}\":");
    let rest = &json[json.find(&key).unwrap() + key.len()..];
    rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap()].parse().unwrap()
}

#[test]
fn unary_answers_are_right_in_closed_and_in_open_loop() {
    let upstream = Upstream::start();
    for more in [&["--connections", "4"][..], &["--rate", "500", "--connections", "4"]] {
        let json = load(&upstream.address, "unary", r#"{"model":"m"}"#, more);
        assert!(number(&json, "answers") > 10, "{json}");
        assert_eq!(number(&json, "wrong"), 0, "{json}");
        assert_eq!(number(&json, "unfinished"), 0, "{json}");
    }
}

#[test]
fn streams_have_all_their_events_with_and_without_pauses() {
    let upstream = Upstream::start();
    for settings in ["events=5", "events=5 gap_us=1000", "events=3 gap_us=500 first_us=2000"] {
        let body = format!(
            r#"{{"stream":true,"stream_options":{{"include_usage":true}},"bench":"{settings}"}}"#
        );
        let json = load(&upstream.address, "stream", &body, &["--connections", "3"]);
        assert!(number(&json, "answers") > 3, "{json}");
        assert_eq!(number(&json, "wrong"), 0, "{json}");
    }
}

#[test]
fn a_server_that_says_something_else_is_counted_as_wrong() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        // Ends with the test process: the load generator reconnects after each answer.
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            let _ = socket.read(&mut [0; 4096]);
            let _ = socket.write_all(
                b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno",
            );
        }
    });
    let json = load(&address, "wrong", r#"{"model":"m"}"#, &["--rate", "200"]);
    assert!(number(&json, "wrong") > 0, "{json}");
    assert_eq!(number(&json, "wrong"), number(&json, "answers"), "{json}");
}

#[test]
fn the_upstream_counts_what_it_served() {
    let upstream = Upstream::start();
    let json = load(&upstream.address, "counted", r#"{"model":"m"}"#, &["--rate", "300"]);
    let mut socket = std::net::TcpStream::connect(&upstream.address).unwrap();
    socket.write_all(b"GET /_stats HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let mut stats = [0; 1024];
    let count = socket.read(&mut stats).unwrap();
    let stats = String::from_utf8_lossy(&stats[..count]).into_owned();
    assert_eq!(number(&stats, "requests"), number(&json, "answers"), "{stats} {json}");
}
