"""The supervisor's source of snapshots: configuration file or environment, and `control.db`.

Loads are all or nothing: what cannot serve raises before anything has changed, and the last
good configuration goes on being what snapshots are compiled from.
"""

import functools
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Final, final

from modelux.clock import unix_us
from modelux.config.compile import compile_snapshot
from modelux.config.database import Who
from modelux.config.file import find_config, load_config
from modelux.config.keys import hash_end_user
from modelux.config.model import Config, Server
from modelux.config.read import build
from modelux.config.rows import MadeKey
from modelux.config.versions import ControlDb
from modelux.limits import MIB
from modelux.store.copy import cutoff_of
from modelux.supervisor.backfill import budget_order
from modelux.supervisor.orders import PAST_S, CreditOrder, Orders, ResetOrder
from modelux.trace.files import trace_files

OLLAMA: Final = ("127.0.0.1", 11434)
PROBE_TIMEOUT_S: Final = 0.2
PROBE_BYTES_MAX: Final = MIB

# What a snapshot carries; everything else of `[server]` is read at the start of a process.
LIVE_OPTIONS: Final = frozenset(
    {
        "header_bytes_max", "body_bytes_max", "max_in_flight", "store_bodies",
        "client_header_timeout_s", "client_body_timeout_s", "client_keepalive_s",
        "upstream_keepalive_s", "hash_end_users", "store_client_ip", "access_log", "provision",
        "default_output_tokens", "min_output_tokens",
    }
)  # fmt: skip


@final
class Configuration:
    """What is configured, and how to read it again."""

    __slots__ = (
        "_config",
        "_db",
        "_environ",
        "_flag",
        "_flags",
        "_made_key",
        "_notes",
        "_version",
        "server",
    )

    def __init__(
        self, flag: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]
    ) -> None:
        """Read and validate the configuration; nothing is opened or changed yet.

        Args:
            flag: The file of `--config`, if it was given.
            environ: The environment, for the file's place and for references.
            flags: Options of `[server]` that the command line says over the file.

        Raises:
            ConfigError: With every fault.
        """
        self._flag = flag
        self._environ = environ
        self._flags = flags
        self._config = self._read()
        self.server = self._over(self._config)
        """The options that this start goes by, flags included."""
        self._db: ControlDb | None = None
        self._made_key: MadeKey | None = None
        self._notes: tuple[str, ...] = ()
        self._version = 0

    def load(self) -> bytes:
        """Apply the configuration, read anew if it has been applied before; see `Source`."""
        if self._db is None:
            config = self._config
            self._db = ControlDb(self.server.data_dir)
        else:
            config = self._read()
        who = Who(actor="file", source=config.source)
        self._db.apply_config(config, actor=who.actor, source=who.source)
        self._made_key = self._db.ensure_default_key(config, who) or self._made_key
        blob = compile_snapshot(config, self._db)
        self._notes = tuple(changed_at_next_start(self.server, self._over(config)))
        self._config = config
        self._version = self._db.data_version()
        return blob

    def has_changed(self) -> bool:
        """Return whether another process has changed `control.db` since the last look."""
        assert self._db is not None, "loaded before it is watched"
        version = self._db.data_version()
        has_changed, self._version = version != self._version, version
        return has_changed

    def compile(self) -> bytes:
        """Return the snapshot of what is configured and live; see `Source`."""
        assert self._db is not None, "loaded before it is compiled"
        return compile_snapshot(self._config, self._db)

    def orders(self) -> Orders:
        """Return what the ledger is to be brought to; see `Source`."""
        db = self._db
        assert db is not None, "loaded before the ledger is told"
        files = trace_files(self.server.data_dir)
        hashed = self._config.server.hash_end_users
        # Computed in the keeper's thread: nothing of it may touch the connection of ours.
        pepper = db.pepper
        stored = functools.partial(hash_end_user, pepper) if hashed else str
        return Orders(
            budgets=[budget_order(one, files, stored) for one in self._config.budgets],
            credits=[
                CreditOrder(
                    key=one.key,
                    subject=one.subject,
                    window_end_s=one.window_end_s,
                    nusd=one.usd,
                )
                for one in db.credit_sums(cutoff_of(unix_us(), PAST_S))
            ],
            resets=[ResetOrder(id=one.id, model=one.model) for one in db.bound_resets()],
        )

    def notes(self) -> Sequence[str]:
        """Return the options that the last load cannot change before the next start."""
        return self._notes

    def greeting(self, base_url: str) -> Sequence[str]:
        """Return how to send the first request; with a key that was just made, that once."""
        routes = [
            f"@{route.slug}" for route in self._config.routes if route.project == "default"
        ]
        lines = [f"Base URL: {base_url}"]
        if routes:
            lines.append(f"Routes:   {', '.join(routes)}")
        if self._made_key is None:
            return lines
        key = self._made_key.secret.reveal()
        self._made_key = None
        body = {"model": routes[0] if routes else "@default", "messages": [MESSAGE]}
        return [
            *lines,
            f"Key:      {key}  (made now for project `default`, shown only this once)",
            "Try it:",
            f"  curl -sS {base_url}/chat/completions -H 'Authorization: Bearer {key}' "
            f"-H 'Content-Type: application/json' -d '{json.dumps(body)}'",
        ]

    def _read(self) -> Config:
        path = find_config(self._flag, self._environ)
        return load_config(path, self._environ, probe=ollama_models)

    def _over(self, config: Config) -> Server:
        return build(Server, {**_values(config.server), **self._flags})


MESSAGE: Final = {"role": "user", "content": "Say hello in five words."}


def changed_at_next_start(before: Server, after: Server) -> list[str]:
    """Return the names of options that differ and that no reload can change."""
    return [
        f"server.{item.name}"
        for item in fields(Server)
        if item.name not in LIVE_OPTIONS
        and getattr(before, item.name) != getattr(after, item.name)
    ]


def _values(server: Server) -> dict[str, object]:
    return {item.name: getattr(server, item.name) for item in fields(Server)}


def ollama_models(address: tuple[str, int] = OLLAMA) -> Sequence[str] | None:
    """Ask a local Ollama which models it has; None where none answers.

    One request by hand: an HTTP client would cost every start more than the answer is worth.
    """
    request = b"GET /v1/models HTTP/1.0\r\nhost: localhost\r\naccept: application/json\r\n\r\n"
    answer = b""
    try:
        with socket.create_connection(address, timeout=PROBE_TIMEOUT_S) as ollama:
            ollama.sendall(request)
            while len(answer) < PROBE_BYTES_MAX and (chunk := ollama.recv(65_536)):
                answer += chunk
    except OSError:
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.split(b" ")[1:2] != [b"200"]:
        return None
    try:
        listed = json.loads(body)["data"]
        return [str(model["id"]) for model in listed]
    except (ValueError, KeyError, TypeError):
        return None
