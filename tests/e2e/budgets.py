"""What the end-to-end tests of budgets share: a model whose bound is plain to see.

An output token of the model `tok` costs 0.001 USD and its input nothing, so the bound of a
request is its output limit, whatever its bytes; amounts here are in such tokens. The stand-in
provider is told by each request's `metadata.simulate` how to answer it. It stands behind three
providers that differ in `on_cancel` alone.
"""

import argparse
import json
import math
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from modelux.cli.budgets import current, told
from modelux.cli.deployment import open_deployment
from modelux.clock import unix_us
from modelux.units import US_PER_S
from tests.e2e.harness import (
    PROJECT,
    WAIT_S,
    Ending,
    Gateway,
    Json,
    RawClient,
    Reply,
    Simulator,
    call,
    chat_body,
    post,
    provider_table,
    until,
)

PRICES: Final = (
    "--price", "tok=0:1000", "--price", "cheap=0:10", "--price", "text=1000:1000",
    "--price", "free=0:0",
    "--price", "judge-sim=0:1000", "--price", "judge-gen=0:1000",
    "--price", "judge-drain=0:1000",
)  # fmt: skip
"""Flags of the stand-in provider: USD for a million tokens, in and out."""

TOKEN_NUSD: Final = 1_000_000
TOK: Final = "sim/tok"
GEN: Final = "gen/tok"
DRAIN: Final = "drain/tok"
CHEAP: Final = "sim/cheap"
"""A hundred of its tokens cost as much as one of the others."""
TEXT: Final = "sim/text"
"""Costs 0.001 USD an input token, too."""
FREE: Final = "sim/free"
MYSTERY: Final = "sim/mystery"
"""Has no price."""

CANCEL_TOKENS: Final = 64
"""What is charged beyond the output that was relayed, where it is counted."""


def usd(tokens: float) -> float:
    """Return what so many output tokens of `tok` cost, as JSON tells it."""
    return round(tokens * TOKEN_NUSD) / 1_000_000_000


def shown(tokens: float) -> str:
    """Return what so many tokens cost, as a header tells it."""
    return f"{usd(tokens):.4f}"


# --- configuration -------------------------------------------------------------------------


def budget(name: str, cap_tokens: float, *, scope: str | None = None, **fields: object) -> str:
    """Return the table of a budget; without a scope it is on the tag `t=NAME`."""
    where = scope or f'{{ type = "tag", key = "t", value = "{name}" }}'
    lines = ["[[budgets]]", f'name = "{name}"', f"scope = {where}"]
    lines.append(f"cap_usd = {usd(cap_tokens):.9f}")
    lines += [f"{key} = {json.dumps(value)}" for key, value in fields.items()]
    return "\n".join(lines) + "\n\n"


def configuration(
    simulator: Simulator,
    budgets: Iterable[str],
    *,
    routes: str = "",
    project: str = PROJECT,
    more: str = "",
) -> str:
    """Return a configuration with the three providers and their prices."""
    url = simulator.base_url()
    prices = {"tok": (0, 1000), "cheap": (0, 10), "text": (1000, 1000), "free": (0, 0)}
    tables = "".join(
        f'[prices."{provider}/{model}"]\n'
        f"input_usd_per_mtok = {given}\noutput_usd_per_mtok = {taken}\n\n"
        for provider in ("sim", "gen", "drain")
        for model, (given, taken) in prices.items()
    )
    return (
        project
        + provider_table("sim", url)
        + provider_table("gen", url, 'on_cancel = "bills_generated"')
        + provider_table("drain", url, 'on_cancel = "drain"', "drain_max_ms = 5000")
        + tables
        + routes
        + "\n"
        + "".join(budgets)
        + more
    )


# --- questions -----------------------------------------------------------------------------


def question(
    model: str = TOK,
    *,
    limit: int | None = None,
    simulate: str = "tokens=1",
    stream: bool = False,
    **more: object,
) -> bytes:
    """Return the body of a question; `limit` is its output limit, none without one."""
    fields: dict[str, object] = {"metadata": {"simulate": simulate}} | more
    if limit is not None:
        fields["max_tokens"] = limit
    return chat_body(model, stream=stream, **fields)


def tags(name: str, **more: str) -> dict[str, str]:
    """Return the header that makes the budget on `t=NAME` match."""
    pairs = {"t": name} | more
    return {"X-Modelux-User-Tags": ",".join(f"{key}={value}" for key, value in pairs.items())}


def ask(
    gateway: Gateway, name: str, body: bytes, headers: Mapping[str, str] | None = None
) -> Reply:
    """Ask under the budget on `t=NAME`, on a connection of its own."""
    return call(gateway.port, body, headers=tags(name) | dict(headers or {}))


