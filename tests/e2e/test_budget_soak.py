"""Caps under torture: the provider's own ledger judges ours, at every moment, while all dies.

Callers of every kind ask at once on hundreds of connections under caps that fit twenty of them,
for one call each or for many at once (ensembles, cascades, judges, mirrors);
workers, the supervisor and everything together are killed or stopped at random. All along, what
the provider has billed is read and must not be above the cap and what was overrun. Once
it is quiet, what is recorded is at least what was billed, and the rest of the cap can be used.
The seed of a run is in every failure; `MODELUX_SOAK_SEED` repeats its choices.
"""

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest

from modelux.clock import mono_us, pause_s, unix_us
from modelux.units import NUSD_PER_USD, US_PER_S
from tests.e2e.budgets import (
    CANCEL_TOKENS,
    TOKEN_NUSD,
    ask,
    budget,
    configuration,
    question,
    rows,
    settled,
    tags,
)
from tests.e2e.harness import (
    HOST,
    Ending,
    Gateway,
    RawClient,
    Reply,
    Simulator,
    child,
    command,
    post,
    serve,
    until,
)
from tests.e2e.routing import told as answering

pytestmark = pytest.mark.slow

SOAK_S: Final = float(os.environ.get("MODELUX_SOAK_S", "6"))
"""`make soak` lets it run for longer."""
SEED: Final = int(os.environ.get("MODELUX_SOAK_SEED", "0")) or unix_us()

WORKERS_COUNT: Final = 4
CALLERS_COUNT: Final = 200
LIMIT: Final = 100
FITTING: Final = 20
HANG_S: Final = 10
BREATH_S: Final = 0.05
"""Between two requests of a caller that was refused or cut."""
QUIET_S: Final = 60
"""Long enough for a supervisor to come back and to end what the dead held."""

LOOK_S: Final = 0.002

COUNTED_TOKENS_MAX: Final = CANCEL_TOKENS
"""Of an answer whose output is counted: the stand-in writes ahead of a worker that is stopped,
and what of it had not been read when that worker died is covered by this much."""

DEATHS_MAX: Final = 3
"""Of workers under one supervisor: five within a minute are a crash loop, which ends all."""

PROVIDERS: Final = ("sim", "gen", "drain")
ROUTED: Final = ("first", "vote", "picked", "steps", "nested")
OPENING_TOKENS: Final = FITTING * LIMIT
REFILL_BELOW: Final = 0.2
"""Of what a cap is at first, and raised by."""
MANY: Final = 6
"""Calls that one request may make at once, more or less."""
REFILL_S: Final = 0.1


@dataclass(slots=True)
class Watch:
    """Reads the provider's ledger all the time, and keeps the caps that it is judged by."""

    simulator: Simulator
    caps: dict[str, int]
    """Nano-USD, by label. Raised before the gateway hears of it, so never too low."""
    refill_nusd: int
    reads: int = 0
    faults: list[str] = field(default_factory=list)
    billed: dict[str, int] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)

    def read(self) -> None:
        """Judge one moment."""
        for label, told in self.simulator.totals()["by_label"].items():
            billed_nusd = told["billed_nusd"]
            # Looked up after the reading: a cap that was raised meanwhile covers it.
            if billed_nusd > self.caps[label]:
                self.faults.append(f"{label}: billed {billed_nusd}, cap {self.caps[label]}")
            if billed_nusd < self.billed.get(label, 0):
                self.faults.append(f"{label}: billed fell to {billed_nusd}")
            self.billed[label] = billed_nusd
        self.reads += 1

    def run(self) -> None:
        """Judge one moment after another."""
        while not self.over.is_set() and not self.faults:
            self.read()
            pause_s(LOOK_S)


