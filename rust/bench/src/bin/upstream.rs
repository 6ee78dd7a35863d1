//! The fixed-answer upstream: one thread, one epoll, the same bytes for every request.
//!
//! Unary: a `chat.completion` of about a kilobyte with its length. Streamed, when the body says
//! `"stream": true`: chunked server-sent events, each in one write, as far apart as the body
//! wishes (`Wish`). `GET /_stats` answers with counts and this process's own CPU time; so do
//! `GET /_spin`, after which it never sleeps, and `GET /_sleep`, which ends that.
//! The address it listens on is printed as one line of JSON.

#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Instant;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};
use modelux_bench::answer::{Frames, Wish};
use modelux_bench::cpu;
use modelux_bench::flags::Flags;
use modelux_bench::request::{self, Parse};
use modelux_bench::spin;
use modelux_bench::timer::Timer;

const LISTENER: Token = Token(usize::MAX - 1);
const TIMER: Token = Token(usize::MAX - 2);
/// A request of a 100,000-token prompt fits; beyond, the connection is dropped.
const REQUEST_BYTES_MAX: usize = 64 * 1024 * 1024;
const READ_BYTES: usize = 16 * 1024;

/// What is left to send of a stream.
struct Streaming {
    wish: Wish,
    sent_events: u64,
}

struct Connection {
    socket: TcpStream,
    input: Vec<u8>,
    filled: usize,
    /// What the socket did not take; empty nearly always.
    output: Vec<u8>,
    answering: Option<Streaming>,
    /// An answer is due later, so no further request is read yet.
    is_waiting: bool,
    /// Tells a timer's owner from a later connection in the same place.
    epoch: u64,
}

#[derive(Default)]
struct Counts {
    connections: u64,
    requests: u64,
    events: u64,
    refused: u64,
    open: u64,
}

struct Upstream {
    started: Instant,
    frames: Frames,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    due: BinaryHeap<Reverse<(u64, usize, u64)>>,
    epoch: u64,
    counts: Counts,
    is_spinning: bool,
}

/// The connection is of no further use.
struct Gone;

