"""What is measured: the upstream itself, nginx in front of it, and modelux in front of it.

```
   CPU 1                        CPU 0                          CPU 1
   loadgen ───────────────────────────────────────────────────► upstream     direct
   loadgen ─────► nginx, one worker ──────────────────────────► upstream     nginx
   loadgen ─────► modelux, one worker (+ writer, supervisor) ─► upstream     modelux
                                     └──── TLS ──► nginx (CPU 1) ──► upstream
```

All run at once and take turns: who is not measured is idle.
"""

import contextlib
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final

from bench.macro import processes
from modelux.clock import mono_us, pause_s
from modelux.units import US_PER_S

NGINX: Final = shutil.which("nginx") or (
    "/usr/sbin/nginx" if Path("/usr/sbin/nginx").exists() else ""
)
STARTS_WITHIN_S: Final = 30.0
KEY: Final = "mlx_sk_benchbenchbenchbenchbench"
PROVIDER_KEY: Final = "sk-bench-not-a-secret"

MEMORY: Final = Path("/dev/shm")
"""Where the default `state_dir` lies, too; ours has a name of its own, to be removed."""

UNARY: Final = "unary"
STREAM: Final = "stream"
TLS: Final = "tls"


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Where a target listens, and the model name to ask for, by what is measured."""

    ports: Mapping[str, int]
    models: Mapping[str, str]
    headers: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A running thing to measure."""

    name: str
    doors: Doors
    worker_pid: int | None = None
    """The process whose CPU and memory are the figure; none for the direct way."""
    beside: Mapping[str, int] = field(default_factory=dict)
    """Processes that are reported next to it, by role."""
    control_port: int | None = None
    """Where its metrics are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backends:
    """The upstream, and the TLS terminator in front of it where there is one."""

    plain_port: int
    upstream_pid: int
    tls_port: int | None
    ca_file: Path | None


def nginx_version() -> str:
    """Return what nginx calls itself, "" without nginx."""
    if not NGINX:
        return ""
    done = subprocess.run([NGINX, "-v"], capture_output=True, text=True, check=True)
    return done.stderr.strip().removeprefix("nginx version: ")


@contextlib.contextmanager
def direct(backends: Backends) -> Iterator[Target]:
    """No proxy at all: what everything else is compared with."""
    port = backends.plain_port
    yield Target(
        name="direct",
        doors=Doors(ports={UNARY: port, STREAM: port}, models={}),
    )


_NGINX_FRAME: Final = """\
daemon off;
worker_processes 1;
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  client_max_body_size 64m;
  client_body_buffer_size 256k;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000;
  keepalive_timeout 3600s;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_read_timeout 3600s;
  proxy_send_timeout 3600s;
{rest}
}}
"""

_NGINX_UPSTREAM: Final = """\
  upstream {name} {{
    server {server};
    keepalive 1024;
    keepalive_requests 1000000000;
    keepalive_timeout 3600s;
  }}
