"""`make run`: one request all the way through, on this machine, without an account.

Starts two stand-in providers, of which the first never answers, and the gateway with a route
that falls over from the first to the second, under a budget of one USD a day; sends one
streamed chat completion, prints it as it arrives, then the trace that explains it and what the
budget has spent, and stays up for your own requests until Ctrl-C.
With a provider's key in the environment it starts `modelux serve` for that provider instead.

Usage: python scripts/run.py [--once] [--listen HOST:PORT]
"""

import argparse
import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

PROVIDER_VARIABLES: Final = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY")
KEY_VARIABLE: Final = "MODELUX_DEMO_KEY"
HOST: Final = "127.0.0.1"
USUAL_PORT: Final = 8080
SHARED_MEMORY: Final = "/dev/shm"
START_S: Final = 20
TRACE_S: Final = 10
STOP_S: Final = 10
REQUEST_S: Final = 30
QUESTION: Final = "Why did this answer not come from the first provider?"

CONFIG: Final = """\
# Written by `make run`. The first provider accepts requests and never answers them.
[server]
listen = "{listen}"
control_listen = "{control}"
data_dir = "{data_dir}"
state_dir = "{state_dir}"
workers = 1
drain_delay_s = 0
drain_s = 5

[providers.silent]
vendor = "openai_compatible"
base_url = "http://{silent}/v1"
models = ["claude-haiku-4-5"]

[providers.sound]
vendor = "openai_compatible"
base_url = "http://{sound}/v1"
models = ["gpt-4o-mini"]

[projects.playwright-test]
keys = ["env:{key_variable}"]

[routes.production]
project = "playwright-test"
strategy = "fallback"
attempts = [
  {{ model = "silent/claude-haiku-4-5", timeout_ms = 2000 }},
  {{ model = "sound/gpt-4o-mini", timeout_ms = 3000 }},
]
retry_on = ["429", "5xx", "timeout"]

[[budgets]]
name = "a dollar a day"
scope = {{ type = "organization" }}
cap_usd = 1
period = "daily"

[prices."silent/claude-haiku-4-5"]
input_usd_per_mtok = 1.00
output_usd_per_mtok = 5.00

[prices."sound/gpt-4o-mini"]
input_usd_per_mtok = 0.15
output_usd_per_mtok = 0.60
"""


class DemoError(Exception):
    """Something did not start or answer; the message says what, with its log."""


@dataclass(frozen=True, slots=True)
class Demo:
    """Where everything is once it runs."""

    folder: Path
    config: Path
    listen: str
    key: str

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every process of the demo."""
        return {**os.environ, KEY_VARIABLE: self.key}


def command(*words: str) -> list[str]:
    """Return the argument list of a `modelux` command, run by this very interpreter."""
    return [sys.executable, "-m", "modelux.cli.main", *words]


def free_address() -> str:
    """Return a loopback address that nobody listens on."""
    with socket.create_server((HOST, 0)) as listener:
        return f"{HOST}:{listener.getsockname()[1]}"


def usual_address() -> str:
    """Return the documented address, or a free one where that is taken."""
    with contextlib.suppress(OSError), socket.create_server((HOST, USUAL_PORT)):
        return f"{HOST}:{USUAL_PORT}"
    return free_address()


def prepare(folder: Path, listen: str, silent: str, sound: str) -> Demo:
    """Write the configuration of the demo into `folder`."""
    config = folder / "modelux.toml"
    config.write_text(
        CONFIG.format(
            listen=listen,
            control=free_address(),
            data_dir=folder / "data",
            state_dir=folder / "state",
            silent=silent,
            sound=sound,
            key_variable=KEY_VARIABLE,
        ),
        "utf-8",
    )
    return Demo(folder, config, listen, f"mlx_sk_{secrets.token_urlsafe(24)}")


@contextlib.contextmanager
def started(name: str, words: Sequence[str], demo: Demo, address: str) -> Iterator[None]:
    """Run a command until the block ends, once it accepts connections at `address`.

    Raises:
        DemoError: It ended, or did not listen in time.
    """
    log_path = demo.folder / f"{name}.log"
    with log_path.open("wb") as log:
        # Its own session: Ctrl-C reaches this script only, which then ends things in order.
        process = subprocess.Popen(
            words, stdout=log, stderr=log, env=demo.environment, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_S
        while not is_listening(address):
            if process.poll() is not None or time.monotonic() > deadline:
                said = log_path.read_text("utf-8", "replace").strip()
                raise DemoError(f"{name} did not start at {address}:\n{said}")
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def is_listening(address: str) -> bool:
    """Return whether something accepts connections at `address`."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def ask(demo: Demo) -> str:
    """Send one streamed chat completion, print the answer as it arrives; return the request id.

    Raises:
        DemoError: Anything but a complete stream.
    """
    host, _, port = demo.listen.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=REQUEST_S)
    question = [{"role": "user", "content": QUESTION}]
    body = json.dumps({"model": "@production", "stream": True, "messages": question})
    headers = {"Authorization": f"Bearer {demo.key}", "Content-Type": "application/json"}
    with contextlib.closing(connection):
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise DemoError(f"HTTP {answer.status}: {answer.read().decode('utf-8', 'replace')}")
        request_id = answer.getheader("X-Modelux-Request-Id") or ""
        show("  ")
        for line in iter(answer.readline, b""):
            data = line.removeprefix(b"data: ").strip()
            if data == b"[DONE]":
                show("\n")
                return request_id
            if data:
                show(text_of(json.loads(data)))
    raise DemoError("the stream ended without its end marker")


