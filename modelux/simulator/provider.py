"""Decides the answer to a request: which settings hold, what is billed, which steps are played.

No socket here: `server` reads requests and plays what comes back. A request's chances come from
the seed, its body and how often that body came before, never from the order in which different
requests arrive, so a run with many connections repeats too.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Final
from urllib.parse import parse_qsl, unquote

import orjson

from modelux.clock import mono_us
from modelux.simulator.answers import (
    Answer,
    Draft,
    Piece,
    draft_answer,
    make_answer,
    make_error,
    model_card,
    models_page,
)
from modelux.simulator.faults import CANARY_PATH, Scene, honest_steps, spoiled_steps
from modelux.simulator.ledger import Ledger, Record
from modelux.simulator.request import (
    VERSION_PREFIX,
    Ask,
    RequestError,
    Shape,
    parse_ask,
    shape_of,
)
from modelux.simulator.settings import (
    EARLY_FAULTS,
    Chance,
    Fault,
    Settings,
    SettingsError,
    parse_settings,
)
from modelux.simulator.steps import Step, Wait

BODIES_SEEN_MAX: Final = 100_000
"""Different bodies whose repeats are told apart; beyond it the count begins again."""

TOLD_COUNT_MAX: Final = 1_000
"""Models whose settings were changed while it ran; beyond it the oldest are as before."""

SETTINGS_PREFIX: Final = "/_s/"
SIMULATE_HEADER: Final = "x-simulate"
LEDGER_PATH: Final = "/_ledger"
TOTALS_PATH: Final = "/_ledger/totals"
MODELS_PATH: Final = "/_models/"
HEALTH_PATH: Final = "/healthz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What every answer depends on."""

    seed: int = 0
    settings: Settings = field(default_factory=Settings)
    models: Mapping[str, str] = field(default_factory=dict)
    """Names that `GET /v1/models` lists, each with the settings text of its requests."""
    api_keys: frozenset[str] = frozenset()
    """Keys that are accepted; empty: any, or none."""
    keep_bodies: bool = False


@dataclass(slots=True)
class Incoming:
    """A request as it is read. Mutable: owned by the connection that reads it."""

    method: str = ""
    target: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)
    body_bytes: int = 0
    keep_alive: bool = True
    is_early: bool = False
    """Answered before its body was read."""

    def header(self, name: str) -> str | None:
        """Return the first value of a field, None where it is absent."""
        return next((value for each, value in self.headers if each == name), None)

    def key(self) -> str:
        """Return the caller's key, empty without one."""
        return (self.header("authorization") or "").rpartition(" ")[2]

    def split_target(self) -> tuple[str, str, str]:
        """Split `/_s/SETTINGS/v1/...?query` into settings text, the path behind it, query."""
        path, _, query = self.target.decode("latin-1").partition("?")
        if not path.startswith(SETTINGS_PREFIX):
            return "", path, query
        settings, slash, rest = path[len(SETTINGS_PREFIX) :].partition("/")
        return unquote(settings), slash + rest, query


@dataclass(slots=True)
class Playing:
    """The answer that a connection is giving."""

    steps: Iterator[Step]
    record: Record | None
    keep_alive: bool
    stalled: bool = False