"""


@contextlib.contextmanager
def _running_nginx(
    folder: Path, rest: str, *, cpu: int, port: int
) -> Iterator[subprocess.Popen[str]]:
    folder.mkdir(parents=True)
    config = folder / "nginx.conf"
    # Without it a root master gives its worker to a user who may not write below `folder`.
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(_NGINX_FRAME.format(folder=folder, rest=rest, user=user))
    words = [NGINX, "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")]
    with processes.running(words, cpu=cpu, log=folder / "stderr.log") as child:
        processes.wait_until_listening(port, child, timeout_s=STARTS_WITHIN_S)
        yield child


def _worker_of(nginx: subprocess.Popen[str]) -> int:
    # The master listens before it forks, and a fork has the master's name for a moment.
    deadline_us = mono_us() + int(STARTS_WITHIN_S * US_PER_S)
    while mono_us() < deadline_us:
        for pid, words in processes.descendants(nginx.pid).items():
            if "worker" in words:
                return pid
        pause_s(0.005)
    raise RuntimeError("nginx runs no worker")


@contextlib.contextmanager
def nginx(folder: Path, backends: Backends, *, name: str = "nginx") -> Iterator[Target]:
    """`proxy_pass` with keep-alive on both sides; a second door without buffering."""
    ports = {UNARY: processes.free_port(), STREAM: processes.free_port()}
    rest = _NGINX_UPSTREAM.format(name="plain", server=f"127.0.0.1:{backends.plain_port}")
    rest += _server(ports[UNARY], "proxy_pass http://plain;")
    rest += _server(ports[STREAM], "proxy_pass http://plain; proxy_buffering off;")
    if backends.tls_port is not None:
        ports[TLS] = processes.free_port()
        rest += _NGINX_UPSTREAM.format(name="tls", server=f"127.0.0.1:{backends.tls_port}")
        rest += _server(
            ports[TLS],
            "proxy_pass https://tls; proxy_buffering off; proxy_ssl_verify on; "
            f"proxy_ssl_trusted_certificate {backends.ca_file}; proxy_ssl_name localhost; "
            "proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3;",
        )
    with _running_nginx(folder, rest, cpu=processes.PROXY_CPU, port=ports[UNARY]) as child:
        yield Target(
            name=name,
            doors=Doors(ports=ports, models={}),
            worker_pid=_worker_of(child),
            beside={"master": child.pid},
        )


def _server(port: int, directives: str, *, options: str = "") -> str:
    return (
        f"  server {{ listen 127.0.0.1:{port}{options} backlog=4096;"
        f" location / {{ {directives} }} }}\n"
    )


@contextlib.contextmanager
def tls_terminator(folder: Path, plain_port: int) -> Iterator[tuple[int, Path]]:
    """Run nginx with TLS in front of the upstream, on the upstream's CPU."""
    folder.mkdir(parents=True)
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", str(key),
         "-out", str(certificate), "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    port = processes.free_port()
    rest = _NGINX_UPSTREAM.format(name="plain", server=f"127.0.0.1:{plain_port}")
    rest += f"  ssl_certificate {certificate};\n  ssl_certificate_key {key};\n"
    rest += "  ssl_protocols TLSv1.3;\n"
    rest += _server(port, "proxy_pass http://plain; proxy_buffering off;", options=" ssl")
    nginx_folder = folder / "nginx"
    with _running_nginx(nginx_folder, rest, cpu=processes.LOAD_CPU, port=port):
        yield port, certificate


def has_tls() -> bool:
    """Can there be a TLS row? It needs nginx and `openssl` to make a certificate."""
    return bool(NGINX) and shutil.which("openssl") is not None and ssl.HAS_TLSv1_3


_MODELUX_CONFIG: Final = """\
[server]
listen = "127.0.0.1:{port}"
control_listen = "127.0.0.1:{control_port}"
workers = 1
data_dir = "{data_dir}"
state_dir = "{state_dir}"
store_bodies = "full"
drain_delay_s = 0
drain_s = 5

[providers.plain]
vendor = "openai_compatible"
base_url = "http://127.0.0.1:{plain_port}/v1"
api_key = "env:BENCH_PROVIDER_KEY"
models = ["gpt-4o-mini", "gpt-4o"]
max_connections = 4096
{tls_provider}
[projects.default]
keys = [
  {{ key = "env:BENCH_KEY", tags = {{ team = "ml" }}, require = ["tag:feature"] }},
]

[routes.bench]
strategy = "fallback"
attempts = [
  {{ model = "plain/gpt-4o-mini", timeout_ms = 30000 }},
  {{ model = "plain/gpt-4o", timeout_ms = 30000 }},
]
retry_on = ["429", "5xx", "timeout"]
{tls_route}
[prices."plain/gpt-4o-mini"]
input_usd_per_mtok = 0.15
output_usd_per_mtok = 0.60

[prices."plain/gpt-4o"]
input_usd_per_mtok = 2.50
output_usd_per_mtok = 10.00
{budgets}"""

