//! The load generator: one thread, one epoll, requests at their own times.
//!
//! With `--rate` it is open-loop: Poisson arrivals that do not wait for answers, each latency
//! counted from the instant the request was *meant* to be sent, so a stall is seen by everybody
//! who would have met it. Without, each connection sends its next request when its answer has
//! come (closed-loop), which measures CPU and throughput, not latency.
//!
//! Each answer is compared with what the fixed-answer upstream sends, byte for byte. The
//! result, with whole histograms, is one line of JSON.
//!
//! ```text
//!   start ──── warm-up ────► window opens ──── duration ────► window closes ── drain ──► print
//!                            CPU of --watch PIDs read         read again
//! ```

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Registry, Token};
use modelux_bench::answer::{Check, Wish};
use modelux_bench::cpu;
use modelux_bench::flags::Flags;
use modelux_bench::histogram::Latencies;
use modelux_bench::poisson::Poisson;
use modelux_bench::response::Response;
use modelux_bench::spin;
use modelux_bench::timer::Timer;

const TIMER: Token = Token(usize::MAX - 1);
const READ_BYTES: usize = 64 * 1024;
const NS_PER_S: f64 = 1e9;
/// Reconnects after which the run is given up: the server does not serve.
const RECONNECTS_MAX: u64 = 10_000;

const USAGE: &str = "loadgen --to HOST:PORT --body FILE [--path PATH] [--header 'Name: value']…
  [--rate PER_S] [--connections N] [--warmup-s S] [--duration-s S] [--drain-s S] [--seed N]
  [--stagger-us US] [--watch PID]… [--idle] [--spin]
Without --rate closed-loop; --idle holds one stream open on each connection until stdin ends;
--spin never sleeps, so that nobody pays for waking us.";

struct Options {
    to: SocketAddr,
    request: Vec<u8>,
    wish: Wish,
    rate: f64,
    connections: usize,
    warmup_ns: u64,
    duration_ns: u64,
    drain_ns: u64,
    seed: u64,
    stagger_ns: u64,
    watch: Vec<String>,
    is_idle: bool,
    is_spinning: bool,
}

impl Options {
    fn read(flags: &Flags) -> Result<Self, String> {
        flags.only(&[
            "to",
            "body",
            "path",
            "header",
            "rate",
            "connections",
            "warmup-s",
            "duration-s",
            "drain-s",
            "seed",
            "stagger-us",
            "watch",
            "idle",
            "spin",
        ])?;
        let to: String = flags.value("to", String::new())?;
        let address = to.parse().map_err(|_| format!("`--to {to}` is no address\n{USAGE}"))?;
        let file: String = flags.value("body", String::new())?;
        let body = std::fs::read(&file).map_err(|error| format!("`--body {file}`: {error}"))?;
        let path: String = flags.value("path", "/v1/chat/completions".to_owned())?;
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nhost: {to}\r\ncontent-type: application/json\r\n\
             accept: application/json\r\nuser-agent: loadgen\r\ncontent-length: {}\r\n",
            body.len()
        );
        for header in flags.all("header") {
            request.push_str(header);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        let mut request = request.into_bytes();
        request.extend_from_slice(&body);
        Ok(Self {
            to: address,
            request,
            wish: Wish::of(&body),
            rate: flags.value("rate", 0.0)?,
            connections: flags.value("connections", 1)?,
            warmup_ns: seconds(flags.value("warmup-s", 0.5)?),
            duration_ns: seconds(flags.value("duration-s", 2.0)?),
            drain_ns: seconds(flags.value("drain-s", 10.0)?),
            seed: flags.value("seed", 1)?,
            stagger_ns: flags.value("stagger-us", 0_u64)? * 1_000,
            watch: flags.all("watch").map(str::to_owned).collect(),
            is_idle: flags.has("idle"),
            is_spinning: flags.has("spin"),
        })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "flags give a few seconds; a negative one becomes 0"
)]
fn seconds(value: f64) -> u64 {
    (value * NS_PER_S) as u64
}