class Provider:
    """The provider as all of its connections see it."""

    def __init__(self, options: Options, ledger: Ledger) -> None:
        self.options = options
        self.ledger = ledger
        self.address = ""
        """`http://HOST:PORT`, known once the socket is bound."""
        self._connections_count = 0
        self._requests_count = 0
        self._seen: dict[str, int] = {}
        self._misbehaved: dict[str, int] = {}
        self._told: dict[str, str] = {}

    def play(self, incoming: Incoming, connection: int, on_connection: int) -> Playing:
        """Decide the answer to a request that has been read (or needs no reading)."""
        prefix, path, query = incoming.split_target()
        if path == HEALTH_PATH:
            return self._plain(incoming, 200, b'{"status":"ok"}')
        if path == LEDGER_PATH:
            return self._ledger(incoming, query)
        if path == TOTALS_PATH:
            return self._plain(incoming, 200, self.ledger.totals_json())
        body = b"".join(incoming.parts)
        incoming.parts = []
        if path.startswith(MODELS_PATH):
            return self._tell(incoming, unquote(path.removeprefix(MODELS_PATH)), body)
        digest = sha256(body).hexdigest()
        nth = self._seen[digest] = self._seen.get(digest, -1) + 1
        if len(self._seen) > BODIES_SEEN_MAX:
            self._seen.clear()
        seed = sha256(f"{self.options.seed}:{digest}:{nth}".encode()).digest()
        record = Record(
            id=seed.hex()[:24],
            ordinal=self._requests_count,
            connection=connection,
            on_connection=on_connection,
            method=incoming.method,
            path=path,
            headers=incoming.headers,
            body_sha256=digest,
            body_bytes=len(body),
            body=body if self.options.keep_bodies else None,
            started_us=mono_us(),
        )
        self._requests_count += 1
        self.ledger.open(record)
        if path == CANARY_PATH:
            record.label = "canary"
        try:
            steps = self._answer(incoming, record, body, prefix, path, Chance(seed))
        except SettingsError as error:
            steps = self._refuse(record, 400, str(error), code="bad_simulate_settings")
        except RequestError as error:
            steps = self._refuse(record, 400, str(error))
        return Playing(steps, record, incoming.keep_alive and not incoming.is_early)

    def is_early(self, incoming: Incoming) -> bool:
        """Return whether a request is answered before its body is read."""
        prefix, path, _ = incoming.split_target()
        if incoming.method != "POST" or shape_of(path) is None:
            return False
        try:
            return self._settings(prefix, None, incoming).fault in EARLY_FAULTS
        except SettingsError:
            return False  # Said once the body is there, as for any other request.

    def next_connection(self) -> int:
        """Return the number of a connection that has just been accepted."""
        self._connections_count += 1
        return self._connections_count - 1

    def now_us(self) -> int:
        """Return the clock that the ledger's instants are on."""
        return mono_us()

    def _settings(self, prefix: str, ask: Ask | None, incoming: Incoming) -> Settings:
        settings = self.options.settings
        layers = (
            self.options.models.get(ask.model, "") if ask else "",
            self._told.get(ask.model, "") if ask else "",
            prefix,
            ask.model_settings if ask else "",
            ask.metadata_settings if ask else "",
            incoming.header(SIMULATE_HEADER) or "",
        )
        for text in layers:
            if text:
                settings = parse_settings(text, settings)
        return settings

    def _answer(
        self,
        incoming: Incoming,
        record: Record,
        body: bytes,
        prefix: str,
        path: str,
        chance: Chance,
    ) -> Iterator[Step]:
        shape = shape_of(path)
        if shape is None:
            return self._other(incoming, record, path)
        if incoming.method != "POST":
            return self._refuse(record, 405, "Not allowed: only POST is.")
        ask = _unread_ask(shape) if incoming.is_early else parse_ask(shape, body)
        settings = self._settings(prefix, ask, incoming)
        record.model, record.stream, record.bill = ask.model, ask.stream, settings.bill
        record.label = settings.label
        key = incoming.key()
        if self.options.api_keys and key not in self.options.api_keys:
            record.status = 401
            return honest_steps(make_error(401, settings, key=key))
        settings = self._limit_times(settings, ask, prefix)
        status = settings.status
        if settings.error_rate and chance.share() < settings.error_rate:
            status = settings.error_status
        draft: Draft | None = None
        if status >= 400:
            answer = make_error(status, settings, key=key)
            steps = _after(settings.first_byte_ms.draw(chance), honest_steps(answer))
        else:
            draft = draft_answer(ask, settings, chance, record.id)
            answer = make_answer(draft)
            record.input_tokens = draft.input_tokens
            record.cached_tokens = min(settings.cached_tokens, draft.input_tokens)
            record.output_tokens_whole = answer.output_tokens
            answer = replace(answer, status=status)
            steps = honest_steps(answer)
        record.status = status
        if settings.fault is None:
            return steps
        record.fault = settings.fault.value
        if settings.fault is Fault.EARLY_413:
            record.status = 413
        return spoiled_steps(
            Scene(
                answer=answer,
                settings=settings,
                draft=draft,
                address=self.address,
                reused=record.on_connection > 0,
            )
        )

    def _limit_times(self, settings: Settings, ask: Ask, prefix: str) -> Settings:
        """Return the settings without their misbehaviour once it was done often enough."""
        if settings.times is None:
            return settings
        place = f"{prefix}|{ask.model}|{ask.model_settings}|{ask.metadata_settings}"
        done = self._misbehaved.get(place, 0)
        if done < settings.times:
            if len(self._misbehaved) > BODIES_SEEN_MAX:
                self._misbehaved.clear()
            self._misbehaved[place] = done + 1
            return settings
        return replace(settings, fault=None, status=200, error_rate=0.0, malformed=None)

    def _other(self, incoming: Incoming, record: Record, path: str) -> Iterator[Step]:
        rest = VERSION_PREFIX.sub("", path).rstrip("/")
        if incoming.method in {"GET", "HEAD"} and rest == "/models":
            return self._json(record, models_page(tuple(self.options.models)))
        name = unquote(rest.removeprefix("/models/"))
        if incoming.method in {"GET", "HEAD"} and name in self.options.models:
            return self._json(record, orjson.dumps(model_card(name)))
        if rest.startswith("/models/"):
            return self._refuse(
                record, 404, f"The model '{name}' does not exist", code="model_not_found"
            )
        return self._refuse(record, 404, f"Invalid URL ({incoming.method} {path})")

    def _json(self, record: Record, body: bytes) -> Iterator[Step]:
        record.status = 200
        return honest_steps(_plain_answer(200, body))

    def _refuse(
        self, record: Record, status: int, message: str, code: str | None = None
    ) -> Iterator[Step]:
        record.status = status
        return honest_steps(make_error(status, Settings(), code=code, message=message))

    def _plain(self, incoming: Incoming, status: int, body: bytes) -> Playing:
        return Playing(honest_steps(_plain_answer(status, body)), None, incoming.keep_alive)

    def _tell(self, incoming: Incoming, model: str, body: bytes) -> Playing:
        """Change how a model's requests are answered from now on."""
        if incoming.method != "PUT":
            return self._plain(incoming, 405, b'{"error":"only PUT is allowed"}')
        try:
            text = body.decode()
            parse_settings(text, self.options.settings)
        except (SettingsError, UnicodeDecodeError) as error:
            return self._plain(incoming, 400, orjson.dumps({"error": str(error)}))
        self._told[model] = text
        if len(self._told) > TOLD_COUNT_MAX:
            del self._told[next(iter(self._told))]
        return self._plain(incoming, 200, orjson.dumps({"model": model, "settings": text}))

    def _ledger(self, incoming: Incoming, query: str) -> Playing:
        if incoming.method == "DELETE":
            self.ledger.reset()
            self._seen.clear()
            self._misbehaved.clear()
            return self._plain(incoming, 200, b'{"reset":true}')
        wanted = dict(parse_qsl(query))
        return self._plain(
            incoming, 200, self.ledger.as_json(lambda record: _is_wanted(record, wanted))
        )