_BUDGETS: Final = """
[[budgets]]
name = "all"
scope = { type = "organization" }
cap_usd = 9000000

[[budgets]]
name = "project"
scope = { type = "project", id = "default" }
cap_usd = 9000000
period = "daily"
timezone = "Europe/Berlin"

[[budgets]]
name = "team"
scope = { type = "tag", key = "team", value = "ml" }
cap_usd = 9000000
period = "weekly"
"""
"""Three caps that every request counts against and none comes near."""

_TLS_PROVIDER: Final = """
[providers.tls]
vendor = "openai_compatible"
base_url = "https://localhost:{tls_port}/v1"
api_key = "env:BENCH_PROVIDER_KEY"
ca_file = "{ca_file}"
connect_ip_family = "ipv4"
models = ["gpt-4o-mini"]
max_connections = 4096
"""

_TLS_ROUTE: Final = """
[routes.bench-tls]
strategy = "single"
model = "tls/gpt-4o-mini"

[prices."tls/gpt-4o-mini"]
input_usd_per_mtok = 0.15
output_usd_per_mtok = 0.60
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeluxFiles:
    """A written configuration, and what starting with it needs."""

    folder: Path
    config: Path
    data_dir: Path
    state_dir: Path
    port: int
    control_port: int
    has_tls: bool


def write_modelux(folder: Path, backends: Backends, *, capped: bool = True) -> ModeluxFiles:
    """Write a configuration with everything on: key, tags, fallback, prices, budgets, bodies.

    Not `capped`, it has no budgets: the difference is what they cost.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port, control_port = processes.free_port(), processes.free_port()
    files = ModeluxFiles(
        folder=folder,
        config=folder / "modelux.toml",
        data_dir=folder / "data",
        state_dir=MEMORY / f"{folder.parent.name}-{folder.name}",
        port=port,
        control_port=control_port,
        has_tls=backends.tls_port is not None,
    )
    tls = {"tls_port": backends.tls_port, "ca_file": backends.ca_file}
    files.config.write_text(
        _MODELUX_CONFIG.format(
            port=port,
            control_port=control_port,
            data_dir=files.data_dir,
            state_dir=files.state_dir,
            plain_port=backends.plain_port,
            tls_provider=_TLS_PROVIDER.format(**tls) if files.has_tls else "",
            tls_route=_TLS_ROUTE if files.has_tls else "",
            budgets=_BUDGETS if capped else "",
        )
    )
    return files


def modelux_command() -> list[str]:
    """Return the installed command, else the module."""
    installed = Path(sys.executable).parent / "modelux"
    if installed.exists():
        return [str(installed)]
    return [sys.executable, "-m", "modelux.cli.main"]


@contextlib.contextmanager
def serving(
    files: ModeluxFiles, *, cpu: int | None = processes.PROXY_CPU
) -> Iterator[subprocess.Popen[str]]:
    """Run `modelux serve`, and return at once: it may not listen yet."""
    words = [*modelux_command(), "serve", "--config", str(files.config)]
    env = {"BENCH_KEY": KEY, "BENCH_PROVIDER_KEY": PROVIDER_KEY}
    log = files.folder / "serve.log"
    with processes.running(words, cpu=cpu, log=log, env=env) as child:
        yield child


@contextlib.contextmanager
def modelux(
    folder: Path,
    backends: Backends,
    *,
    name: str = "modelux",
    writer_cpu: int | None = None,
    capped: bool = True,
) -> Iterator[Target]:
    """`modelux serve` with one worker and everything on."""
    files = write_modelux(folder, backends, capped=capped)
    with removed_after(files.state_dir), serving(files) as child:
        wait_until_answering(files, child)
        roles = modelux_roles(child.pid)
        worker_pid = roles.pop("worker")
        if writer_cpu is not None and "writer" in roles:
            os.sched_setaffinity(roles["writer"], {writer_cpu})
        yield Target(
            name=name,
            doors=modelux_doors(files),
            worker_pid=worker_pid,
            beside={"supervisor": child.pid, **roles},
            control_port=files.control_port,
        )