/// The request that a connection is busy with.
struct Exchange {
    intended_ns: u64,
    sent_ns: u64,
    unsent_from: usize,
    first_ns: Option<u64>,
    last_event_ns: u64,
    check: Check,
}

struct Connection {
    socket: TcpStream,
    response: Response,
    exchange: Option<Exchange>,
}

/// Which answers and events are counted: those of the window.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Warmup,
    Window,
    Drain,
}

struct Figures {
    latency: Latencies,
    send_lag: Latencies,
    ttft: Latencies,
    gap: Latencies,
    answers: u64,
    answers_in_window: u64,
    events_in_window: u64,
    reads_in_window: u64,
    wrong: u64,
    first_wrong: String,
    reconnects: u64,
    statuses_not_200: u64,
}

impl Figures {
    fn new() -> Result<Self, String> {
        let make = || Latencies::new().map_err(|error| error.to_string());
        Ok(Self {
            latency: make()?,
            send_lag: make()?,
            ttft: make()?,
            gap: make()?,
            answers: 0,
            answers_in_window: 0,
            events_in_window: 0,
            reads_in_window: 0,
            wrong: 0,
            first_wrong: String::new(),
            reconnects: 0,
            statuses_not_200: 0,
        })
    }
}

struct Load {
    options: Options,
    started: Instant,
    connections: Vec<Connection>,
    idle: VecDeque<usize>,
    /// Arrivals that found no free connection, by their intended time.
    waiting: VecDeque<u64>,
    arrivals: Option<Poisson>,
    next_ns: Option<u64>,
    staggered: u64,
    phase: Phase,
    figures: Figures,
    buffer: Vec<u8>,
    watched: Vec<[Option<u64>; 2]>,
    own_cpu_ns: [u64; 2],
    window_ns: [u64; 2],
}

/// The exchange is over, or its connection is.
enum Turn {
    Going,
    Answered,
    Broken(String),
}

impl Load {
    fn new(options: Options) -> Result<Self, String> {
        let arrivals = (options.rate > 0.0).then(|| Poisson::new(options.rate, options.seed));
        let watched = vec![[None, None]; options.watch.len()];
        let mut load = Self {
            started: Instant::now(),
            connections: Vec::with_capacity(options.connections),
            idle: VecDeque::with_capacity(options.connections),
            waiting: VecDeque::with_capacity(65_536),
            arrivals,
            next_ns: None,
            staggered: 0,
            phase: Phase::Warmup,
            figures: Figures::new()?,
            buffer: vec![0; READ_BYTES],
            watched,
            own_cpu_ns: [0, 0],
            window_ns: [0, 0],
            options,
        };
        load.next_ns = load.arrival_after();
        Ok(load)
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The next intended send: of the Poisson process, or the first one of each connection.
    fn arrival_after(&mut self) -> Option<u64> {
        if let Some(arrivals) = &mut self.arrivals {
            return arrivals.next();
        }
        let at_ns = self.staggered * self.options.stagger_ns;
        self.staggered += 1;
        (self.staggered <= self.options.connections as u64).then_some(at_ns)
    }

    fn connect(&self, registry: &Registry, index: usize) -> io::Result<TcpStream> {
        let socket = std::net::TcpStream::connect(self.options.to)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let mut socket = TcpStream::from_std(socket);
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut socket, Token(index), interest)?;
        Ok(socket)
    }

    fn connect_all(&mut self, registry: &Registry) -> io::Result<()> {
        for index in 0..self.options.connections {
            let socket = self.connect(registry, index)?;
            self.connections.push(Connection {
                socket,
                response: Response::new(),
                exchange: None,
            });
            self.idle.push_back(index);
        }
        self.started = Instant::now();
        Ok(())
    }

