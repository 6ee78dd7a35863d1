"""What a validated configuration is: frozen nouns, each option declared once.

An option's declaration (kind, default, unit, range, prose) stands beside the field it fills;
`config/read.py` validates by it, `modelux check` explains by it and the reference page is made
from `reference()`. `LATER` names what the interface has and this release does not: refused by
name, never ignored. Nothing here does I/O.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from enum import Enum, unique
from pathlib import Path
from typing import Final, TypeVar, cast

from modelux import limits
from modelux.domain import Secret
from modelux.pricing.catalogue import ModelFacts
from modelux.units import NUSD_PER_USD, UnixUs

T = TypeVar("T")

Catalogue = Callable[[str], Collection[str]]
"""A vendor's name to the models it is known to serve; empty where nothing is known.

`in` may know more names than iterating gives: dated ones, aliases."""

Priced = Callable[[str, str], bool]
"""A vendor's name and a model's to whether the catalogue has a price for it today."""

Facts = Callable[[str, str], ModelFacts]
"""A vendor's name and a model's to what a choice by price needs to know of it."""

OUTPUT_TOKENS_MOST: Final = 100_000_000
"""Beyond any model's answer: what is larger is a mistake."""

TIERS: Final = ("economy", "standard", "premium", "frontier")
"""How good a model is, the least first."""

WEIGHT_MOST: Final = 100_000_000
"""In hundredths: a million."""

PERCENT_MOST: Final = 10_000
"""All of it, in hundredths of a percent."""

MAX_COST_NUSD_MOST: Final = 1_000_000 * NUSD_PER_USD
"""Of one request. Up to here a number of JSON holds all nine decimals."""