@dataclass(slots=True)
class Tally:
    """What all callers met."""

    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    whole: dict[str, int] = field(default_factory=dict)
    """Nano-USD that answers which came whole have cost, by budget."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str, reply: Reply) -> None:
        """Take in an answer or what was left of it."""
        with self.lock:
            self.kinds[f"{kind} {reply.status}"] += 1
            if reply.status not in {0, 200, 400, 402, 429, 502, 503, 504}:
                self.wrong.append(f"{kind}: {reply.status} {reply.body[:300]!r}")

    def note_whole(self, label: str, tokens: int) -> None:
        """Take in what a whole answer has cost at the provider."""
        with self.lock:
            self.whole[label] = self.whole.get(label, 0) + tokens * TOKEN_NUSD


@dataclass(slots=True)
class Deployment:
    """The gateway, which may be other processes from one moment to the next."""

    gateway: Gateway
    folder: Path
    stack: ExitStack
    starts: int = 0
    deaths: int = 0
    """Of workers of this supervisor."""

    def revive(self) -> None:
        """Start it again on the same files and ports, as a service manager would."""
        until(self._start, what="a gateway that stays up", timeout_s=QUIET_S)
        self.deaths = 0

    def _start(self) -> bool:
        old = self.gateway
        self.starts += 1
        words = command("serve", "--config", str(old.config))
        name = f"serve-{self.starts}"
        running = self.stack.enter_context(
            child(name, words, self.folder, env=old.env, expect=None)
        )
        self.gateway = Gateway(running, old.config, old.port, old.control_port, old.env)
        # What the killed one started may still hold the port: then this one ends at once.
        until(lambda: not running.alive() or _is_ready(self.gateway), what="readyz or an end")
        return running.alive()


# --- callers -------------------------------------------------------------------------------


def _direct(provider: str, _chance: random.Random) -> str:
    return f"{provider}/tok"


def _routed(provider: str, chance: random.Random) -> str:
    return f"@{chance.choice(ROUTED)}-{provider}"


def _question(
    chance: random.Random, model_of: Callable[[str, random.Random], str]
) -> tuple[str, str, bytes, bool, int]:
    """Return kind, budget, request, whether the caller leaves, and tokens of the answer."""
    provider = chance.choice(PROVIDERS)
    tokens = chance.randint(1, COUNTED_TOKENS_MAX if provider == "gen" else LIMIT)
    # What a provider bills that was told to be one which bills what it generates.
    bill = "all" if provider == "sim" else "generated"
    stream = chance.random() < 0.6
    settings = [f"tokens={tokens}", f"bill={bill}", f"label={provider}"]
    kind = chance.choice(("plain", "plain", "slow", "leaves", "leaves", "fault", "error"))
    if kind in {"slow", "leaves"}:
        settings.append("token_ms=2")
    elif kind == "fault":
        faults = ("sse_reset_mid", "sse_fin_mid", "sse_error_mid") if stream else (
            "fin_mid_body", "reset_mid_body", "fin_before", "garbage"
        )  # fmt: skip
        settings.append(f"fault={chance.choice(faults)}")
    elif kind == "error":
        settings.append(f"status={chance.choice((400, 429, 500, 503))}")
    elif chance.random() < 0.2:
        settings.append(f"usage={chance.choice(('missing', 'null', 'negative', 'nan'))}")
    model = model_of(provider, chance)
    body = question(model, limit=LIMIT, simulate=";".join(settings), stream=stream)
    return kind, provider, post(body, headers=tags(provider)), kind == "leaves", tokens


def _call_on(
    deployment: Deployment,
    tally: Tally,
    over: threading.Event,
    seed: int,
    model_of: Callable[[str, random.Random], str],
) -> None:
    """Ask one question after another, each on the connection of the last one if it lives."""
    chance = random.Random(seed)  # noqa: S311 - repeats a run.
    while not over.is_set():
        with suppress(OSError), RawClient(deployment.gateway.port, timeout_s=HANG_S) as client:
            while not over.is_set():
                kind, provider, request, leaves, tokens = _question(chance, model_of)
                client.send(request)
                if leaves:
                    client.read_some(chance.choice((0, 1, 400, 900)))
                    client.reset()
                    break
                reply = client.read_reply()
                tally.note(kind, reply)
                whole = reply.ending is Ending.WHOLE and reply.status == 200
                if whole and kind in {"plain", "slow"}:
                    tally.note_whole(provider, tokens)
                if reply.status != 200:
                    pause_s(BREATH_S)
                if not whole or reply.header("connection") == "close":
                    break
        pause_s(BREATH_S / 10)


# --- the torturer --------------------------------------------------------------------------


def _workers(gateway: Gateway) -> list[int]:
    found = []
    for pid in gateway.pids():
        with suppress(OSError):
            if b"modelux.proxy.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def _kill(pids: list[int], number: int = signal.SIGKILL) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _is_ready(gateway: Gateway) -> bool:
    with suppress(OSError), RawClient(gateway.port, timeout_s=2) as client:
        client.send(f"GET /readyz HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        return client.read_reply(method="GET").status == 200
    return False


def _torture(deployment: Deployment, chance: random.Random) -> str:
    """Do one cruel thing, and return its name."""
    gateway = deployment.gateway
    deeds = ("worker", "worker", "stop", "stop", "workers", "supervisor", "all")
    deed = chance.choice(deeds if deployment.deaths < DEATHS_MAX else deeds[-2:])
    workers = _workers(gateway)
    match deed:
        case "worker":
            _kill(workers[:1])
            deployment.deaths += 1
        case "workers":
            _kill(workers[: WORKERS_COUNT // 2])
            deployment.deaths += WORKERS_COUNT // 2
        case "stop":
            victims = workers[:1]
            _kill(victims, signal.SIGSTOP)
            # Shorter than `heartbeat_timeout_s`, or longer: then it is killed.
            long = chance.random() < 0.5
            pause_s(1.5 if long else 0.2)
            _kill(victims, signal.SIGCONT)
            deployment.deaths += long
        case "supervisor":
            _kill([gateway.child.process.pid])
        case _:
            _kill(gateway.pids())
    if deed in {"supervisor", "all"}:
        gateway.child.process.wait()
        deployment.revive()
    return deed


def _refill(deployment: Deployment, watch: Watch) -> None:
    """Raise the caps that are used up, or nothing would be tried any more."""
    text = deployment.gateway.config.read_text("utf-8")
    changed = text
    for each in rows(deployment.gateway):
        name, spent_nusd = each["name"], round(each["spent_usd"] * NUSD_PER_USD)
        if watch.caps[name] - spent_nusd < REFILL_BELOW * watch.refill_nusd:
            watch.caps[name] += watch.refill_nusd
            changed = _with_cap(changed, name, watch.caps[name])
    if changed != text:
        deployment.gateway.config.write_text(changed, "utf-8")
        deployment.gateway.child.signal(signal.SIGHUP)


def _with_cap(text: str, name: str, cap_nusd: int) -> str:
    head, mark, rest = text.partition(f'name = "{name}"\n')
    assert mark, name
    scope, cap, tail = rest.partition("cap_usd = ")
    line, newline, after = tail.partition("\n")
    assert cap, line
    shown = f"{cap_nusd // NUSD_PER_USD}.{cap_nusd % NUSD_PER_USD:09}"
    return head + mark + scope + cap + shown + newline + after


# --- the judgement -------------------------------------------------------------------------


def _judge(gateway: Gateway, watch: Watch, tally: Tally) -> None:
    """Check the recorded against the billed, once all is quiet."""
    totals = watch.simulator.totals
    until(lambda: totals()["total"]["open"] == 0, what="quiet at the provider")
    for name in PROVIDERS:
        state = settled(gateway, name, timeout_s=QUIET_S)
        spent_nusd = round(state["spent_usd"] * NUSD_PER_USD)
        billed_nusd = totals()["by_label"].get(name, {"billed_nusd": 0})["billed_nusd"]
        assert billed_nusd >= tally.whole.get(name, 0), name
        assert spent_nusd >= billed_nusd, (name, spent_nusd, billed_nusd)
        assert spent_nusd <= watch.caps[name], (name, spent_nusd, watch.caps[name])
        left_tokens = (watch.caps[name] - spent_nusd) // TOKEN_NUSD
        if left_tokens:
            body = question(f"{name}/tok", limit=left_tokens, simulate=f"tokens=1;label={name}")
            reply = ask(gateway, name, body)
            assert reply.status == 200, (name, left_tokens, reply.body)


def test_caps_hold_while_everything_dies(simulator: Simulator, tmp_path: Path) -> None:
    _soak(simulator, tmp_path, "", _direct, OPENING_TOKENS)


def test_caps_hold_for_many_calls_at_once_while_everything_dies(
    simulator: Simulator, tmp_path: Path
) -> None:
    word = quote('{"index":1,"score":0.2}')
    judges = {f"judge-{name}": f"text={word};label={name}" for name in PROVIDERS}
    with answering(simulator, judges):
        routes = "".join(map(_routes, PROVIDERS))
        _soak(simulator, tmp_path, routes, _routed, MANY * OPENING_TOKENS)


def _routes(name: str) -> str:
    target = f'"{name}/tok"'
    members = f"members = [{target}, {target}, {target}]"
    judge = f'"{name}/judge-{name}"'
    return f"""
