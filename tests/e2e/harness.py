"""Starts `modelux serve` and `modelux simulate` as real processes, and talks to them.

What a test needs of a running gateway: where it listens, its traces once they are stored, what
the stand-in provider received and billed, and a raw HTTP/1.1 client that tells a whole answer
from a cut one. Only processes started here are ever ended; each must exit 0 on SIGTERM.
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, unique
from pathlib import Path
from typing import Any, Final, TypeVar

from modelux.clock import mono_us, pause_s

HOST: Final = "127.0.0.1"
KEY: Final = "mlx_sk_e2e_0123456789abcdefghijklmn"
KEY_VARIABLE: Final = "MODELUX_E2E_KEY"
PROVIDER_KEY: Final = "sk-simulated-5f2c8d7e9a1b4c6d"
PROVIDER_KEY_VARIABLE: Final = "E2E_PROVIDER_KEY"

START_S: Final = 30
STOP_S: Final = 30
WAIT_S: Final = 20
"""Long enough for a machine whose cores are busy with builds; nobody waits for it otherwise."""

READ_BYTES: Final = 64 * 1024
PAUSE_S_MIN: Final = 0.002
PAUSE_S_MAX: Final = 0.1

T = TypeVar("T")
Json = dict[str, Any]


def until(probe: Callable[[], T | None], *, what: str, timeout_s: float = WAIT_S) -> T:
    """Return the first truthy result of `probe`, asked again and again.

    Raises:
        TimeoutError: It stayed falsy.
    """
    deadline_us = mono_us() + timeout_s * 1_000_000
    pause = PAUSE_S_MIN
    while not (result := probe()):
        if mono_us() > deadline_us:
            raise TimeoutError(f"{what}: not within {timeout_s} s")
        pause_s(pause)
        pause = min(pause * 2, PAUSE_S_MAX)
    return result


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def command(*words: str) -> list[str]:
    """Return the argument list of a `modelux` command, run by this very interpreter."""
    return [sys.executable, "-m", "modelux.cli.main", *words]


# --- processes -----------------------------------------------------------------------------


@dataclass(slots=True)
class Child:
    """A process of ours and the file that it writes to."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def said(self) -> str:
        """Return what it wrote to stdout and stderr."""
        return self.log.read_text("utf-8", "replace")

    def alive(self) -> bool:
        """Return whether it runs."""
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal to it."""
        self.process.send_signal(number)

    def stop(self) -> int:
        """End it with SIGTERM; return its exit code."""
        if self.alive():
            self.process.terminate()
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            # Its workers, too: they are its children, in the session made for it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise


@contextlib.contextmanager
def child(
    name: str,
    words: Sequence[str],
    folder: Path,
    *,
    env: Mapping[str, str] | None = None,
    expect: int | None = 0,
) -> Iterator[Child]:
    """Run a process for the length of the block.

    Args:
        name: Of its log file in `folder`.
        words: The command.
        folder: Where the log goes.
        env: Added to this process's environment.
        expect: The exit code that SIGTERM must lead to; None accepts any.
    """
    log_path = folder / f"{name}.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    running = Child(name, process, log_path)
    try:
        yield running
    except BaseException:
        sys.stderr.write(f"--- {name} said ---\n{running.said()[-8000:]}\n")
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.stop()
        raise
    code = running.stop()
    assert expect is None or code == expect, f"{name} exited with {code}:\n{running.said()}"


# --- the stand-in provider -----------------------------------------------------------------


@dataclass(slots=True)
class Simulator:
    """A running `modelux simulate`."""

    child: Child
    address: str
    """`http://HOST:PORT`."""

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.address.rpartition(":")[2])

    def base_url(self, settings: str = "") -> str:
        """Return a base URL whose requests are answered under `settings`."""
        return f"{self.address}/_s/{settings}/v1" if settings else f"{self.address}/v1"

    def ledger(self, **wanted: str) -> Json:
        """Return what it received and billed; `model=`, `label=`, `fault=` choose requests."""
        query = "&".join(f"{name}={value}" for name, value in wanted.items())
        return self._call("GET", f"/_ledger?{query}")

    def totals(self) -> Json:
        """Return what it has billed up to this moment, open requests included."""
        return self._call("GET", "/_ledger/totals")

    def requests(self, **wanted: str) -> list[Json]:
        """Return the requests of the ledger, oldest first."""
        found: list[Json] = self.ledger(**wanted)["requests"]
        return found

    def only(self, **wanted: str) -> Json:
        """Return the one request that fits."""
        found = self.requests(**wanted)
        assert len(found) == 1, (wanted, found)
        return found[0]

    def wait_request(self, seen: Callable[[Json], bool], **wanted: str) -> Json:
        """Return the first request for which `seen` holds, once there is one."""
        return until(
            lambda: next((each for each in self.requests(**wanted) if seen(each)), None),
            what=f"a request at the provider ({wanted})",
        )

    def tell(self, model: str, settings: str) -> None:
        """Change how it answers for a model from now on."""
        self._call("PUT", f"/_models/{model}", settings)

    def reset(self) -> None:
        """Make it forget what it received."""
        self._call("DELETE", "/_ledger")

    def _call(self, method: str, path: str, body: str | None = None) -> Json:
        connection: http.client.HTTPConnection
        if self.address.startswith("https:"):
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection = http.client.HTTPSConnection(HOST, self.port, context=context)
        else:
            connection = http.client.HTTPConnection(HOST, self.port, timeout=WAIT_S)
        with contextlib.closing(connection):
            connection.request(method, path, body)
            found: Json = json.loads(connection.getresponse().read())
            return found


@contextlib.contextmanager
def simulate(folder: Path, *flags: str, name: str = "simulate") -> Iterator[Simulator]:
    """Run a stand-in provider on a free port for the length of the block."""
    words = command("simulate", "--listen", f"{HOST}:0", *flags)
    with child(name, words, folder) as running:
        address = until(lambda: _announced(running), what="the stand-in provider's address")
        yield Simulator(running, address)


def _announced(running: Child) -> str:
    assert running.alive(), running.said()
    lines = running.said().splitlines()
    return next((each.split()[-1] for each in lines if "listening on http" in each), "")


def certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """Make a self-signed certificate for `name` and 127.0.0.1; return it and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    subject = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name},IP:{HOST}"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            *curve,
            *subject,
            "-days",
            "2",
            "-out",
            cert,
            "-keyout",
            key,
        ],
        capture_output=True,
        check=True,
    )
    return cert, key