def text_of(chunk: Mapping[str, list[Mapping[str, Mapping[str, str | None]]]]) -> str:
    """Return the text of one chunk of a streamed chat completion."""
    return "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])


def trace(demo: Demo, request_id: str) -> str:
    """Return what `modelux logs --trace` prints for a request, once it is stored.

    Raises:
        DemoError: It did not appear in time.
    """
    words = command("logs", "--trace", request_id, "--config", str(demo.config))
    deadline = time.monotonic() + TRACE_S
    while True:
        done = subprocess.run(
            words, capture_output=True, text=True, env=demo.environment, check=False
        )
        if done.returncode == 0 and done.stdout:
            return done.stdout
        if time.monotonic() > deadline:
            raise DemoError(f"no trace of {request_id}: {done.stderr or done.stdout}")
        time.sleep(0.1)


def budgets(demo: Demo) -> str:
    """Return what `modelux budgets` prints.

    Raises:
        DemoError: It printed nothing.
    """
    words = command("budgets", "--config", str(demo.config))
    done = subprocess.run(
        words, capture_output=True, text=True, env=demo.environment, check=False
    )
    if done.returncode != 0 or not done.stdout:
        raise DemoError(f"no budgets: {done.stderr or done.stdout}")
    return done.stdout


def show(text: str) -> None:
    """Print at once, as a stream is to be seen while it arrives."""
    sys.stdout.write(text)
    sys.stdout.flush()


def demonstrate(*, once: bool, listen: str) -> None:
    """Run the demo to its end, or until it is interrupted.

    Raises:
        DemoError: A part of it did not work.
    """
    # In memory where there is such a place, as the gateway's shared state is to be.
    memory = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="modelux-run-", dir=memory))
    silent, sound = free_address(), free_address()
    demo = prepare(folder, listen, silent, sound)
    # The pace of a real model, so that the stream can be seen to be one.
    pace = ["--first-byte-ms", "120", "--token-ms", "25", "--tokens", "40"]
    to_silent = command("simulate", "--listen", silent, "--fault", "stall_headers")
    to_sound = command("simulate", "--listen", sound, *pace)
    serve = command("serve", "--config", str(demo.config))
    try:
        with (
            started("silent", to_silent, demo, silent),
            started("sound", to_sound, demo, sound),
            started("serve", serve, demo, listen),
        ):
            show(
                f"A request through http://{listen}/v1 to `@production`, whose first provider\n"
            )
            show("never answers. In two seconds modelux goes on to the second:\n\n")
            request_id = ask(demo)
            show(f"\n{trace(demo, request_id)}\n")
            show("The first provider may have billed what it never answered: that was held\n")
            show("before a byte left, and is charged.\n\n")
            show(f"{budgets(demo)}\n")
            if not once:
                show(closing_words(demo))
                signal.pause()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def closing_words(demo: Demo) -> str:
    """Return how to go on from here."""
    body = '{"model": "@production", "stream": true, "messages": '
    body += '[{"role": "user", "content": "Hello"}]}'
    return (
        f"Still serving; Ctrl-C ends it. Base URL http://{demo.listen}/v1, key {demo.key}\n\n"
        f"  curl -N http://{demo.listen}/v1/chat/completions \\\n"
        f"    -H 'Authorization: Bearer {demo.key}' \\\n"
        f"    -H 'Content-Type: application/json' \\\n"
        f"    -d '{body}'\n\n"
        f"  .venv/bin/modelux logs --follow --config {demo.config}\n\n"
        f"For your own providers set one of {', '.join(PROVIDER_VARIABLES)} and run\n"
        "`make run` again, or write a modelux.toml with `.venv/bin/modelux init`.\n"
    )


def interrupt(_signal: int, _frame: FrameType | None) -> None:
    """End as Ctrl-C does, so that what was started is ended too."""
    raise KeyboardInterrupt


def main() -> int:
    """Serve real providers if there is a key for one, else show the demo."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--once", action="store_true", help="end after the trace")
    parser.add_argument("--listen", metavar="HOST:PORT", help="where the gateway listens")
    args = parser.parse_args()
    if not args.once and any(os.environ.get(name) for name in PROVIDER_VARIABLES):
        words = ["--listen", args.listen] if args.listen else []
        os.execv(sys.executable, command("serve", *words))
    # Both by hand: what a shell starts in the background ignores SIGINT unless told otherwise.
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    try:
        demonstrate(once=args.once, listen=args.listen or usual_address())
    except DemoError as failure:
        sys.stderr.write(f"make run: {failure}\n")
        return 1
    except KeyboardInterrupt:
        show("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