[prices."{name}/judge-{name}"]
input_usd_per_mtok = 0
output_usd_per_mtok = 1000

[routes.first-{name}]
strategy = "ensemble"
aggregation = "first_valid"
{members}
shadow = {{ target = {target}, percent = 30 }}

[routes.vote-{name}]
strategy = "ensemble"
aggregation = "weighted_vote"
timeout_ms = 300
{members}

[routes.picked-{name}]
strategy = "ensemble"
aggregation = "llm_judge"
{members}
judge = {judge}
shadow = {{ target = "@vote-{name}", percent = 30 }}

[routes.steps-{name}]
strategy = "cascade"
total_budget_ms = 500
steps = [
  {{ target = {target}, accept_if = "response.output_tokens > 50" }},
  {{ target = {target}, accept_if = {{ judge = {judge}, min_score = 0.5 }} }},
  {{ target = "@picked-{name}" }},
]

[routes.nested-{name}]
strategy = "ensemble"
aggregation = "first_valid"
members = ["@vote-{name}", "@steps-{name}"]
"""


def _soak(
    simulator: Simulator,
    tmp_path: Path,
    routes: str,
    model_of: Callable[[str, random.Random], str],
    cap_tokens: int,
) -> None:
    caps = [budget(name, cap_tokens) for name in PROVIDERS]
    config = configuration(simulator, caps, routes=routes)
    chance = random.Random(SEED)  # noqa: S311 - repeats a run.
    cap_nusd = cap_tokens * TOKEN_NUSD
    watch = Watch(simulator, dict.fromkeys(PROVIDERS, cap_nusd), cap_nusd)
    tally, over, deeds = Tally(), threading.Event(), Counter[str]()
    server = "heartbeat_timeout_s = 1\n"
    with (
        serve(tmp_path, config, server=server, workers=WORKERS_COUNT, expect=None) as first,
        ExitStack() as stack,
    ):
        deployment = Deployment(first, tmp_path, stack)
        callers = [
            threading.Thread(
                target=_call_on,
                args=(deployment, tally, over, chance.getrandbits(32), model_of),
                daemon=True,
            )
            for _ in range(CALLERS_COUNT)
        ]
        judge = threading.Thread(target=watch.run, daemon=True)
        for thread in (*callers, judge):
            thread.start()
        until_us = mono_us() + int(SOAK_S * US_PER_S)
        try:
            while mono_us() < until_us and not watch.faults:
                for _ in range(chance.randint(1, 8)):
                    pause_s(REFILL_S)
                    _refill(deployment, watch)
                deeds[_torture(deployment, chance)] += 1
            over.set()
            for thread in callers:
                thread.join(2 * HANG_S)
            assert not any(thread.is_alive() for thread in callers)
            if not watch.faults:
                until(lambda: _is_ready(deployment.gateway), what="a gateway that serves")
                _judge(deployment.gateway, watch, tally)
        except BaseException as failure:
            failure.add_note(f"MODELUX_SOAK_SEED={SEED} {deeds} {tally.kinds}")
            raise
        finally:
            over.set()
            watch.over.set()
            judge.join()
        told = (SEED, deeds, tally.kinds)
        assert not watch.faults, (watch.faults, *told)
        assert not tally.wrong, (tally.wrong[:5], *told)
        assert tally.kinds["plain 200"], told
        said = "".join(log.read_text("utf-8", "replace") for log in tmp_path.glob("*.log"))
        assert "Traceback" not in said, (said[-4000:], *told)
        assert '"event":"bug"' not in said.replace(" ", ""), told