@unique
class Kind(Enum):
    """How the value of an option is written in the file."""

    BOOL = "true or false"
    INT = "a whole number"
    TEXT = "a string"
    TEXTS = "a list of strings"
    CHOICE = "one of the values named"
    PATH = "a path; relative ones start at the file's folder"
    ADDRESS = "HOST:PORT"
    REFERENCE = "env:NAME or file:PATH"
    TABLE = "a table"
    ITEMS = "a list"
    INSTANT = "a date and time with its offset"
    USD = "USD, at most nine decimals"
    SCOPE = "a table, or a list of tables that all must match"
    TARGET = "a target: a model, `@slug`, or a table"
    DECIMAL = "a number"
    EXPRESSION = "an expression"
    JSON = "a table of anything that JSON has"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option as an operator meets it."""

    kind: Kind
    prose: str
    unit: str = ""
    least: int | None = None
    most: int | None = None
    choices: tuple[str, ...] = ()
    default: str | None = None
    """What the reference says the default is, where the value itself does not say it."""
    required: bool = False
    decimals: int = 0
    """Of a `DECIMAL`: how many there may be. It is held as a whole number of the last one."""


def declared(value: T, option: Option) -> T:
    """Declare a field of a configuration dataclass: its default, and what the option means."""
    made: object = field(default=value, metadata={"option": option})
    # The dataclass decorator takes the field object out again, as with `field` itself.
    return cast("T", made)


def options(noun: type) -> dict[str, tuple[Option, object]]:
    """Return what a configuration dataclass declares: name to option and default."""
    found: tuple[Field[object], ...] = fields(noun)
    return {
        item.name: (item.metadata["option"], item.default)
        for item in found
        if "option" in item.metadata
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a listener listens. Port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRef:
    """Where a secret is: never the secret. Paths are absolute."""

    scheme: str
    name: str

    def __str__(self) -> str:
        return f"{self.scheme}:{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The table `[server]`. Paths are absolute once loaded."""

    listen: Address = declared(
        Address(host="127.0.0.1", port=8080),
        Option(kind=Kind.ADDRESS, prose="where the proxy listens"),
    )
    control_listen: Address = declared(
        Address(host="127.0.0.1", port=8081),
        Option(kind=Kind.ADDRESS, prose="where the control plane listens; never the same port"),
    )
    workers: int = declared(
        0,
        Option(
            kind=Kind.INT,
            least=0,
            most=64,
            prose="proxy processes; 0: min(4, the CPUs that affinity and cgroup quota allow)",
        ),
    )
    data_dir: Path = declared(
        Path("modelux-data"),
        Option(
            kind=Kind.PATH,
            default="./modelux-data",
            prose="what must survive power loss: `control.db`, traces",
        ),
    )
    state_dir: Path | None = declared(
        None,
        Option(
            kind=Kind.PATH,
            default="on tmpfs: /dev/shm/modelux-<hash of data_dir>",
            prose="shared memory: snapshot, cells, rings. Where the sizes do not fit the "
            "mount, `data_dir` is used with a warning",
        ),
    )
    state_map_bytes: int = declared(
        0,
        Option(
            kind=Kind.INT,
            unit="bytes",
            least=0,
            most=64 * 1024 * limits.MIB,
            prose="LMDB map; 0: a quarter of the mount, at most 64 MiB",
        ),
    )
    ring_bytes: int = declared(
        8 * limits.MIB,
        Option(
            kind=Kind.INT,
            unit="bytes",
            least=limits.MIB,
            most=1024 * limits.MIB,
            prose="trace ring of a worker; all rings together at most half of the mount",
        ),
    )
    spill_max_bytes: int = declared(
        4 * 1024 * limits.MIB,
        Option(
            kind=Kind.INT,
            unit="bytes",
            least=limits.MIB,
            most=2**50,
            prose="spill files, which take what the ring cannot",
        ),
    )
    trace_max_bytes: int = declared(
        10 * 1024 * limits.MIB,
        Option(
            kind=Kind.INT,
            unit="bytes",
            least=limits.MIB,
            most=2**50,
            prose="trace store; beyond it the oldest bodies go first",
        ),
    )
    store_bodies: str = declared(
        "full",
        Option(
            kind=Kind.CHOICE,
            choices=("full", "metadata", "none"),
            prose="whose request and answer bodies are kept in traces; also a project's option",
        ),
    )
    body_retention_h: int = declared(
        24,
        Option(kind=Kind.INT, unit="hours", least=0, most=87_600, prose="how long bodies stay"),
    )
    record_retention_days: int = declared(
        30,
        Option(kind=Kind.INT, unit="days", least=1, most=36_500, prose="how long traces stay"),
    )
    rollup_retention_days: int = declared(
        400,
        Option(kind=Kind.INT, unit="days", least=1, most=36_500, prose="how long sums stay"),
    )
    ledger_retention_days: int = declared(
        400,
        Option(
            kind=Kind.INT,
            unit="days",
            least=1,
            most=36_500,
            prose="how long past windows of budgets stay",
        ),
    )
    redact: tuple[str, ...] = declared(
        (),
        Option(
            kind=Kind.TEXTS,
            default="API keys, e-mail addresses",
            most=64,
            prose="more patterns to blank out of stored bodies: regular expressions without "
            "look-around and back-references, so that they take linear time",
        ),
    )
    hash_end_users: bool = declared(
        False, Option(kind=Kind.BOOL, prose="store end users as keyed hashes only")
    )
    store_client_ip: bool = declared(
        False, Option(kind=Kind.BOOL, prose="keep the caller's address in traces")
    )
    drain_delay_s: int = declared(
        2,
        Option(
            kind=Kind.INT,
            unit="s",
            least=0,
            most=600,
            prose="connections are still accepted for so long after SIGTERM",
        ),
    )
    drain_s: int = declared(
        60,
        Option(
            kind=Kind.INT,
            unit="s",
            least=0,
            most=86_400,
            prose="how long requests in flight may take to finish after SIGTERM",
        ),
    )
    heartbeat_timeout_s: int = declared(
        5,
        Option(
            kind=Kind.INT,
            unit="s",
            least=1,
            most=600,
            prose="a worker whose event loop has not moved for so long is killed",
        ),
    )
    max_in_flight: int = declared(
        4096,
        Option(
            kind=Kind.INT,
            least=1,
            most=1_000_000,
            prose="requests in one worker; beyond it 503 `overloaded`",
        ),
    )
    header_bytes_max: int = declared(
        32 * limits.KIB,
        Option(
            kind=Kind.INT,
            unit="bytes",
            least=limits.KIB,
            most=limits.HEAD_BYTES_CAP,
            prose="longest request head; beyond it 431",
        ),
    )
    body_bytes_max: int = declared(
        32 * limits.MIB,
        Option(
            kind=Kind.INT,
            unit="bytes",
            least=limits.KIB,
            most=1024 * limits.MIB,
            prose="longest request body; beyond it 413",
        ),
    )
    client_header_timeout_s: int = declared(
        10,
        Option(
            kind=Kind.INT, unit="s", least=1, most=3600, prose="a caller's time to send a head"
        ),
    )
    client_body_timeout_s: int = declared(
        30,
        Option(
            kind=Kind.INT,
            unit="s",
            least=1,
            most=3600,
            prose="a caller's time to send a body; then 408",
        ),
    )
    client_keepalive_s: int = declared(
        75,
        Option(
            kind=Kind.INT,
            unit="s",
            least=1,
            most=86_400,
            prose="idle connections of callers close",
        ),
    )
    upstream_keepalive_s: int = declared(
        30,
        Option(
            kind=Kind.INT,
            unit="s",
            least=0,
            most=3600,
            prose="idle upstream connections are dropped, below the providers' own limit",
        ),
    )
    default_output_tokens: int = declared(
        16_384,
        Option(
            kind=Kind.INT,
            unit="tokens",
            least=1,
            most=OUTPUT_TOKENS_MOST,
            prose="the most that an answer may have where a budget matches and the caller set "
            "no limit; routes and targets may say otherwise",
        ),
    )
    min_output_tokens: int = declared(
        64,
        Option(
            kind=Kind.INT,
            unit="tokens",
            least=1,
            most=OUTPUT_TOKENS_MOST,
            prose="no limit is lowered below it to fit a budget; routes and targets may say "
            "otherwise",
        ),
    )
    provision: str = declared(
        "seed",
        Option(
            kind=Kind.CHOICE,
            choices=("seed", "strict"),
            prose="`seed`: a rollback of a route sticks until its text in the file changes; "
            "`strict`: each load restores what the file says",
        ),
    )
    log_level: str = declared(
        "info",
        Option(
            kind=Kind.CHOICE,
            choices=("debug", "info", "warning", "error"),
            prose="the least that is logged",
        ),
    )
    log_format: str = declared(
        "auto",
        Option(
            kind=Kind.CHOICE,
            choices=("auto", "human", "json"),
            prose="`auto`: lines for people on a terminal, JSON lines otherwise",
        ),
    )
    access_log: bool = declared(False, Option(kind=Kind.BOOL, prose="one log line a request"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """One of a provider's API keys."""

    id: str
    reference: SecretRef
    weight: int = declared(
        1,
        Option(kind=Kind.INT, least=1, most=1000, prose="share of the traffic it takes"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a provider is: what `base_url` comes to."""

    scheme: str
    host: str
    port: int
    base_path: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = {"http": 80, "https": 443}[self.scheme]
        port = "" if self.port == usual else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.base_path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A table `[providers.NAME]`."""

    name: str
    origin: Origin
    is_own_host: bool
    """Whether `origin` is the vendor's own address, so that its catalogue of models holds."""
    is_free: bool
    credentials: tuple[Credential, ...] = ()
    vendor: str = declared(
        "",
        Option(
            kind=Kind.CHOICE,
            default="NAME",
            prose="whose protocol and quirks it has: `openai`, `anthropic`, `google`, "
            "`openai_compatible`, or a preset that knows its address: `ollama` (no key, price "
            "0), `vllm`, `mistral`, `groq`, `deepseek`, `together`, `fireworks`, `xai`, "
            "`openrouter`, `cerebras`",
        ),
    )
    api_key: SecretRef | None = declared(
        None,
        Option(kind=Kind.REFERENCE, default="none", prose="the key; may be absent"),
    )
    base_url: str | None = declared(
        None,
        Option(
            kind=Kind.TEXT,
            default="the vendor's own",
            prose="as the vendor's SDK takes it: with `/v1` for OpenAI-protocol ones, without "
            "a version for Anthropic and Google",
        ),
    )
    models: tuple[str, ...] | None = declared(
        None,
        Option(
            kind=Kind.TEXTS,
            default="all",
            most=10_000,
            prose="where given, all that may be called there",
        ),
    )
    headers: tuple[tuple[str, str], ...] = declared(
        (),
        Option(kind=Kind.TABLE, default="none", prose="header fields added to each request"),
    )
    on_cancel: str = declared(
        "",
        Option(
            kind=Kind.CHOICE,
            choices=("bills_all", "bills_generated", "drain"),
            default="the vendor's",
            prose="what it bills when a call is cut short; `drain`: its answer is read to the "
            "end all the same, so that its own figure counts",
        ),
    )
    drain_max_ms: int = declared(
        10_000,
        Option(
            kind=Kind.INT,
            unit="ms",
            least=1,
            most=600_000,
            prose="how long an answer is read on with `drain`; then what was held is charged",
        ),
    )
    stream_usage: bool = declared(
        True,
        Option(kind=Kind.BOOL, prose="whether it understands `stream_options.include_usage`"),
    )
    ca_file: Path | None = declared(
        None,
        Option(
            kind=Kind.PATH,
            default="the system's",
            prose="PEM file of the authorities that its certificate may come from",
        ),
    )
    connect_ip_family: str = declared(
        "any",
        Option(
            kind=Kind.CHOICE,
            choices=("any", "ipv4", "ipv6"),
            prose="which of its addresses are used",
        ),
    )
    max_connections: int = declared(
        512,
        Option(kind=Kind.INT, least=1, most=100_000, prose="connections of one worker to it"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPolicy:
    """What a key may do, fixes and requires; the same for file and made keys."""

    name: str | None = declared(
        None, Option(kind=Kind.TEXT, default="none", most=200, prose="for people")
    )
    rpm: int | None = declared(
        None,
        Option(
            kind=Kind.INT,
            unit="requests a minute",
            least=1,
            most=100_000_000,
            default="none from the file, 600 for made keys",
            prose="rate limit over all workers of the node; beyond it 429 `rate_limited`",
        ),
    )
    expires_at: UnixUs | None = declared(
        None,
        Option(kind=Kind.INSTANT, default="never", prose="the key stops working then"),
    )
    allowed_routes: tuple[str, ...] | None = declared(
        None,
        Option(
            kind=Kind.TEXTS,
            default="all",
            most=1000,
            prose="slugs that it may call, bare names",
        ),
    )
    allowed_models: tuple[str, ...] | None = declared(
        None,
        Option(
            kind=Kind.TEXTS,
            default="all",
            most=1000,
            prose="models that it may reach, `MODEL` or `PROVIDER/MODEL`",
        ),
    )
    tags: tuple[tuple[str, str], ...] = declared(
        (), Option(kind=Kind.TABLE, default="none", prose="fixed: they win over the caller's")
    )
    end_user: str | None = declared(
        None,
        Option(
            kind=Kind.TEXT,
            default="none",
            most=limits.IDENTIFIER_BYTES_MAX,
            prose="fixed: it wins over the caller's",
        ),
    )
    require: tuple[str, ...] = declared(
        (),
        Option(
            kind=Kind.TEXTS,
            default="none",
            most=limits.TAGS_COUNT_MAX + 1,
            prose='what each request must carry, as `["end_user", "tag:team"]`; else 400',
        ),
    )
    allow_versions: bool = declared(
        False, Option(kind=Kind.BOOL, prose="whether `@slug@7` may be asked for")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDeclaration:
    """A key that the file declares, by reference."""

    id: str | None
    """None: made of the first hex digits of its keyed hash."""
    reference: SecretRef
    secret: Secret | None
    """None only where the configuration was read without its secrets."""
    policy: KeyPolicy
    place: str = field(compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A table `[projects.NAME]`."""

    name: str
    keys: tuple[KeyDeclaration, ...] = ()
    auto_resolve_bare_model: bool = declared(
        True,
        Option(kind=Kind.BOOL, prose="whether a bare model name finds its provider by itself"),
    )
    store_bodies: str | None = declared(
        None,
        Option(
            kind=Kind.CHOICE,
            choices=("full", "metadata", "none"),
            default="the server's",
            prose="whose request and answer bodies are kept in traces",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One place a request may go: a model, or another routing config by name."""

    model: str
    credential: str | None = None
    place: str = field(default="", compare=False)
    timeout_ms: int | None = declared(
        None,
        Option(
            kind=Kind.INT,
            unit="ms",
            least=1,
            most=86_400_000,
            default="the config's",
            prose="from the start of the attempt to its first content byte",
        ),
    )
    max_output_tokens: int | None = declared(
        None,
        Option(
            kind=Kind.INT,
            unit="tokens",
            least=1,
            most=OUTPUT_TOKENS_MOST,
            default="the config's",
            prose="the most that an answer may have where a budget matches",
        ),
    )
    min_output_tokens: int | None = declared(
        None,
        Option(
            kind=Kind.INT,
            unit="tokens",
            least=1,
            most=OUTPUT_TOKENS_MOST,
            default="the config's",
            prose="no limit is lowered below it to fit a budget",
        ),
    )
    default_output_tokens: int | None = declared(
        None,
        Option(
            kind=Kind.INT,
            unit="tokens",
            least=1,
            most=OUTPUT_TOKENS_MOST,
            default="the config's",
            prose="the limit where a budget matches and the caller set none",
        ),
    )
    max_cost_usd: int | None = declared(
        None,
        Option(
            kind=Kind.USD,
            unit="USD",
            least=1,
            most=MAX_COST_NUSD_MOST,
            default="none",
            prose="held for a request whose cost has no bound of its own (web search without a "
            "maximum, an unknown context window)",
        ),
    )
    weight: int | None = declared(
        None,
        Option(
            kind=Kind.DECIMAL,
            least=0,
            most=WEIGHT_MOST,
            decimals=2,
            default="1",
            prose="of a member of an ensemble: how much its answer counts in a vote or a mean; "
            "elsewhere it says nothing",
        ),
    )
    params: Mapping[str, object] | None = declared(
        None,
        Option(
            kind=Kind.JSON,
            default="none",
            prose="members of the request's body that are set for this target, as "
            "`temperature`; not what a request is about (`model`, `messages`, `tools`), nor "
            "what its cost depends on (`n`, `max_tokens`, `service_tier`)",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """An expression of a rule that was checked."""

    text: str
    place: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostOptimized:
    """What `cost_optimized` has of its own."""

    quality_tier: str | None = declared(
        None,
        Option(
            kind=Kind.CHOICE,
            choices=TIERS,
            default='"economy"',
            prose="no model below it serves",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyOptimized:
    """What `latency_optimized` has of its own; percentages in hundredths."""

    metric: str | None = declared(
        None,
        Option(
            kind=Kind.CHOICE,
            choices=("ttft", "total"),
            default='"ttft"',
            prose="what is compared: the time to the first content byte, or to the end",
        ),
    )
    tolerance_pct: int | None = declared(
        None,
        Option(
            kind=Kind.DECIMAL,
            unit="%",
            least=0,
            most=100_000,
            decimals=2,
            default="10",
            prose="targets that are slower than the fastest by no more share its traffic",
        ),
    )
    explore_pct: int | None = declared(
        None,
        Option(
            kind=Kind.DECIMAL,
            unit="%",
            least=0,
            most=PERCENT_MOST,
            decimals=2,
            default="2",
            prose="of the requests go to any target, so that each one's latency stays known",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """What `ensemble` has of its own."""

    aggregation: str = declared(
        "",
        Option(
            kind=Kind.CHOICE,
            choices=("first_valid", "weighted_vote", "weighted_average", "llm_judge"),
            required=True,
            prose="how the members' answers make one",
        ),
    )
    min_responses: int | None = declared(
        None,
        Option(
            kind=Kind.INT,
            least=1,
            most=limits.ROUTE_TARGETS_MAX,
            default="1; more than half for `weighted_vote`",
            prose="answers that there must be",
        ),
    )
    judge: "Target | RoutingConfig | None" = declared(
        None,
        Option(
            kind=Kind.TARGET,
            default="none",
            prose="who picks one of the answers; required by `llm_judge`, for nothing else",
        ),
    )
    validate: str | Rule | None = declared(
        None,
        Option(
            kind=Kind.EXPRESSION,
            default="any answer is",
            prose="which answers are valid, for `first_valid` only: `json`, `json_schema` (the "
            "request's), or an expression over `response`",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One arm of an A/B test; the weight is in hundredths. Its target is among the config's."""

    name: str = declared(
        "",
        Option(
            kind=Kind.TEXT,
            required=True,
            most=limits.VARIANT_NAME_BYTES_MAX,
            prose="for people and traces; unique among the variants",
        ),
    )
    weight: int = declared(
        0,
        Option(
            kind=Kind.DECIMAL,
            required=True,
            least=0,
            most=WEIGHT_MOST,
            decimals=2,
            prose="its share, beside those of the others; 0 serves nobody",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AbTest:
    """What `ab_test` has of its own; `variants` stand beside the targets."""

    variants: tuple[Variant, ...]
    sticky_by: str | None = declared(
        None,
        Option(
            kind=Kind.TEXT,
            default='"end_user"',
            prose="who stays on the same variant: `end_user`, `conversation`, `tag:KEY`, or "
            "`request` for nobody",
        ),
    )
    salt: str | None = declared(
        None,
        Option(
            kind=Kind.TEXT,
            most=limits.IDENTIFIER_BYTES_MAX,
            default="the slug",
            prose="tests with the same salt put everybody on the same side; another one "
            "shuffles anew",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A cascade's step is the last where a judge says so; the score is in thousandths."""

    judge: "Target | RoutingConfig"
    min_score: int = declared(
        0,
        Option(
            kind=Kind.DECIMAL,
            required=True,
            least=0,
            most=1000,
            decimals=3,
            prose="the least score, from 0 to 1, with which an answer stands",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascade:
    """What `cascade` has of its own: beside each target what has to hold for it to stand."""

    accepts: tuple[Rule | Judged | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleCase:
    """One of `custom_rules`."""

    condition: Rule | None
    """None is the `else`."""
    then: int | None
    """Which of the config's targets serves; None: nobody does, for the reason in `block`."""
    block: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomRules:
    """What `custom_rules` has of its own."""

    rules: tuple[RuleCase, ...]


Own = CostOptimized | LatencyOptimized | Ensemble | AbTest | Cascade | CustomRules
"""What one strategy has and others have not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """Where a share of the traffic is mirrored to; the share is in hundredths of a percent."""

    target: "Target | RoutingConfig"
    percent: int = declared(
        0,
        Option(
            kind=Kind.DECIMAL,
            unit="%",
            required=True,
            least=0,
            most=PERCENT_MOST,
            decimals=2,
            prose="of the requests that are mirrored",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingConfig:
    """A routing config in its stored form; `targets` holds one for `single`.

    They stand in the order of the text; judges and shadows are not among them.
    """

    strategy: str
    targets: "tuple[Target | RoutingConfig, ...]"
    own: Own | None = None
    shadow: Shadow | None = None
    place: str = field(default="", compare=False)
    timeout_ms: int | None = declared(
        None,
        Option(
            kind=Kind.INT,
            unit="ms",
            least=1,
            most=86_400_000,
            default="120000",
            prose="from the start of the attempt to its first content byte",
        ),
    )
    connect_timeout_ms: int | None = declared(
        None,
        Option(
            kind=Kind.INT,
            unit="ms",
            least=1,
            most=3_600_000,
            default="5000",
            prose="for a new connection, TLS included",
        ),
    )
    idle_timeout_ms: int | None = declared(
        None,
        Option(
            kind=Kind.INT,
            unit="ms",
            least=1,
            most=86_400_000,
            default="60000",
            prose="between two reads after the first content byte",
        ),
    )
    attempt_max_ms: int | None = declared(
        None,
        Option(
            kind=Kind.INT,
            unit="ms",
            least=1,
            most=86_400_000,
            default="3600000",
            prose="a whole attempt: then it is cancelled and settled",
        ),
    )
    total_budget_ms: int | None = declared(
        None,
        Option(
            kind=Kind.INT,
            unit="ms",
            least=1,
            most=86_400_000,
            default="none",
            prose="all attempts together, up to the first content byte",
        ),
    )
    retry_on: tuple[str, ...] | None = declared(
        None,
        Option(
            kind=Kind.TEXTS,
            default="all six",
            most=100,
            prose='`"429"`, `"5xx"`, `"timeout"`, `"connect"`, `"reset"`, `"auth"`, or a '
            "status as a string",
        ),
    )
    max_retries_per_attempt: int | None = declared(
        None,
        Option(
            kind=Kind.INT,
            least=0,
            most=10,
            default="0",
            prose="on the same target, for connect failures and answers from 400 on that "
            "`retry_on` names",
        ),
    )
    fit_to_budget: str | None = declared(
        None,
        Option(
            kind=Kind.CHOICE,
            choices=("auto", "always", "never"),
            default='"auto"',
            prose="whether the output limit is lowered to what a budget still allows; `auto`: "
            "only where the caller set none; true and false mean `auto` and `never`",
        ),
    )
    max_output_tokens: int | None = declared(
        None,
        Option(
            kind=Kind.INT,
            unit="tokens",
            least=1,
            most=OUTPUT_TOKENS_MOST,
            default="the model's",
            prose="the most that an answer may have where a budget matches",
        ),
    )
    min_output_tokens: int | None = declared(
        None,
        Option(
            kind=Kind.INT,
            unit="tokens",
            least=1,
            most=OUTPUT_TOKENS_MOST,
            default="the server's",
            prose="no limit is lowered below it to fit a budget",
        ),
    )
    default_output_tokens: int | None = declared(
        None,
        Option(
            kind=Kind.INT,
            unit="tokens",
            least=1,
            most=OUTPUT_TOKENS_MOST,
            default="the server's",
            prose="the limit where a budget matches and the caller set none",
        ),
    )
    embedding_dimensions: int | None = declared(
        None,
        Option(
            kind=Kind.INT,
            least=1,
            most=65_536,
            default="none",
            prose="every vector has this length; targets that cannot give it do not serve",
        ),
    )


STRATEGIES: Final[Mapping[str, tuple[str, str]]] = {
    "single": ("model", "all that serves"),
    "fallback": ("attempts", "targets, in order"),
    "cost_optimized": (
        "allowed_models",
        "targets that may serve; without it the 32 cheapest chat models that the providers "
        "are known to serve at a known price",
    ),
    "latency_optimized": ("models", "targets that may serve"),
    "ensemble": ("members", "targets that are all asked"),
    "ab_test": ("variants", "`{ name, weight, target }`"),
    "cascade": (
        "steps",
        "`{ target, accept_if }`, in order; `accept_if` is an expression over `response` or a "
        "judge, `{ judge, min_score }`; the last step has none",
    ),
    "custom_rules": (
        "rules",
        "`{ if, then }`, of which the first that matches counts, and at last `{ else }`; `if` "
        'is an expression, `then` and `else` are a target or `{ block = "reason" }`',
    ),
}
"""Each strategy with the key that its targets stand under, and what stands there."""

TIME_LIMITS: Final = (
    "timeout_ms",
    "connect_timeout_ms",
    "idle_timeout_ms",
    "attempt_max_ms",
    "total_budget_ms",
)

OUTPUT_LIMITS: Final = ("max_output_tokens", "min_output_tokens", "default_output_tokens")

RETRY_ON_WORDS: Final = ("429", "5xx", "timeout", "connect", "reset", "auth")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A table `[routes.SLUG]`."""

    project: str
    slug: str
    config: RoutingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """A table `[prices."PROVIDER/MODEL"]`, in nano-USD."""

    provider: str
    model: str
    input_usd_per_mtok: int = declared(
        0, Option(kind=Kind.USD, unit="USD a million tokens", required=True, prose="input")
    )
    output_usd_per_mtok: int = declared(
        0, Option(kind=Kind.USD, unit="USD a million tokens", required=True, prose="output")
    )
    cached_usd_per_mtok: int | None = declared(
        None,
        Option(
            kind=Kind.USD,
            unit="USD a million tokens",
            default="as input",
            prose="input read from the provider's cache",
        ),
    )
    cache_write_usd_per_mtok: int | None = declared(
        None,
        Option(
            kind=Kind.USD,
            unit="USD a million tokens",
            default="as input",
            prose="input written to the provider's cache",
        ),
    )
    request_usd: int = declared(
        0, Option(kind=Kind.USD, unit="USD a request", prose="besides the tokens")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A table `[models."PROVIDER/MODEL"]`: what the shipped list does not know or has wrong."""

    provider: str
    model: str
    context_tokens: int | None = declared(
        None,
        Option(
            kind=Kind.INT,
            unit="tokens",
            least=1,
            most=OUTPUT_TOKENS_MOST,
            default="as known",
            prose="input and output together",
        ),
    )
    max_output_tokens: int | None = declared(
        None,
        Option(
            kind=Kind.INT,
            unit="tokens",
            least=1,
            most=OUTPUT_TOKENS_MOST,
            default="as known",
            prose="the most that one answer can have",
        ),
    )
    tier: str | None = declared(
        None,
        Option(
            kind=Kind.CHOICE,
            choices=TIERS,
            default="as known",
            prose="how good it is",
        ),
    )
    tools: bool | None = declared(
        None, Option(kind=Kind.BOOL, default="as known", prose="whether it calls tools")
    )
    images: bool | None = declared(
        None, Option(kind=Kind.BOOL, default="as known", prose="whether it takes images")
    )
    json_schema: bool | None = declared(
        None,
        Option(kind=Kind.BOOL, default="as known", prose="whether it keeps to a JSON schema"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Whose requests a budget counts."""

    type: str
    """One of `SCOPE_KEYS`."""
    key: str = ""
    """The tag's; empty for all other types."""
    value: str = ""
    """The tag's value, the id or the slug; `*`: each of them apart; empty: all match."""

    @property
    def is_each(self) -> bool:
        """Whether every distinct value has a cap of its own."""
        return self.value == EACH and self.type in EACH_SCOPES


EACH: Final = "*"
"""The value that stands for every distinct one."""

SCOPE_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "organization": (),
    "project": ("id",),
    "end_user": ("id",),
    "tag": ("key", "value"),
    "key": ("id",),
    "route": ("slug",),
}
"""Types of scopes and what each has to say."""

EACH_SCOPES: Final = ("end_user", "tag")
"""Types whose value may be `*`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A table `[[budgets]]`. `cap_usd` is in nano-USD."""

    place: str = field(default="", compare=False)
    name: str = declared(
        "",
        Option(
            kind=Kind.TEXT,
            required=True,
            most=limits.BUDGET_NAME_BYTES_MAX,
            prose="for people, headers and metrics; unique in the deployment",
        ),
    )
    scope: tuple[Scope, ...] = declared(
        (),
        Option(
            kind=Kind.SCOPE,
            required=True,
            prose='whose requests count: `{ type = "organization" }`, `{ type = "project", id '
            '}`, `{ type = "end_user", id }`, `{ type = "tag", key, value }`, `{ type = "key", '
            'id }`, `{ type = "route", slug }`; `"*"` for an end user or a tag\'s value gives '
            "every distinct one a cap of its own",
        ),
    )
    project: str | None = declared(
        None,
        Option(
            kind=Kind.TEXT,
            default="all",
            prose="only this project's traffic",
        ),
    )
    cap_usd: int = declared(
        0,
        Option(
            kind=Kind.USD,
            unit="USD",
            least=1,
            required=True,
            prose="the most that is spent in a period",
        ),
    )
    period: str = declared(
        "monthly",
        Option(
            kind=Kind.CHOICE,
            choices=("daily", "weekly", "monthly", "total"),
            prose="weeks begin on Monday, months on the 1st; `total` never begins anew",
        ),
    )
    timezone: str = declared(
        "UTC",
        Option(kind=Kind.TEXT, prose="an IANA name, as `Europe/Berlin`: when periods begin"),
    )
    action: str = declared(
        "block",
        Option(
            kind=Kind.CHOICE,
            choices=("block", "downgrade", "warn_only"),
            prose="at the cap: 402; `downgrade_to` instead; nothing but an event",
        ),
    )
    downgrade_to: "Target | RoutingConfig | None" = declared(
        None,
        Option(
            kind=Kind.TARGET,
            default="none",
            prose="where requests go at the cap; required by `downgrade`; its models need a "
            "price",
        ),
    )
    soft_pct: int = declared(
        80,
        Option(
            kind=Kind.INT,
            unit="% of the cap",
            least=1,
            most=100,
            prose="an event and a header from there on, without effect on traffic",
        ),
    )
    unset: str = declared(
        "count",
        Option(
            kind=Kind.CHOICE,
            choices=("count", "skip"),
            prose='for `"*"`: requests without the value share one cap, or do not count',
        ),
    )
    max_subjects: int = declared(
        16_384,
        Option(
            kind=Kind.INT,
            least=1,
            most=limits.BUDGET_SUBJECTS_MAX,
            prose='for `"*"`: distinct values in one window; all further ones share one cap',
        ),
    )
    backfill: bool = declared(
        True,
        Option(
            kind=Kind.BOOL,
            prose="whether a new budget begins at what the traces show for the current window",
        ),
    )
    enabled: bool = declared(
        True, Option(kind=Kind.BOOL, prose="one that is not goes on counting and never acts")
    )
    shadow: bool = declared(
        False, Option(kind=Kind.BOOL, prose="counts and reports, never acts: to try one out")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole configuration, valid in itself: routes name providers that can serve."""

    source: str
    """The file's name for people, or `built-in defaults`."""
    declaration: str
    """What was declared, as JSON: references, never secrets. Reading it gives this again."""
    server: Server
    providers: tuple[Provider, ...]
    projects: tuple[Project, ...]
    routes: tuple[Route, ...]
    prices: tuple[Price, ...]
    models: tuple[Model, ...]
    budgets: tuple[Budget, ...]
    makes_default_key: bool
    """No project is declared, so the first start makes a key for `default` and shows it."""
    catalogue: Catalogue = field(compare=False, repr=False)
    priced: Priced = field(compare=False, repr=False)
    facts: Facts = field(compare=False, repr=False)
    spans: Mapping[str, int] = field(compare=False, repr=False)
    """Key path to line, for faults that only a load can find."""

    def provider(self, name: str) -> Provider | None:
        """Return the provider of that name."""
        return next((item for item in self.providers if item.name == name), None)

    def project(self, name: str) -> Project | None:
        """Return the project of that name."""
        return next((item for item in self.projects if item.name == name), None)


LATER: Final[Mapping[str, tuple[str, ...]]] = {
    "": ("cluster", "export"),
    "server": (
        "cors_origins",
        "master_key",
        "otlp_endpoint",
        "private_targets",
        "tls",
    ),
    "providers": ("api_version", "project", "proxy", "region"),
    "projects": ("body_retention_h", "record_retention_days", "redact"),
    "routes": ("cache",),
}
"""Options of the interface that this release does not have, by table."""

LATER_VENDORS: Final = ("anthropic_compatible", "azure_openai", "bedrock", "vertex")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRow:
    """One row of the reference page."""

    name: str
    kind: str
    default: str
    unit: str
    range: str
    prose: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceSection:
    """One table of the reference page."""

    title: str
    rows: tuple[ReferenceRow, ...]
    later: tuple[str, ...]


_SECTIONS: Final[tuple[tuple[str, type | None, str], ...]] = (
    ("[server]", Server, "server"),
    ("[providers.NAME]", Provider, "providers"),
    ("[[providers.NAME.credentials]]", Credential, "credentials"),
    ("[projects.NAME]", Project, "projects"),
    ("a key", KeyPolicy, "keys"),
    ("[routes.SLUG]", RoutingConfig, "routes"),
    ("single", None, ""),
    ("fallback", None, ""),
    ("cost_optimized", CostOptimized, ""),
    ("latency_optimized", LatencyOptimized, ""),
    ("ensemble", Ensemble, ""),
    ("ab_test", AbTest, ""),
    ("a variant", Variant, ""),
    ("cascade", Cascade, ""),
    ("a judge", Judged, ""),
    ("custom_rules", CustomRules, ""),
    ("a shadow", Shadow, ""),
    ("a target", Target, "targets"),
    ("[[budgets]]", Budget, "budgets"),
    ('[prices."PROVIDER/MODEL"]', Price, "prices"),
    ('[models."PROVIDER/MODEL"]', Model, "models"),
)


def reference() -> tuple[ReferenceSection, ...]:
    """Return every option of the file for the reference page, in the order of the file."""
    return tuple(
        ReferenceSection(
            title=title,
            rows=(*_target_rows(title), *_rows(noun)),
            later=LATER[table] if table in LATER and table else (),
        )
        for title, noun, table in _SECTIONS
    )


def _target_rows(strategy: str) -> Iterator[ReferenceRow]:
    """Yield what a strategy's targets stand under."""
    if strategy in STRATEGIES:
        key, prose = STRATEGIES[strategy]
        yield ReferenceRow(
            name=key,
            kind=Kind.TARGET.value if strategy == "single" else Kind.ITEMS.value,
            default="all" if strategy == "cost_optimized" else "required",
            unit="",
            range="",
            prose=prose,
        )


def _rows(noun: type | None) -> Iterator[ReferenceRow]:
    for name, entry in options(noun).items() if noun else ():
        yield _row(name, *entry)


def _row(name: str, option: Option, default: object) -> ReferenceRow:
    if option.choices:
        span = ", ".join(f'"{choice}"' for choice in option.choices)
    elif option.kind is Kind.DECIMAL and option.least is not None and option.most is not None:
        span = f"{_scaled(option.least, option)} to {_scaled(option.most, option)}"
        span += f", at most {option.decimals} decimals"
    elif option.kind is Kind.INT and option.least is not None:
        span = f"{option.least:,} to {option.most:,}" if option.most else f"from {option.least}"
    else:
        span = ""
    return ReferenceRow(
        name=name,
        kind=option.kind.value,
        default="required" if option.required else option.default or _written(default),
        unit=option.unit,
        range=span,
        prose=option.prose,
    )


def _scaled(value: int, option: Option) -> str:
    return f"{value // 10**option.decimals:,}"


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:,}"
    return f'"{value}"'