def spend(gateway: Gateway, name: str, tokens: int, model: str = TOK) -> None:
    """Make the budget on `t=NAME` have spent so many tokens more."""
    body = question(model, limit=tokens, simulate=f"tokens={tokens}")
    reply = ask(gateway, name, body)
    assert reply.status == 200, reply.body


class Holding:
    """A stream that stays open, so that its hold does, too; ended by `release`."""

    def __init__(self, gateway: Gateway, name: str, limit: int, model: str = GEN) -> None:
        body = question(
            model, limit=limit, simulate=f"tokens={limit};fault=sse_stall_mid;at=1", stream=True
        )
        self.client = RawClient(gateway.port)
        self.client.send(post(body, headers=tags(name)))
        head = self.client.read_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        self.client.read_until(b" the")

    def __enter__(self) -> "Holding":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.release()

    def release(self) -> None:
        """Go away as callers do."""
        with suppress(OSError):
            self.client.reset()


def at_once(gateway: Gateway, requests: Sequence[bytes]) -> list[Reply]:
    """Send whole requests on a connection each, all before any answer is read."""
    clients = [RawClient(gateway.port) for _ in requests]
    try:
        # The last byte of each is kept back, so that none is decided before all have come.
        for client, request in zip(clients, requests, strict=True):
            client.send(request[:-1])
        for client, request in zip(clients, requests, strict=True):
            client.send(request[-1:])
        replies: list[Reply | None] = [None] * len(clients)

        def read(index: int) -> None:
            replies[index] = clients[index].read_reply()

        readers = [threading.Thread(target=read, args=(n,)) for n in range(len(clients))]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    finally:
        for client in clients:
            client.sock.close()
    return [reply for reply in replies if reply is not None]


# --- what became of it ---------------------------------------------------------------------


def rows(gateway: Gateway, name: str | None = None) -> list[Json]:
    """Return what `modelux budgets --json` says of one budget, or of all."""
    # As the command does it, without a process: tests look often.
    environ = {**os.environ, **gateway.env}
    args = argparse.Namespace(config=gateway.config, environ=environ, data_dir=None)
    with open_deployment(args, is_reading=True) as deployment:
        found: list[Json] = [told(standing) for standing in current(deployment)]
    return [each for each in found if name is None or each["name"] == name]


def row(gateway: Gateway, name: str, subject: str | None = None) -> Json:
    """Return the one row of a budget and subject."""
    found = [each for each in rows(gateway, name) if each["subject"] == subject]
    assert len(found) == 1, (name, subject, rows(gateway))
    return found[0]


def settled(
    gateway: Gateway, name: str, subject: str | None = None, *, timeout_s: float = WAIT_S
) -> Json:
    """Return a budget's row once nothing is held any more."""

    def idle() -> Json | None:
        found = row(gateway, name, subject)
        return found if found["held_usd"] == 0 else None

    return until(idle, what=f"the end of every hold of {name}", timeout_s=timeout_s)


def spent(gateway: Gateway, name: str, subject: str | None = None) -> float:
    """Return what a budget has spent, in USD, once nothing is held any more."""
    found: float = settled(gateway, name, subject)["spent_usd"]
    return found


def attempts(gateway: Gateway, reply: Reply) -> list[Json]:
    """Return the attempts of a request, from its trace."""
    found: list[Json] = gateway.trace(reply.request_id)["attempts"]
    return found


def sent_body(simulator: Simulator, **wanted: str) -> dict[str, Any]:
    """Return the one body that reached the provider."""
    found: dict[str, Any] = json.loads(simulator.only(**wanted)["body"])
    return found


def sent_limit(body: Mapping[str, object]) -> object:
    """Return the output limit in a body that reached the provider, however it is spelt."""
    spelt = [key for key in ("max_tokens", "max_completion_tokens") if key in body]
    assert len(spelt) <= 1, body
    return body[spelt[0]] if spelt else None


def was_cut(reply: Reply) -> bool:
    """Return whether an answer ended without its end."""
    return reply.ending is not Ending.WHOLE


# --- windows -------------------------------------------------------------------------------


def month_end(at_us: int) -> datetime:
    """Return the end of the month in UTC that an instant lies in."""
    at = datetime.fromtimestamp(at_us // US_PER_S, UTC)
    return (at.replace(day=1) + timedelta(days=32)).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0
    )


def instant(text: str) -> datetime:
    """Read an instant as headers and bodies tell it."""
    assert text.endswith("Z"), text
    return datetime.fromisoformat(text)


def seconds_until(end: datetime) -> int:
    """Return the seconds from this moment to `end`, rounded up."""
    return math.ceil(end.timestamp() - unix_us() / US_PER_S)