impl From<io::Error> for Gone {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl Connection {
    /// Queue and send; what does not fit waits in `output`.
    fn send(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        if !self.output.is_empty() {
            self.output.extend_from_slice(bytes);
            return Ok(());
        }
        let mut sent = 0;
        while sent < bytes.len() {
            match self.socket.write(&bytes[sent..]) {
                Ok(0) => return Err(Gone),
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.output.extend_from_slice(&bytes[sent..]);
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Gone> {
        if self.output.is_empty() {
            return Ok(());
        }
        let held = std::mem::take(&mut self.output);
        self.send(&held)
    }

    /// Read what is there. Returns whether the peer has sent all that it will.
    fn fill(&mut self, is_read_closed: bool) -> Result<bool, Gone> {
        loop {
            if self.input.len() - self.filled < READ_BYTES / 2 {
                if self.input.len() >= REQUEST_BYTES_MAX {
                    return Err(Gone);
                }
                let longer = (self.input.len() * 2).max(READ_BYTES);
                self.input.resize(longer, 0);
            }
            let space = self.input.len() - self.filled;
            match self.socket.read(&mut self.input[self.filled..]) {
                Ok(0) => return Ok(true),
                Ok(count) => {
                    self.filled += count;
                    // A short read has emptied the socket: the next bytes are a new edge.
                    if count < space && !is_read_closed {
                        return Ok(false);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Upstream {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            frames: Frames::new(),
            connections: Vec::with_capacity(4096),
            free: Vec::with_capacity(4096),
            due: BinaryHeap::with_capacity(4096),
            epoch: 0,
            counts: Counts::default(),
            is_spinning: false,
        }
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn accept(&mut self, listener: &TcpListener, registry: &Registry) -> io::Result<()> {
        loop {
            let mut socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            socket.set_nodelay(true)?;
            let index = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let interest = Interest::READABLE | Interest::WRITABLE;
            registry.register(&mut socket, Token(index), interest)?;
            self.epoch += 1;
            self.counts.connections += 1;
            self.counts.open += 1;
            self.connections[index] = Some(Connection {
                socket,
                input: vec![0; READ_BYTES],
                filled: 0,
                output: Vec::new(),
                answering: None,
                is_waiting: false,
                epoch: self.epoch,
            });
        }
    }

    fn drop_connection(&mut self, index: usize) {
        if self.connections[index].take().is_some() {
            self.counts.open -= 1;
            self.free.push(index);
        }
    }

    fn ready(&mut self, index: usize, is_read_closed: bool) {
        let Some(mut connection) = self.connections[index].take() else {
            return;
        };
        let outcome = self.advance(&mut connection, index, is_read_closed);
        self.connections[index] = Some(connection);
        if outcome.is_err() {
            self.drop_connection(index);
        }
    }

    fn advance(
        &mut self,
        connection: &mut Connection,
        index: usize,
        is_read_closed: bool,
    ) -> Result<(), Gone> {
        connection.flush()?;
        let is_over = connection.fill(is_read_closed)?;
        self.answer_all(connection, index)?;
        if is_over { Err(Gone) } else { Ok(()) }
    }

    /// Answer every whole request in the buffer, in order.
    fn answer_all(&mut self, connection: &mut Connection, index: usize) -> Result<(), Gone> {
        let mut used = 0;
        while !connection.is_waiting && used < connection.filled {
            let rest = &connection.input[used..connection.filled];
            match request::parse(rest) {
                Parse::Partial => break,
                Parse::Refused => {
                    self.counts.refused += 1;
                    return Err(Gone);
                }
                Parse::Done { head_bytes, body_bytes } => {
                    let is_ours = rest.starts_with(b"GET /_");
                    if rest.starts_with(b"GET /_spin") {
                        self.is_spinning = true;
                    } else if rest.starts_with(b"GET /_sleep") {
                        self.is_spinning = false;
                    }
                    let wish = Wish::of(&rest[head_bytes..head_bytes + body_bytes]);
                    used += head_bytes + body_bytes;
                    if is_ours {
                        let stats = self.stats();
                        connection.send(stats.as_bytes())?;
                    } else {
                        self.counts.requests += 1;
                        self.begin(connection, index, wish)?;
                    }
                }
            }
        }
        connection.input.copy_within(used..connection.filled, 0);
        connection.filled -= used;
        Ok(())
    }

    fn begin(
        &mut self,
        connection: &mut Connection,
        index: usize,
        wish: Wish,
    ) -> Result<(), Gone> {
        if wish.stream {
            connection.answering = Some(Streaming { wish, sent_events: 0 });
        }
        if wish.first_us > 0 {
            connection.is_waiting = true;
            self.wake_after(connection, index, wish.first_us);
            return Ok(());
        }
        self.proceed(connection, index)
    }

    fn wake_after(&mut self, connection: &Connection, index: usize, wait_us: u64) {
        let at_us = self.now_us().saturating_add(wait_us);
        self.due.push(Reverse((at_us, index, connection.epoch)));
    }

    /// Send what is due on a connection: the unary answer, or events up to the next pause.
    fn proceed(&mut self, connection: &mut Connection, index: usize) -> Result<(), Gone> {
        let Some(mut streaming) = connection.answering.take() else {
            connection.is_waiting = false;
            return connection.send(&self.frames.unary);
        };
        let wish = streaming.wish;
        while streaming.sent_events < wish.events {
            connection.send(if streaming.sent_events == 0 {
                &self.frames.first
            } else {
                &self.frames.next
            })?;
            streaming.sent_events += 1;
            self.counts.events += 1;
            if wish.gap_us > 0 {
                self.wake_after(connection, index, wish.gap_us);
                connection.answering = Some(streaming);
                connection.is_waiting = true;
                return Ok(());
            }
        }
        connection.is_waiting = false;
        connection.send(if wish.include_usage {
            &self.frames.last_with_usage
        } else {
            &self.frames.last
        })
    }

    /// Serve the timers that are due, and set the next one.
    fn serve_due(&mut self, timer: &mut Timer) -> io::Result<()> {
        while let Some(&Reverse((at_us, index, epoch))) = self.due.peek() {
            let now_us = self.now_us();
            if at_us > now_us {
                return timer.arm(at_us.saturating_mul(1_000), now_us * 1_000);
            }
            self.due.pop();
            if self.connections[index].as_ref().is_some_and(|c| c.epoch == epoch) {
                self.wake(index);
            }
        }
        Ok(())
    }

    fn wake(&mut self, index: usize) {
        let Some(mut connection) = self.connections[index].take() else {
            return;
        };
        let outcome = self
            .proceed(&mut connection, index)
            .and_then(|()| self.answer_all(&mut connection, index));
        self.connections[index] = Some(connection);
        if outcome.is_err() {
            self.drop_connection(index);
        }
    }

    fn stats(&self) -> String {
        let Counts { connections, requests, events, refused, open } = self.counts;
        let cpu_ns = cpu::process_ns("self").unwrap_or(0);
        let body = format!(
            "{{\"connections\":{connections},\"open\":{open},\"requests\":{requests},\
             \"events\":{events},\"refused\":{refused},\"cpu_ns\":{cpu_ns}}}"
        );
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    }
}

fn serve() -> Result<(), String> {
    let flags = Flags::read(std::env::args().skip(1))?;
    flags.only(&["listen"])?;
    let address: SocketAddr = flags.value("listen", SocketAddr::from(([127, 0, 0, 1], 0)))?;
    run(address).map_err(|error| error.to_string())
}

fn run(address: SocketAddr) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(address)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut timer = Timer::new(poll.registry(), TIMER)?;
    let mut events = Events::with_capacity(1024);
    let mut upstream = Upstream::new();
    let mut stdout = io::stdout();
    writeln!(stdout, "{{\"listen\":\"{}\"}}", listener.local_addr()?)?;
    stdout.flush()?;
    loop {
        spin::wait(&mut poll, &mut events, upstream.is_spinning)?;
        for event in &events {
            match event.token() {
                LISTENER => upstream.accept(&listener, poll.registry())?,
                TIMER => timer.fired(),
                Token(index) => upstream.ready(index, event.is_read_closed()),
            }
        }
        upstream.serve_due(&mut timer)?;
    }
}

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = writeln!(io::stderr(), "upstream: {message}");
            ExitCode::FAILURE
        }
    }
}