# --- the gateway ---------------------------------------------------------------------------


@dataclass(slots=True)
class Gateway:
    """A running `modelux serve`."""

    child: Child
    config: Path
    port: int
    control_port: int
    env: Mapping[str, str]

    @property
    def address(self) -> str:
        """Where apps call it."""
        return f"http://{HOST}:{self.port}"

    @property
    def base_url(self) -> str:
        """What an OpenAI client is given."""
        return f"{self.address}/v1"

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run another `modelux` command with the same configuration."""
        return subprocess.run(
            [*command(*words), "--config", str(self.config)],
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )

    def trace(self, request_id: str) -> Json:
        """Return the trace record of a request, once it is stored."""
        assert request_id, "an answer without X-Modelux-Request-Id"

        def stored() -> Json | None:
            done = self.run("logs", "--trace", request_id, "--json")
            if done.returncode != 0 or not done.stdout.strip():
                return None
            record: Json = json.loads(done.stdout)
            return record

        return until(stored, what=f"the trace of {request_id}")

    def traces(self) -> list[Json]:
        """Return every stored trace, oldest first."""
        done = self.run("logs", "--json", "--limit", "0")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]

    def pids(self) -> list[int]:
        """Return the supervisor's process and all of its descendants."""
        parents: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    stat = (entry / "stat").read_text()
                    parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
        found = [self.child.process.pid]
        for pid in found:
            found += [each for each, parent in parents.items() if parent == pid]
        return found

    def resident_bytes_max(self) -> int:
        """Return the largest resident size that any of its processes has."""
        sizes = []
        for pid in self.pids():
            with contextlib.suppress(OSError):
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                sizes.append(pages * os.sysconf("SC_PAGE_SIZE"))
        return max(sizes)