@contextlib.contextmanager
def removed_after(folder: Path) -> Iterator[None]:
    """Remove a folder in memory once who used it has ended."""
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make(
    name: str, folder: Path, backends: Backends, *, writer_cpu: int | None = None
) -> contextlib.AbstractContextManager[Target]:
    """Return the target of that name, started when it is entered.

    Raises:
        ValueError: There is none of that name.
    """
    match name:
        case "direct":
            return direct(backends)
        case "nginx" | "nginx2":
            return nginx(folder, backends, name=name)
        case "modelux":
            return modelux(folder, backends, writer_cpu=writer_cpu)
        case "uncapped":
            return modelux(folder, backends, name=name, writer_cpu=writer_cpu, capped=False)
        case _:
            raise ValueError(f"`{name}` is no target")


def modelux_doors(files: ModeluxFiles) -> Doors:
    """Return how to call a `modelux serve` that runs with these files."""
    kinds = (UNARY, STREAM, TLS) if files.has_tls else (UNARY, STREAM)
    return Doors(
        ports=dict.fromkeys(kinds, files.port),
        models={UNARY: "@bench", STREAM: "@bench", TLS: "@bench-tls"},
        headers=(
            f"Authorization: Bearer {KEY}",
            "X-Modelux-User-Tags: feature=search,env=prod",
            "X-Modelux-User-Id: user-4711",
        ),
    )


ROLES: Final = {
    "worker": "modelux.proxy.worker",
    "writer": "modelux.writer.process",
    "control": "modelux.control.process",
}
"""The processes below the supervisor, by the module that each runs."""


def modelux_roles(supervisor_pid: int) -> dict[str, int]:
    """Find the processes of one `modelux serve`; the first answer does not wait for them all.

    Raises:
        RuntimeError: One of them does not run.
    """
    deadline_us = mono_us() + int(STARTS_WITHIN_S * US_PER_S)
    while True:
        roles = {
            role: pid
            for pid, words in processes.descendants(supervisor_pid).items()
            for role, module in ROLES.items()
            if module in words
        }
        if roles.keys() == ROLES.keys():
            return roles
        if mono_us() > deadline_us:
            raise RuntimeError(f"`modelux serve` runs only {sorted(roles)}")
        pause_s(0.01)


def wait_until_answering(files: ModeluxFiles, child: subprocess.Popen[str]) -> None:
    """Ask for a completion until there is one.

    Raises:
        RuntimeError: It ended, or does not answer with 200 in time.
    """
    deadline_us = mono_us() + int(STARTS_WITHIN_S * US_PER_S)
    body = '{"model":"@bench","messages":[{"role":"user","content":"Hello"}]}'
    headers = dict(line.split(": ", 1) for line in modelux_doors(files).headers)
    said = ""
    while mono_us() < deadline_us:
        if child.poll() is not None:
            ended = f"`modelux serve` ended with {child.returncode}"
            raise RuntimeError(f"{ended}:\n{_log_tail(files)}")
        connection = HTTPConnection("127.0.0.1", files.port, timeout=5)
        try:
            connection.request("POST", "/v1/chat/completions", body, headers)
            answer = connection.getresponse()
            said = f"{answer.status} {answer.read()[:500]!r}"
            if answer.status == 200:
                return
        except (OSError, HTTPException) as error:
            said = repr(error)
        finally:
            connection.close()
        pause_s(0.002)
    raise RuntimeError(f"`modelux serve` does not answer: {said}\n{_log_tail(files)}")


def _log_tail(files: ModeluxFiles) -> str:
    return (files.folder / "serve.log").read_text(errors="replace")[-2000:]
