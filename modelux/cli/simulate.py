"""`modelux simulate`: run the stand-in provider until it is told to stop.

Every setting of an answer is a flag here too; the flags are made from the one declaration of
each in `modelux/simulator/settings.py`.
"""

import argparse
import asyncio
import ssl
import sys
from dataclasses import fields
from pathlib import Path
from typing import Final

import uvloop

from modelux.simulator.ledger import Ledger, Price, parse_price
from modelux.simulator.provider import Options, Provider
from modelux.simulator.server import serve
from modelux.simulator.settings import Settings, SettingsError, parse_settings, split_model

EXIT_DONE: Final = 0
EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2

LISTEN: Final = "127.0.0.1:9090"
MODELS: Final = (
    "gpt-4o",
    "gpt-4o-mini",
    "claude-haiku-4-5",
    "gemini-2.5-flash",
    "text-embedding-3-small",
)
LEDGER_RECORDS_MAX: Final = 100_000

SHORT: Final = {
    "hang": "send nothing, or nothing more: head, mid[@TOKENS]",
    "cut": "end in the middle: reset[@TOKENS], fin[@TOKENS]",
}

GRAMMAR: Final = """\
Settings may also be given for one model (--model), in the path (`/_s/SETTINGS/v1/...`), in a
model's name as a caller sends it (`gpt-4o?status=429;retry_after=2`, `sim:tokens=3`) and in the
header `x-simulate`; each wins over the ones before it. GET /_ledger shows what was received
and billed, DELETE /_ledger forgets it.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = f"{parser.description} {GRAMMAR}"
    parser.add_argument(
        "--listen",
        default=LISTEN,
        metavar="HOST:PORT",
        help=f"where to listen; port 0 takes a free one and says which (default {LISTEN})",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="what all chance is drawn from (default 0)"
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME[?SETTINGS]",
        help="list a model, with settings of its own; may be repeated "
        f"(default: {', '.join(MODELS)})",
    )
    parser.add_argument(
        "--price",
        action="append",
        default=[],
        metavar="MODEL=INPUT:OUTPUT[:CACHED]",
        help="what a model costs, in USD for a million tokens; may be repeated",
    )
    parser.add_argument(
        "--api-key", action="append", default=[], help="accept only this key; may be repeated"
    )
    parser.add_argument(
        "--ledger-max",
        type=int,
        default=LEDGER_RECORDS_MAX,
        metavar="N",
        help="requests the ledger keeps one by one; the totals count all "
        f"(default {LEDGER_RECORDS_MAX})",
    )
    parser.add_argument(
        "--keep-bodies", action="store_true", help="keep request bodies in the ledger"
    )
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="serve TLS")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="key of the certificate")
    group = parser.add_argument_group("settings of every answer")
    for name, prose in SHORT.items():
        group.add_argument(f"--{name}", dest=f"setting_{name}", metavar="VALUE", help=prose)
    for each in fields(Settings):
        group.add_argument(
            f"--{each.name.replace('_', '-')}",
            dest=f"setting_{each.name}",
            metavar="VALUE",
            help=each.metadata["prose"],
        )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    try:
        host, port = _parse_listen(args.listen)
        options = _options(args)
        prices = dict(parse_price(text) for text in args.price)
        tls = _tls(args.tls_cert, args.tls_key)
    except (SettingsError, ValueError) as error:
        sys.stderr.write(f"modelux simulate: {error}\n")
        return EXIT_USAGE
    except OSError as error:
        sys.stderr.write(f"modelux simulate: cannot read the certificate or key: {error}\n")
        return EXIT_FAILURE
    return _serve(options, prices, args.ledger_max, (host, port), tls)


def _serve(
    options: Options,
    prices: dict[str, Price],
    records_max: int,
    address: tuple[str, int],
    tls: ssl.SSLContext | None,
) -> int:
    provider = Provider(options, Ledger(prices=prices, records_max=records_max))
    host, port = address
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(serve(provider, host, port, tls, _announce))
        except OSError as error:
            sys.stderr.write(f"modelux simulate: cannot listen on `{host}:{port}`: {error}\n")
            return EXIT_FAILURE
    return EXIT_DONE


def _options(args: argparse.Namespace) -> Options:
    settings = Settings()
    for name in (*SHORT, *(each.name for each in fields(Settings))):
        value: str | None = getattr(args, f"setting_{name}")
        if value is not None:
            settings = parse_settings(f"{name}={value}", settings)
    models = dict(split_model(text) for text in args.model or MODELS)
    for text in models.values():
        parse_settings(text, settings)
    return Options(
        seed=args.seed,
        settings=settings,
        models=models,
        api_keys=frozenset(args.api_key),
        keep_bodies=args.keep_bodies,
    )


def _parse_listen(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"`--listen {text}` is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _tls(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if cert is None:
        if key is not None:
            raise ValueError("`--tls-key` needs `--tls-cert`")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    return context


def _announce(address: str) -> None:
    sys.stdout.write(f"modelux simulate: listening on {address}\n")
    sys.stdout.flush()