@contextlib.contextmanager
def serve(
    folder: Path,
    config: str,
    *,
    server: str = "",
    workers: int = 1,
    drain_delay_s: int = 0,
    env: Mapping[str, str] | None = None,
    expect: int | None = 0,
) -> Iterator[Gateway]:
    """Run a gateway on free ports for the length of the block, once it is ready.

    Args:
        folder: Where its configuration, data and log go.
        config: Everything but the `[server]` table, as TOML.
        server: More lines of the `[server]` table.
        workers: How many.
        drain_delay_s: How long connections are accepted after SIGTERM.
        env: Added to the environment; the keys of this module are always there.
        expect: The exit code that SIGTERM must lead to.
    """
    port, control_port = free_port(), free_port()
    path = folder / "modelux.toml"
    path.write_text(
        "[server]\n"
        f'listen = "{HOST}:{port}"\ncontrol_listen = "{HOST}:{control_port}"\n'
        f'data_dir = "{folder / "data"}"\nstate_dir = "{folder / "state"}"\n'
        f"workers = {workers}\ndrain_delay_s = {drain_delay_s}\ndrain_s = 5\n"
        f"{server}\n{config}",
        "utf-8",
    )
    environment = {KEY_VARIABLE: KEY, PROVIDER_KEY_VARIABLE: PROVIDER_KEY, **(env or {})}
    words = command("serve", "--config", str(path))
    with child("serve", words, folder, env=environment, expect=expect) as running:
        gateway = Gateway(running, path, port, control_port, environment)
        until(lambda: _is_ready(gateway), what="readyz", timeout_s=START_S)
        yield gateway


def _is_ready(gateway: Gateway) -> bool:
    assert gateway.child.alive(), gateway.child.said()
    connection = http.client.HTTPConnection(HOST, gateway.port, timeout=WAIT_S)
    with (
        contextlib.closing(connection),
        contextlib.suppress(OSError, http.client.HTTPException),
    ):
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    return False


def provider_table(name: str, base_url: str, *lines: str) -> str:
    """Return the table of an OpenAI-compatible provider with the key of this module."""
    extra = "".join(f"{line}\n" for line in lines)
    return (
        f'[providers.{name}]\nvendor = "openai_compatible"\nbase_url = "{base_url}"\n'
        f'api_key = "env:{PROVIDER_KEY_VARIABLE}"\n{extra}\n'
    )


PROJECT: Final = f'[projects.default]\nkeys = ["env:{KEY_VARIABLE}"]\n\n'


# --- a raw client --------------------------------------------------------------------------


@unique
class Ending(Enum):
    """How the bytes of an answer ended."""

    WHOLE = "whole"
    """By its length or its last chunk; the connection may still be open."""
    FIN = "fin"
    """The connection closed; whole only where the body is delimited by that."""
    RESET = "reset"
    SILENCE = "silence"
    """Nothing came for as long as the test waits."""


@dataclass(slots=True)
class Reply:
    """One answer, read byte by byte."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    ending: Ending
    interim: list[int] = field(default_factory=list)
    """Statuses of 1xx answers before it."""
    rest: bytes = b""
    """What came behind it on the connection."""

    def header(self, name: str) -> str | None:
        """Return the first value of a field, None where it is absent."""
        return next((value for each, value in self.headers if each == name.lower()), None)

    @property
    def request_id(self) -> str:
        """The trace's key."""
        return self.header("x-modelux-request-id") or ""

    def json(self) -> Json:
        """Return the body as JSON."""
        found: Json = json.loads(self.body)
        return found

    def error(self) -> Json:
        """Return the error object of the body."""
        found: Json = self.json()["error"]
        return found

    def events(self) -> list[str]:
        """Return the data of the complete SSE events, in order."""
        blocks = self.body.decode("utf-8", "replace").split("\n\n")[:-1]
        return [
            line.removeprefix("data: ")
            for block in blocks
            for line in block.split("\n")
            if line.startswith("data: ")
        ]

    def text(self) -> str:
        """Return the text of a streamed or whole chat answer."""
        if self.header("content-type") == "application/json":
            content: str = self.json()["choices"][0]["message"]["content"]
            return content
        chunks = [json.loads(each) for each in self.events() if each != "[DONE]"]
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk.get("choices")]
        return "".join(delta.get("content") or "" for delta in deltas)