    /// Begin what is due: move arrivals to free connections, or let them wait.
    fn serve_due(&mut self, registry: &Registry) -> io::Result<()> {
        let now_ns = self.now_ns();
        while let Some(at_ns) = self.next_ns
            && at_ns <= now_ns
            && self.phase != Phase::Drain
        {
            self.waiting.push_back(at_ns);
            self.next_ns = self.arrival_after();
        }
        while let Some(&intended_ns) = self.waiting.front() {
            let Some(index) = self.idle.pop_front() else {
                break;
            };
            self.waiting.pop_front();
            self.begin(registry, index, intended_ns)?;
        }
        Ok(())
    }

    fn begin(&mut self, registry: &Registry, index: usize, intended_ns: u64) -> io::Result<()> {
        let sent_ns = self.now_ns();
        if self.phase == Phase::Window {
            self.figures.send_lag.record(sent_ns.saturating_sub(intended_ns).max(1));
        }
        let connection = &mut self.connections[index];
        connection.response.reset();
        connection.exchange = Some(Exchange {
            intended_ns,
            sent_ns,
            unsent_from: 0,
            first_ns: None,
            last_event_ns: 0,
            check: Check::new(self.options.wish),
        });
        if let Err(error) = self.send(index) {
            self.broken(registry, index, &format!("send: {error}"))?;
        }
        Ok(())
    }

