//! A real gate for tests: real cells, a real ring in a folder of its own, one snapshot.

use std::fmt::Write as _;
use std::path::PathBuf;

use hmac::{Hmac, Mac};
use modelux_core::cells::{Cell, Cells, Mode};
use modelux_core::exchange::{Plan, Step, Verdict};
use modelux_core::gate::{Begin, Gate, Refused};
use modelux_core::holds::{Group, Holds};
use modelux_core::ledger::Ledger;
use modelux_core::live::Live;
use modelux_core::pricing::Catalogue;
use modelux_core::ring::{RingReader, RingWriter};
use modelux_core::snapshot::Snapshot;
use serde_json::{Value, json};
use sha2::Sha256;
use tempfile::TempDir;

pub const KEY: &str = "mlx_sk_0123456789abcdefghij";
pub const SECRET: &str = "sk-secret-of-the-provider";
pub const UNIX_US: u64 = 1_760_000_000_000_000;
pub const START_US: u64 = 5_000_000_000;

const PRICES: &[u8] = br#"{"format": 1, "version": "test", "vendors": {}}"#;

pub fn key_hash(key: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(&[7; 32]).unwrap();
    mac.update(key.as_bytes());
    mac.finalize().into_bytes().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

pub fn provider(name: &str, models: &Value) -> Value {
    json!({
        "name": name, "vendor": "openai_compatible", "scheme": "http", "host": format!("{name}.test"),
        "port": 80, "base_path": "/v1", "auth_header": "authorization", "auth_prefix": "Bearer ",
        "credentials": [{"id": name, "ref": "env:KEY", "weight": 1}], "headers": [],
        "models": models, "stream_usage": true, "free": false,
    })
}

pub fn target(provider: usize, model: &str) -> Value {
    json!({"kind": "target", "provider": provider, "model": model, "label": model})
}

pub fn fallback(children: &[Value], settings: &Value) -> Value {
    let mut node = json!({"kind": "config", "strategy": "fallback", "slug": null, "version": null,
        "children": children});
    for (name, value) in settings.as_object().unwrap() {
        node[name] = value.clone();
    }
    node
}

/// A snapshot with the providers `alpha` (`m`, `a`) and `beta` (`m`, `b`), one key and one route.
pub fn document(config: &Value) -> Value {
    json!({
        "format": 1, "config_hash": "c0ffee", "key_pepper": "07".repeat(32),
        "server": {"header_bytes_max": 4096, "body_bytes_max": 100_000, "max_in_flight": 4},
        "providers": [provider("alpha", &json!(["m", "a"])), provider("beta", &json!(["m", "b"]))],
        "projects": [{"name": "default", "auto_resolve_bare_model": true, "store_bodies": "full"}],
        "keys": [{
            "id": "key_1", "hash": key_hash(KEY), "project": 0, "name": null, "rpm": null,
            "expires_at_us": null, "allowed_routes": null, "allowed_models": null, "tags": [],
            "end_user": null,
        }],
        "routes": [{"slug": "prod", "project": 0, "live": 2, "is_default": true, "versions": [
            {"version": 1, "hash": "h1", "config": fallback(&[target(1, "b")], &json!({}))},
            {"version": 2, "hash": "h2", "config": config},
        ]}],
        "prices": [{"provider": "alpha", "model": "m", "input_nusd_per_mtok": 1_000_000_000,
            "output_nusd_per_mtok": 2_000_000_000_u64, "cached_nusd_per_mtok": null,
            "cache_write_nusd_per_mtok": null, "request_nusd": 0}],
    })
}

pub fn read_snapshot(document: &Value) -> Result<Snapshot, String> {
    let secret_of = |reference: &str| (reference == "env:KEY").then(|| SECRET.to_owned());
    Snapshot::from_json(document.to_string().as_bytes(), &secret_of)
        .map_err(|fault| fault.to_string())
}

/// A gate with everything behind it.
pub struct Bench {
    pub gate: Gate,
    pub cells: Cells,
    ring: PathBuf,
    spill: PathBuf,
    /// Of the last request that became a plan.
    body: Vec<u8>,
    _folder: TempDir,
}

impl Bench {
    pub fn new(document: &Value) -> Self {
        Self::over(document, |_| {})
    }

    /// A gate over a ledger in which something stands already.
    pub fn over(document: &Value, fill: impl FnOnce(&mut Ledger)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cells_path = folder.path().join("cells");
        let cells = Cells::create(&cells_path, 1).unwrap();
        cells.set(Cell::Mode, Mode::Ready as u64);
        let (ring, spill) = (folder.path().join("ring.0.1"), folder.path().join("spill"));
        let writer = RingWriter::create(&ring, 1 << 20, &spill, 1 << 24, "boot", 0, 1).unwrap();
        let catalogue = Catalogue::from_json(PRICES).unwrap();
        let snapshot = read_snapshot(document).unwrap();
        // A document without budgets never asks for a ledger.
        let holds = if document["budgets"].is_array() {
            let mut ledger = Ledger::create(folder.path(), 8 << 20, "test").unwrap();
            fill(&mut ledger);
            drop(ledger);
            let cells = Cells::open(&cells_path).unwrap();
            Holds::open(folder.path(), 1, 1024, cells, 0).unwrap()
        } else {
            Holds::default()
        };
        let gate = Gate::new(
            snapshot,
            catalogue,
            Cells::open(&cells_path).unwrap(),
            writer,
            holds,
            Live::private().unwrap(),
            [1, 2],
        );
        Self { gate, cells, ring, spill, body: Vec::new(), _folder: folder }
    }

    /// A gate whose one route is `config`.
    pub fn of(config: &Value) -> Self {
        Self::new(&document(config))
    }

    pub fn begin(&mut self, request: &[u8]) -> Begin {
        self.gate.begin(request, None, "192.0.2.1", START_US, UNIX_US)
    }

    pub fn plan(&mut self, request: &[u8]) -> Box<Plan> {
        match self.begin(request) {
            Begin::Plan(plan) => {
                self.body = request[plan.body_range()].to_vec();
                plan
            }
            Begin::Refused(refused) => panic!("refused: {:?}", refused.refusal),
            _ => panic!("neither a plan nor a refusal"),
        }
    }

    /// One turn of the ledger for one plan.
    pub fn turn(&mut self, plan: &mut Plan) -> Verdict {
        self.gate.turn(&mut [plan], START_US, UNIX_US);
        plan.verdict()
    }

    /// One turn of the ledger for calls that one request makes at once.
    pub fn turn_group(&mut self, plans: Vec<&mut Plan>, least: usize, has_judge: bool) {
        let mut groups = [Group { plans, least, has_judge }];
        self.gate.turn_with(&mut [], &mut groups, START_US, UNIX_US);
    }

    /// Settle what is due, and return spent and held of the only row.
    pub fn settled(&mut self) -> (u64, u64) {
        self.gate.turn(&mut [], START_US, UNIX_US);
        let rows = self.gate.ledger_rows().unwrap();
        assert_eq!(rows.len(), 1, "{rows:?}");
        (rows[0].balance.spent_nusd, rows[0].balance.held_nusd)
    }

    /// What goes upstream for a request.
    pub fn wire_of(&mut self, request: &[u8]) -> String {
        let mut plan = self.plan(request);
        let body = request[plan.body_range()].to_vec();
        text(&plan.send(&mut self.gate, &body, START_US))
    }

    pub fn refused(&mut self, request: &[u8]) -> Box<Refused> {
        match self.begin(request) {
            Begin::Refused(refused) => refused,
            Begin::Plan(_) => panic!("let in"),
            _ => panic!("not refused"),
        }
    }

    /// Every record written since the last look; each has to be JSON.
    pub fn records(&mut self) -> Vec<Value> {
        let mut reader = RingReader::open(&self.ring, &self.spill, None).unwrap();
        let traces = reader.read(1000).unwrap();
        reader.commit().unwrap();
        traces.iter().map(|trace| serde_json::from_slice(&trace.meta).unwrap()).collect()
    }

    /// The one record of the one exchange since the last look.
    pub fn record(&mut self) -> Value {
        let mut records = self.records();
        assert_eq!(records.len(), 1, "an exchange has exactly one record");
        records.remove(0)
    }

    /// Send, and feed an answer in the given pieces; what reached the caller and how it ended.
    pub fn feed(&mut self, plan: &mut Plan, pieces: &[&[u8]], now_us: u64) -> (Vec<u8>, Step) {
        let body = self.body.clone();
        let _ = plan.send(&mut self.gate, &body, now_us);
        let mut relayed = Vec::new();
        for piece in pieces {
            match plan.answer(&mut self.gate, &body, piece, now_us) {
                Step::More => {}
                Step::Write(bytes) => relayed.extend(bytes),
                Step::Done(bytes) => {
                    relayed.extend(bytes);
                    return (relayed, Step::Done(Vec::new()));
                }
                Step::Cut(bytes) => {
                    relayed.extend(bytes);
                    return (relayed, Step::Cut(Vec::new()));
                }
                Step::Failed => return (relayed, Step::Failed),
            }
        }
        (relayed, Step::More)
    }
}

pub const BODY: &[u8] = br#"{"model": "@prod", "messages": []}"#;

pub fn post(path: &str, lines: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {KEY}\r\n{lines}Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

pub fn chat(lines: &str, body: &Value) -> Vec<u8> {
    post("/v1/chat/completions", lines, body.to_string().as_bytes())
}

pub fn plain_chat() -> Vec<u8> {
    post("/v1/chat/completions", "", BODY)
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