class RawClient:
    """One connection on which a test sends whatever bytes it likes."""

    def __init__(self, port: int, *, timeout_s: float = WAIT_S) -> None:
        self.sock = socket.create_connection((HOST, port), timeout=timeout_s)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self._ended: Ending | None = None

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Send all of `data`."""
        self.sock.sendall(data)

    def reset(self) -> None:
        """End the connection with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def read_until(self, mark: bytes) -> bytes:
        """Return what comes up to and including `mark`, or all there is at the end."""
        while mark not in self._buffer and self._more():
            pass
        end = self._buffer.find(mark)
        return self._take(len(self._buffer) if end < 0 else end + len(mark))

    def read_some(self, size_bytes: int) -> bytes:
        """Return `size_bytes` bytes, fewer only at the end."""
        while len(self._buffer) < size_bytes and self._more():
            pass
        return self._take(min(size_bytes, len(self._buffer)))

    def read_end(self) -> tuple[bytes, Ending]:
        """Return all that still comes, and how the connection ends."""
        while self._more():
            pass
        assert self._ended is not None, "reading ended without an end"
        return self._take(len(self._buffer)), self._ended

    def read_reply(self, *, method: str = "POST") -> Reply:
        """Read one answer, 1xx answers before it included."""
        interim: list[int] = []
        while True:
            head = self.read_until(b"\r\n\r\n")
            if not head.endswith(b"\r\n\r\n"):
                return Reply(0, [], head, self._ended or Ending.SILENCE, interim)
            status, headers = _parse_head(head)
            if status >= 200:
                break
            interim.append(status)
        fields = dict(headers)
        ending = Ending.WHOLE
        body = b""
        if method == "HEAD" or status in {204, 304}:
            pass
        elif fields.get("transfer-encoding") == "chunked":
            body, ending = self._read_chunks()
        elif "content-length" in fields:
            length = int(fields["content-length"])
            body = self.read_some(length)
            ending = Ending.WHOLE if len(body) == length else self._ended or Ending.SILENCE
        else:
            body, ending = self.read_end()
        return Reply(status, headers, body, ending, interim, self._buffer)

    def _read_chunks(self) -> tuple[bytes, Ending]:
        body = b""
        while True:
            line = self.read_until(b"\r\n")
            if not line.endswith(b"\r\n"):
                return body, self._ended or Ending.SILENCE
            size = int(line.partition(b";")[0], 16)
            data = self.read_some(size + 2)
            body += data[:size]
            if len(data) < size + 2:
                return body, self._ended or Ending.SILENCE
            if size == 0:
                assert data == b"\r\n", f"trailers: {data!r}"
                return body, Ending.WHOLE

    def _more(self) -> bool:
        if self._ended in {Ending.FIN, Ending.RESET}:
            return False
        try:
            data = self.sock.recv(READ_BYTES)
        except TimeoutError:
            self._ended = Ending.SILENCE
            return False
        except ConnectionError:
            self._ended = Ending.RESET
            return False
        if not data:
            self._ended = Ending.FIN
            return False
        self._buffer += data
        return True

    def _take(self, size_bytes: int) -> bytes:
        taken, self._buffer = self._buffer[:size_bytes], self._buffer[size_bytes:]
        return taken


def _parse_head(head: bytes) -> tuple[int, list[tuple[str, str]]]:
    lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    fields = [line.partition(":") for line in lines[1:]]
    return int(lines[0].split()[1]), [
        (name.lower(), value.strip()) for name, _, value in fields
    ]


def chat_body(model: str, *, stream: bool = False, **more: object) -> bytes:
    """Return the body of a small chat request."""
    fields: Json = {"model": model, "messages": [{"role": "user", "content": "Say something."}]}
    if stream:
        fields["stream"] = True
    return json.dumps(fields | more).encode()


def post(
    body: bytes,
    *,
    path: str = "/v1/chat/completions",
    key: str | None = KEY,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """Return the bytes of a whole request."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {HOST}", "Content-Type: application/json"]
    lines += [f"Authorization: Bearer {key}"] if key is not None else []
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def call(
    port: int,
    body: bytes,
    *,
    path: str = "/v1/chat/completions",
    key: str | None = KEY,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Send one request on a connection of its own and return its answer."""
    with RawClient(port) as client:
        client.send(post(body, path=path, key=key, headers=headers))
        return client.read_reply()