    fn send(&mut self, index: usize) -> io::Result<()> {
        let connection = &mut self.connections[index];
        let Some(exchange) = &mut connection.exchange else {
            return Ok(());
        };
        while exchange.unsent_from < self.options.request.len() {
            match connection.socket.write(&self.options.request[exchange.unsent_from..]) {
                Ok(count) => exchange.unsent_from += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn ready(
        &mut self,
        registry: &Registry,
        index: usize,
        is_read_closed: bool,
    ) -> io::Result<()> {
        if let Err(error) = self.send(index) {
            return self.broken(registry, index, &format!("send: {error}"));
        }
        match self.receive(index, is_read_closed) {
            Turn::Going => Ok(()),
            Turn::Answered => self.answered(registry, index),
            Turn::Broken(why) => self.broken(registry, index, &why),
        }
    }

    fn receive(&mut self, index: usize, is_read_closed: bool) -> Turn {
        loop {
            let read = self.connections[index].socket.read(&mut self.buffer);
            match read {
                Ok(0) => return Turn::Broken("closed by the server".to_owned()),
                Ok(count) => {
                    match self.take(index, count) {
                        Turn::Going => {}
                        turn => return turn,
                    }
                    if count < self.buffer.len() && !is_read_closed {
                        return Turn::Going;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Turn::Going,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Turn::Broken(error.to_string()),
            }
        }
    }

    /// Take `count` bytes of the buffer as the next ones of the answer.
    fn take(&mut self, index: usize, count: usize) -> Turn {
        let now_ns = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let connection = &mut self.connections[index];
        let Some(exchange) = &mut connection.exchange else {
            return Turn::Broken("bytes that nobody asked for".to_owned());
        };
        let bytes = &self.buffer[..count];
        let events_before = exchange.check.events();
        let check = &mut exchange.check;
        let used = match connection.response.feed(bytes, |payload| check.feed(payload)) {
            Ok(used) => used,
            Err(fault) => return Turn::Broken(format!("{fault:?}")),
        };
        let events = exchange.check.events() - events_before;
        if events > 0 {
            let is_counted = self.phase == Phase::Window;
            if is_counted {
                self.figures.events_in_window += events;
                self.figures.reads_in_window += 1;
            }
            if exchange.first_ns.is_none() {
                exchange.first_ns = Some(now_ns);
                if is_counted {
                    let ttft_ns = now_ns.saturating_sub(exchange.intended_ns);
                    self.figures.ttft.record(ttft_ns.max(1));
                }
            } else if is_counted {
                self.figures.gap.record((now_ns - exchange.last_event_ns).max(1));
            }
            exchange.last_event_ns = now_ns;
        }
        if !connection.response.is_done() {
            return Turn::Going;
        }
        if used < count {
            return Turn::Broken("bytes after the end of the answer".to_owned());
        }
        Turn::Answered
    }

    fn answered(&mut self, registry: &Registry, index: usize) -> io::Result<()> {
        let now_ns = self.now_ns();
        let is_closed_loop = self.arrivals.is_none();
        let connection = &mut self.connections[index];
        let status = connection.response.status();
        let is_last = connection.response.is_last();
        if let Some(exchange) = connection.exchange.take() {
            self.figures.answers += 1;
            if status != 200 || !exchange.check.is_complete() {
                self.figures.wrong += 1;
                self.figures.statuses_not_200 += u64::from(status != 200);
                if self.figures.first_wrong.is_empty() {
                    self.figures.first_wrong = format!("status {status}, {:?}", exchange.check);
                }
            }
            if self.phase == Phase::Window {
                self.figures.answers_in_window += 1;
            }
            // Counted by when it was meant to be sent: an answer that the window's end finds
            // unfinished must not be lost, or the slowest would be.
            let from_ns = if is_closed_loop { exchange.sent_ns } else { exchange.intended_ns };
            let opened_ns = self.options.warmup_ns;
            if (opened_ns..opened_ns + self.options.duration_ns).contains(&from_ns) {
                self.figures.latency.record(now_ns.saturating_sub(from_ns).max(1));
            }
        }
        if is_last {
            self.reconnect(registry, index)?;
        }
        if is_closed_loop && self.phase != Phase::Drain {
            return self.begin(registry, index, now_ns);
        }
        self.idle.push_back(index);
        Ok(())
    }

    fn broken(&mut self, registry: &Registry, index: usize, why: &str) -> io::Result<()> {
        if let Some(exchange) = self.connections[index].exchange.take() {
            self.figures.wrong += 1;
            if self.figures.first_wrong.is_empty() {
                self.figures.first_wrong = format!("{why}, {:?}", exchange.check);
            }
            self.idle.push_back(index);
            if self.arrivals.is_none() && self.phase != Phase::Drain {
                let now_ns = self.now_ns();
                self.waiting.push_back(now_ns);
            }
        }
        self.reconnect(registry, index)
    }

    fn reconnect(&mut self, registry: &Registry, index: usize) -> io::Result<()> {
        self.figures.reconnects += 1;
        if self.figures.reconnects > RECONNECTS_MAX {
            return Err(io::Error::other(format!(
                "{RECONNECTS_MAX} connections broke; first: {}",
                self.figures.first_wrong
            )));
        }
        self.connections[index].socket = self.connect(registry, index)?;
        Ok(())
    }

    fn snapshot(&mut self, edge: usize) {
        self.window_ns[edge] = self.now_ns();
        self.own_cpu_ns[edge] = cpu::process_ns("self").unwrap_or(0);
        for (pid, readings) in self.options.watch.iter().zip(&mut self.watched) {
            readings[edge] = cpu::process_ns(pid);
        }
    }

    /// Move to the phase that the clock says; returns when the next one begins.
    fn turn_phase(&mut self) -> u64 {
        let opens_ns = self.options.warmup_ns;
        let closes_ns = opens_ns + self.options.duration_ns;
        let now_ns = self.now_ns();
        if self.phase == Phase::Warmup && now_ns >= opens_ns {
            self.snapshot(0);
            self.phase = Phase::Window;
        }
        if self.phase == Phase::Window && now_ns >= closes_ns {
            self.snapshot(1);
            self.phase = Phase::Drain;
            if self.arrivals.is_none() {
                self.waiting.clear();
            }
        }
        match self.phase {
            Phase::Warmup => opens_ns,
            Phase::Window => closes_ns,
            Phase::Drain => closes_ns + self.options.drain_ns,
        }
    }

    fn unfinished(&self) -> usize {
        let busy = self.connections.iter().filter(|c| c.exchange.is_some()).count();
        busy + self.waiting.len()
    }

    fn run(&mut self) -> io::Result<()> {
        let mut poll = Poll::new()?;
        let mut events = Events::with_capacity(1024);
        let mut timer = Timer::new(poll.registry(), TIMER)?;
        self.connect_all(poll.registry())?;
        loop {
            let phase_ends_ns = self.turn_phase();
            self.serve_due(poll.registry())?;
            let now_ns = self.now_ns();
            if self.phase == Phase::Drain && (self.unfinished() == 0 || now_ns >= phase_ends_ns)
            {
                return Ok(());
            }
            if self.options.is_idle && self.are_all_streaming() {
                return hold(self.connections.len());
            }
            let next_ns = match self.next_ns {
                Some(at_ns) if self.phase != Phase::Drain => at_ns.min(phase_ends_ns),
                _ => phase_ends_ns,
            };
            timer.arm(next_ns, now_ns)?;
            spin::wait(&mut poll, &mut events, self.options.is_spinning)?;
            for event in &events {
                match event.token() {
                    TIMER => timer.fired(),
                    Token(index) => {
                        self.ready(poll.registry(), index, event.is_read_closed())?;
                    }
                }
            }
        }
    }

    fn are_all_streaming(&self) -> bool {
        let has_begun =
            |c: &Connection| c.exchange.as_ref().is_some_and(|e| e.first_ns.is_some());
        self.connections.iter().all(has_begun)
    }

    fn json(&self) -> String {
        let mut watched = String::new();
        for (pid, readings) in self.options.watch.iter().zip(&self.watched) {
            let comma = if watched.is_empty() { "" } else { "," };
            let spent = match readings {
                [Some(before), Some(after)] => after.saturating_sub(*before).to_string(),
                _ => "null".to_owned(),
            };
            let _ = write!(watched, "{comma}{{\"pid\":{pid},\"cpu_ns\":{spent}}}");
        }
        let figures = &self.figures;
        format!(
            "{{\"loop\":\"{}\",\"seed\":{},\"rate\":{},\"connections\":{},\"window_ns\":{},\
             \"answers\":{},\"answers_in_window\":{},\"wrong\":{},\"not_200\":{},\
             \"first_wrong\":{:?},\"reconnects\":{},\"unfinished\":{},\
             \"events_in_window\":{},\"reads_in_window\":{},\"own_cpu_ns\":{},\
             \"watched\":[{watched}],\"latency\":{},\"send_lag\":{},\"ttft\":{},\"gap\":{}}}",
            if self.arrivals.is_some() { "open" } else { "closed" },
            self.options.seed,
            self.options.rate,
            self.options.connections,
            self.window_ns[1].saturating_sub(self.window_ns[0]),
            figures.answers,
            figures.answers_in_window,
            figures.wrong,
            figures.statuses_not_200,
            figures.first_wrong,
            figures.reconnects,
            self.unfinished(),
            figures.events_in_window,
            figures.reads_in_window,
            self.own_cpu_ns[1].saturating_sub(self.own_cpu_ns[0]),
            figures.latency.json(),
            figures.send_lag.json(),
            figures.ttft.json(),
            figures.gap.json(),
        )
    }
}

/// Say that all streams are open, and keep them until stdin ends.
fn hold(streams: usize) -> io::Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{{\"idle\":{streams}}}")?;
    stdout.flush()?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn measure() -> Result<(), String> {
    let options = Options::read(&Flags::read(std::env::args().skip(1))?)?;
    let mut load = Load::new(options)?;
    load.run().map_err(|error| error.to_string())?;
    writeln!(io::stdout(), "{}", load.json()).map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = writeln!(io::stderr(), "loadgen: {message}");
            ExitCode::FAILURE
        }
    }
}
