"""`modelux init`: write a commented `modelux.toml` for the provider keys in the environment."""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from modelux.cli.deployment import write
from modelux.config.file import FILE_NAME, FILE_VARIABLE, STARTERS
from modelux.errors import RefusedError, StoreError
from modelux.supervisor.configuration import ollama_models

_HEAD: Final = """\
# modelux: routes, providers and keys. `modelux check` validates this file and says what it
# would change; `modelux check --apply` makes a running server load it.

[server]
listen = "127.0.0.1:8080"           # where your apps send their requests
control_listen = "127.0.0.1:8081"   # health and metrics; never reachable where apps are
data_dir = "./modelux-data"         # versions, keys, audit log, traces

# Providers. A secret is named and never written here: "env:NAME" or "file:PATH".
"""

_OTHERS: Final = """\
# Anything that speaks OpenAI's protocol:
# [providers.vllm]
# vendor = "openai_compatible"
# base_url = "http://127.0.0.1:8000/v1"
# models = ["llama-3.3-70b"]        # where given, all that may be called there

# Projects and their keys. Without a project here there is one, `default`, whose first key is
# made and shown once by `modelux serve`; `modelux keys create` makes more.
# [projects.default]
# keys = ["env:MODELUX_KEY", { id = "ci", key = "env:CI_KEY", rpm = 120 }]

# Routes: what `"model": "@production"` means. The next target is tried when one fails, until a
# first byte of an answer has reached the caller.
"""

_ROUTE: Final = """\
[routes.production]
strategy = "fallback"
attempts = [
{attempts}]
retry_on = ["429", "5xx", "timeout", "connect", "reset", "auth"]
"""

_TAIL: Final = """
# Prices of models that the catalogue does not know, in USD a million tokens:
# [prices."vllm/llama-3.3-70b"]
# input_usd_per_mtok = 0.10
# output_usd_per_mtok = 0.40
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--force", action="store_true", help="replace a file that is there")


def run(args: argparse.Namespace) -> int:
    """Write the file; return the exit code.

    Raises:
        RefusedError: There is a file already, or no provider to write it for.
        StoreError: The file cannot be written.
    """
    path = args.config or Path(args.environ.get(FILE_VARIABLE) or FILE_NAME)
    text = file_text(args.environ, ollama_models() or ())
    try:
        write_file(path, text, is_replacing=args.force)
    except FileExistsError:
        raise RefusedError(f"{path}: is there already; `--force` replaces it") from None
    except OSError as failure:
        raise StoreError(f"{path}: cannot be written: {failure.strerror}") from failure
    write(f"wrote {path}; next: modelux serve")
    return 0


def file_text(env: Mapping[str, str], local_models: Sequence[str]) -> str:
    """Return a commented configuration for what there is.

    Raises:
        RefusedError: There is no provider key and no local model.
    """
    providers: list[str] = []
    attempts: list[str] = []
    for name, (variable, model) in STARTERS.items():
        if env.get(variable):
            providers.append(f'[providers.{name}]\napi_key = "env:{variable}"\n')
            attempts.append(f'  {{ model = "{name}/{model}", timeout_ms = 30000 }},\n')
        else:
            providers.append(f'# [providers.{name}]\n# api_key = "env:{variable}"\n')
    if local_models:
        providers.append("[providers.ollama]   # no key, price 0\n")
        attempts.append(f"  {{ model = {_quoted(f'ollama/{local_models[0]}')} }},\n")
    if not attempts:
        names = ", ".join(variable for variable, _ in STARTERS.values())
        raise RefusedError(
            f"no provider: none of {names} is set and no Ollama with a model answers at "
            "127.0.0.1:11434; set one of the variables and run `modelux init` again"
        )
    route = _ROUTE.format(attempts="".join(attempts))
    return "\n".join([_HEAD, *providers, _OTHERS, route]) + _TAIL


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def write_file(path: Path, text: str, *, is_replacing: bool) -> None:
    """Write a file; one that is replaced is so in one step.

    Raises:
        FileExistsError: It is there, and is not to be replaced.
        OSError: It cannot be written.
    """
    if not is_replacing:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