def _is_wanted(record: Record, wanted: Mapping[str, str]) -> bool:
    """Return whether a record is among those that the query asks for; empty asks for all."""
    shown = {
        "model": record.model,
        "label": record.label or "",
        "fault": record.fault or "",
        "id": record.id,
        "state": record.state.value,
    }
    for name, value in wanted.items():
        if name == "since":
            if record.ordinal < int(value):
                return False
        elif name in shown and shown[name] != value:
            return False
    return True


def _unread_ask(shape: Shape) -> Ask:
    """Return the facts assumed of a request whose body is not waited for."""
    return Ask(
        shape=shape,
        model="unread",
        model_settings="",
        metadata_settings="",
        stream=False,
        include_usage=False,
        output_tokens_max=None,
        choices=1,
        input_tokens=1,
        inputs=(b"unread",),
        base64=False,
        dimensions=None,
        tool=None,
    )


def _plain_answer(status: int, body: bytes) -> Answer:
    answer = make_error(status, Settings())
    headers = ((b"content-type", b"application/json"),)
    return replace(answer, headers=headers, pieces=iter((Piece(body),)))


def _after(wait_ms: float, steps: Iterator[Step]) -> Iterator[Step]:
    if wait_ms:
        yield Wait(wait_ms)
    yield from steps
